"""ReconBoost: modalities take turns correcting the predictions of the others.

Hua et al., "ReconBoost: boosting can achieve modality reconcilement", ICML 2024; huacong/ReconBoost.
Differences: the loss is divided by the constants of the published code (the weight of the
cross-entropy, the number of classes), which leaves the ratio of its two weights, 1 : 5, as
`reconcilement`; the memory consolidation has a gradient, as in the paper (the published code detaches
both sides, so there it has no effect); there are no pretrained encoders, and no trained rate.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from lfm_ray.methods.base import Method, State
from lfm_ray.models.classifier import Outputs


def boosting_loss(own: Tensor, others: Tensor, labels: Tensor, reconcilement: float) -> Tensor:
    """The loss of the modality whose turn it is, mean over the batch.

    own: its logits (B, C); others: the sum of the others' logits, taken as constant; labels: (B,).
    The cross-entropy of each sample is weighted by 1 - reconcilement q_y, with q = softmax(others): with
    reconcilement 1, the gradient with respect to `own` is (1 - q_y)(p - onehot), what the others leave.
    """
    known = F.softmax(others.detach(), dim=1).gather(1, labels[:, None]).squeeze(1)
    return ((1 - reconcilement * known) * F.cross_entropy(own, labels, reduction="none")).mean()


def memory_loss(own: Tensor, before: Tensor) -> Tensor:
    """The mean squared difference between two modalities' probabilities; `before`, (B, C), is constant."""
    return F.mse_loss(F.softmax(own, dim=1), F.softmax(before.detach(), dim=1))


class ReconBoost(Method):
    """Alternating stages: one modality boosts the others, then all are rectified together, then the next one."""

    name: Literal["recon_boost"] = "recon_boost"
    reconcilement: float = Field(0.2, ge=0, le=1, description="how far samples that the others know are down-weighted")
    consolidation: float = Field(
        0.5, ge=0, le=100, description="weight of the pull towards the modality of the previous turn"
    )
    stage_epochs: int = Field(1, ge=0, description="epochs per turn of a modality (authors: 4); 0: joint training")
    rectify_epochs: int = Field(1, ge=0, description="epochs after each turn that train all modalities (authors: 4)")
    heads: ClassVar[tuple[str, ...]] = ("sum",)
    apart: ClassVar[bool] = True

    @model_validator(mode="after")
    def _stages_have_epochs(self) -> Self:
        if not self.stage_epochs and not self.rectify_epochs:
            raise ValueError("stage_epochs and rectify_epochs cannot both be 0")
        return self

    def turn(self, state: State) -> tuple[str, str] | None:
        """The modality whose turn it is and the one before it; None while all are rectified."""
        stage, place = divmod(state.epoch - 1, self.stage_epochs + self.rectify_epochs)
        names = list(state.model.encoders)
        return (names[stage % len(names)], names[(stage - 1) % len(names)]) if place < self.stage_epochs else None

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The boosting loss of the modality whose turn it is, or the cross-entropy of the sum."""
        turn = self.turn(state)
        if turn is None:
            return super().classification(outputs, labels, state)
        own, before = (outputs.unimodal[name] for name in turn)
        loss = boosting_loss(own, outputs.fused - own, labels, self.reconcilement)
        first = state.epoch <= self.stage_epochs  # there is nothing to preserve yet
        return loss if first else loss + self.consolidation * memory_loss(own, before)

    def gradient(self, terms: list[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
        """During a modality's turn, the gradient of its own parameters only."""
        if (turn := self.turn(state)) is None:
            return terms[0]
        own = tuple(f"{part}.{turn[0]}." for part in ("encoders", "projections", "head.classifiers"))
        return {name: value for name, value in terms[0].items() if name.startswith(own) or name == "log_tau"}
