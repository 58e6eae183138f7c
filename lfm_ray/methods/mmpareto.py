"""MMPareto: each encoder follows a direction in which the multimodal and its unimodal loss both descend.

Wei and Hu, "MMPareto: boosting multimodal learning with innocent unimodal assistance", ICML 2024;
GeWu-Lab/MMPareto_ICML2024. Differences: the gradient of an encoder is rescaled as a whole, as the
paper has it; the published code rescales each weight tensor by itself, after which the direction
need not be a common one any more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lfm_ray.losses import classification_loss
from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.models.classifier import Outputs


def common_direction(multimodal: Tensor, unimodal: Tensor, magnitude: float) -> Tensor:
    """The gradient of one encoder, flat (n,), from those of the two losses, each (n,).

    2 (w g_m + (1 - w) g_u): where the two agree (a positive inner product) w = 1/2, which is their
    sum; else w makes it the shortest convex combination, whose inner product with neither gradient
    is negative (Désidéri, "Multiple-gradient descent algorithm", 2012). It is lengthened to the length
    of g_m + g_u where it is shorter, and then by `magnitude`, the gamma of the published code.
    """
    total = multimodal + unimodal
    if multimodal @ unimodal > 0:
        return magnitude * total
    difference = multimodal - unimodal
    weight = -(difference @ unimodal) / (difference @ difference).clamp_min(torch.finfo(total.dtype).tiny)
    direction = 2 * (weight * multimodal + (1 - weight) * unimodal)
    length = direction.norm()
    longer = (total.norm() / length).clamp_min(1) if length > 0 else 0.0
    return magnitude * longer * direction


class MMPareto(Method):
    """The multimodal loss and one loss for each modality; what they share no encoder of is their sum."""

    name: Literal["mmpareto"] = "mmpareto"
    magnitude: float = Field(1.5, gt=0, le=10, description="what the gradient of every encoder is lengthened by")
    heads: ClassVar[tuple[str, ...]] = ("multitask",)
    apart: ClassVar[bool] = True

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """L_Total of eq. (1) and, as further terms, the cross-entropy of each modality's own logits."""
        joint = super().loss(outputs, labels, state)
        own = [classification_loss(logits, labels) for logits in outputs.unimodal.values()]
        total = joint.total + torch.stack(own).sum()
        return replace(joint, total=total, parts=None, terms=(joint.total, *own))

    def gradient(self, terms: list[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
        """The sum of all terms, but for the encoders, which follow the common direction of their two."""
        result = {name: torch.stack([term[name] for term in terms]).sum(dim=0) for name in terms[0]}
        for modality, own in zip(state.model.encoders, terms[1:], strict=True):
            names = [name for name in result if name.startswith(f"encoders.{modality}.")]
            if names:
                joint, alone = (torch.cat([term[name].reshape(-1) for name in names]) for term in (terms[0], own))
                pieces = common_direction(joint, alone, self.magnitude).split([result[name].numel() for name in names])
                result |= {name: piece.view_as(result[name]) for name, piece in zip(names, pieces, strict=True)}
        return result
