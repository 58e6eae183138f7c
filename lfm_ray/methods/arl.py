"""ARL: encoders learn in proportion to how sure their modality is, not equally.

Wei et al., "Improving multimodal learning via imbalanced learning", ICCV 2025. Code read: shicaiwei123/ICCV2025-ARL at
358af4f (main_arl_variance.py, models/fusion_modules.py, models/backbone.py). The same (tests/parity): the modalities'
logits, the loss, the weights that are computed, and with `weights: equal` the gradients. Different: the published
program ends at an `EOFError` of its own before it trains, and multiplies gradients by a tuple (its parts were run
without these); it computes the weights, and then leaves both at 0.5, so that every encoder's gradient is multiplied
by 1.5 (`weights: equal`). By default
ours uses the weights that are computed, as in the paper. Their gradients are clipped to norm 40, ours as
`optimizer.gradient_clip` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs

LEAST_ENTROPY = 0.3  # lower bound of a modality's share of the entropies


class ARL(Method):
    """The gradient of each encoder is weighted by the certainty of its modality, beside unimodal losses.

    L_CLS = CE(fused) + gamma sum_j CE(l_j), where l_j are the fused logits with zeros for the other embedding. H_j is
    the share of modality j in the two entropies of softmax(l_j), mean over the batch and at least 0.3; v_j is the share
    of 1 / H_j; and a_j the share of mean |l_j|. The gradient of encoder j is multiplied by 1 + w_j,

        w = softmax over j of (T a_i v_j),   i the other modality.

    In the first epochs gamma is 1 and both w are 1/2.
    """

    name: Literal["arl"] = "arl"
    source: ClassVar[str] = "ICCV 2025"
    only_classes: ClassVar[str] = "weighs modalities by the entropy of their softmax"
    exactly_two: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]] = ("concat",)
    unimodal_weight: float = Field(
        4.0, ge=0, le=100, description="gamma (authors: CREMA-D 4, Kinetics-Sounds 3, AVE 5)"
    )
    sharpness: float = Field(8.0, ge=0, le=1000, description="T (authors: CREMA-D 8, Kinetics-Sounds and AVE 4)")
    first_epoch: int = Field(7, ge=1, description="epoch, from 1, in which gamma and the weights start (authors: 7)")
    weights: Literal["computed", "equal"] = Field(
        "computed", description="w_j: computed, the paper; equal, 1/2 in all epochs, the published program"
    )

    def alone(self, outputs: Outputs, state: State) -> dict[str, Tensor]:
        """l_j, (B, C), of each modality."""
        z = outputs.embeddings
        zeros = {name: torch.zeros_like(one) for name, one in z.items()}
        return {name: state.model.head({**zeros, name: one})[0] for name, one in z.items()}

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The cross-entropy of the fused logits, and gamma times the modalities' own."""
        settings = state.settings
        own = [classification_loss(logits, labels, settings) for logits in self.alone(outputs, state).values()]
        gamma = self.unimodal_weight if state.epoch >= self.first_epoch else 1.0
        return super().classification(outputs, labels, state) + gamma * torch.stack(own).sum()

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """The default loss, except that the outer loss is that of the fused logits."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))

    def computed(self, logits: Tensor) -> Tensor:
        """w of both modalities, (2,), from their logits (2, B, C)."""
        size = share(logits.abs().mean(dim=1).sum(dim=1))
        p = logits.softmax(dim=2)
        entropy = share(-(p * (p + 1e-16).log()).sum(dim=2).mean(dim=1)).clamp_min(LEAST_ENTROPY)
        return (self.sharpness * size.flip(0) * share(1 / entropy)).softmax(dim=0)

    def gradient_factors(self, outputs: Outputs, labels: Tensor, state: State) -> Mapping[str, Tensor]:
        """1 + w_j of each modality."""
        logits = torch.stack(list(self.alone(outputs, state).values()))
        equal = self.weights == "equal" or state.epoch < self.first_epoch
        w = torch.full_like(logits[:, 0, 0], 0.5) if equal else self.computed(logits)
        return dict(zip(outputs.embeddings, 1 + w, strict=True))


def share(values: Tensor) -> Tensor:
    """Values (2,) divided by their sum."""
    return values / values.sum()
