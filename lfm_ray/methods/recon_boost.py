"""ReconBoost: modalities take turns correcting the predictions of the others.

Hua et al., "ReconBoost: boosting can achieve modality reconcilement", ICML 2024. Code read:
huacong/ReconBoost at 14ab57a. The same (tests/parity): the boosting loss and its gradient, the value of the
consolidation, the order of turns, and with `model.fusion: boosted` the head and the trained rate. The loss
is theirs times C / w1, where C is the number of classes and w1 the weight of the cross-entropy; to have
the size of their steps, multiply the learning rate by w1 / C. Different: the memory consolidation has a
gradient, as in the paper (the code detaches both sides, so there it has no effect; `consolidation: 0` is
its training); the optimiser keeps its state over all stages (a new one for each there); no encoder has
been trained before. In the first stage without such encoders their others are one random number, which
makes the loss a multiple of the cross-entropy; ours are what the untrained modalities say.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from lfm_ray.methods.base import Method, State
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Boosted


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
    source: ClassVar[str] = "ICML 2024"
    only_classes: ClassVar[str] = "boosts predictions of classes"
    cannot_weigh: ClassVar[str] = "weighs samples itself, by what the other modalities know of them"
    reconcilement: float = Field(
        0.2,
        ge=0,
        le=1,
        description="how far samples that the others know are down-weighted (authors: 1/5, AVE and ModelNet40 1/4)",
    )
    consolidation: float = Field(
        0.5, ge=0, le=100, description="the pull towards the modality of the previous turn (authors: 0.5)"
    )
    cross_entropy_weight: float = Field(
        5.0, gt=0, le=100, description="w1: the pull's weight is consolidation C / w1 (authors: 5, AVE, ModelNet40 4)"
    )
    stage_epochs: int = Field(1, ge=0, description="epochs per turn of a modality (authors: 4); 0: joint training")
    rectify_epochs: int = Field(1, ge=0, description="epochs after each turn that train all modalities (authors: 4)")
    heads: ClassVar[tuple[str, ...]] = ("sum", "boosted")
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
        head = state.model.head
        rate = head.rate if isinstance(head, Boosted) else 1.0
        loss = boosting_loss(own, outputs.fused - rate * own, labels, self.reconcilement)
        first = state.epoch <= self.stage_epochs  # there is nothing to preserve yet
        weight = self.consolidation * own.shape[1] / self.cross_entropy_weight
        return loss if first else loss + weight * memory_loss(own, before)

    def gradient(self, terms: list[dict[str, Tensor]], state: State) -> dict[str, Tensor]:
        """During a modality's turn, the gradient of its own parameters and of a classifier that all share."""
        if (turn := self.turn(state)) is None:
            return terms[0]
        own = (*(f"{part}.{turn[0]}." for part in ("encoders", "projections", "head.classifiers")), "head.classifier.")
        return {name: value for name, value in terms[0].items() if name.startswith(own) or name == "log_tau"}
