"""DGL: the modalities' encoders learn from their own logits alone, and the fusion from what they give.

Wei et al., "Boosting multimodal learning via disentangled gradient learning", ICCV 2025. Code read:
shicaiwei123/ICCV2025-GDL at b72a55f (main_dgl.py, models/fusion_modules.py). The same (tests/parity), with the
heads `concat` and `sum`: logits, losses and every gradient. Different: their gradients are clipped to norm 40,
ours as `optimizer.gradient_clip` says; FiLM and gated fusion, which that code has as well, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Head, Sum


def alone(head: Head, embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The logits (B, C) of each modality from its embedding (B, d): a constant head's, zeros for the other modalities.

    The head `sum` has logits of single modalities, without the biases of the others.
    """
    constant = {name: parameter.detach() for name, parameter in head.named_parameters()}
    if isinstance(head, Sum):
        return functional_call(head, constant, (embeddings,))[1]
    zeros = {name: torch.zeros_like(z) for name, z in embeddings.items()}
    return {name: functional_call(head, constant, ({**zeros, name: z},))[0] for name, z in embeddings.items()}


class DGL(Method):
    """The multimodal loss trains the fusion head only, and each encoder has the loss of its own logits.

    L_CLS = CE(h(sg z)) + a sum_j CE(sg h(z_j)): h is the head, h(z_j) its logits where the other embeddings are
    zero, and sg stops the gradient. So no modality holds another's gradient back, and what single modalities
    learn does not disturb the fusion.
    """

    name: Literal["dgl"] = "dgl"
    source: ClassVar[str] = "ICCV 2025"
    heads: ClassVar[tuple[str, ...]] = ("concat", "sum")
    unimodal_weight: float = Field(4.0, gt=0, le=100, description="a, of the modalities' losses (authors: 4 and 5)")

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The loss of the fusion, and the modalities' times a."""
        head, settings = state.model.head, state.settings
        fused, _ = head({name: z.detach() for name, z in outputs.embeddings.items()})
        each = [classification_loss(logits, labels, settings) for logits in alone(head, outputs.embeddings).values()]
        return classification_loss(fused, labels, settings) + self.unimodal_weight * torch.stack(each).sum()

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """The default loss, except that the outer loss is that of the fused logits."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))
