"""MMPareto: each encoder follows a direction of descent for both the multimodal and its unimodal loss.

Wei and Hu, "MMPareto: boosting multimodal learning with innocent unimodal assistance", ICML 2024. Code
read: GeWu-Lab/MMPareto_ICML2024 at a339db3. The same (tests/parity): the weights, gradients that agree,
the heads, and with `rescale: tensor` those in conflict. Different: by default an encoder's gradient is
lengthened as a whole, as in the paper; the code lengthens each tensor on its own, so that the result need
not be a common direction of descent. Exact opposites give 0; in the code they are 0 / 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs


def common_direction(
    multimodal: Sequence[Tensor], unimodal: Sequence[Tensor], magnitude: float, by_tensor: bool = False
) -> list[Tensor]:
    """The gradient of one encoder from those of the two losses, each given as one tensor per parameter.

    2 (w g_m + (1 - w) g_u): if the two agree (positive inner product), w = 1/2, which gives their sum;
    otherwise w gives the shortest convex combination, whose inner product with either gradient is not
    negative (Désidéri, "Multiple-gradient descent algorithm", 2012). If that is shorter than g_m + g_u,
    it is scaled to the same length, or each of its tensors is (`by_tensor`); then it is scaled by
    `magnitude`, the gamma of the published code.
    """
    mms, uus = (
        torch.stack([torch.linalg.vector_norm(g) for g in one]).double().square() for one in (multimodal, unimodal)
    )
    mus = torch.stack([(m * u).sum() for m, u in zip(multimodal, unimodal, strict=True)]).double()
    mm, uu, mu = mms.sum(), uus.sum(), mus.sum()
    w = (uu - mu) / (mm + uu - 2 * mu).clamp_min(torch.finfo(mm.dtype).tiny)
    a, b, c = (mms, uus, mus) if by_tensor else (mm, uu, mu)  # (tensors,) or scalars
    square = 4 * (w**2 * a + (1 - w) ** 2 * b + 2 * w * (1 - w) * c)
    longer = ((a + b + 2 * c).clamp_min(0) / square).sqrt().clamp_min(1)
    conflict = torch.where(square > 0, 2 * longer, 0.0).expand(len(mms))
    both = magnitude * torch.where(mu > 0, torch.ones(2, 1).to(mm), torch.stack([w * conflict, (1 - w) * conflict]))
    factors = both.to(multimodal[0].dtype).unbind(dim=1)
    return [(f[0] * m).addcmul_(u, f[1]) for m, u, f in zip(multimodal, unimodal, factors, strict=True)]


class MMPareto(Method):
    """The multimodal loss and one loss per modality; outside the encoders, their gradients are added."""

    name: Literal["mmpareto"] = "mmpareto"
    source: ClassVar[str] = "ICML 2024"
    passes: ClassVar[tuple[str, str]] = ("1", "2")
    magnitude: float = Field(1.5, gt=0, le=10, description="factor of the gradient of every encoder")
    rescale: Literal["encoder", "tensor"] = Field(
        "encoder", description="what is lengthened as one in a conflict: encoder, the paper; tensor, the code"
    )
    heads: ClassVar[tuple[str, ...]] = ("multitask",)
    apart: ClassVar[bool] = True

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """L_Total of eq. (1) and, as a second term, the cross-entropies of the modalities' own logits.

        The latter share no encoder, so one backward pass gives each encoder the gradient of its own loss.
        """
        joint = super().loss(outputs, labels, state)
        own = torch.stack(
            [classification_loss(logits, labels, state.settings) for logits in outputs.unimodal.values()]
        ).sum()
        return replace(joint, total=joint.total + own, parts=None, terms=(joint.total, own))

    def gradient(self, terms: list[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
        """The sum of both gradients, except for encoders, which follow the common direction of the two."""
        joint, own = terms
        result: dict[str, Tensor] = {}
        for modality in state.model.encoders:
            names = [name for name in joint if name.startswith(f"encoders.{modality}.")]
            if names:
                pair = [joint[name] for name in names], [own[name] for name in names]
                found = common_direction(*pair, self.magnitude, self.rescale == "tensor")
                result |= dict(zip(names, found, strict=True))
        return {name: result[name] if name in result else joint[name] + own[name] for name in joint}
