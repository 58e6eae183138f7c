"""MSES: modality-specific early stopping.

Fujimori et al., "Modality-specific learning rate control for multimodal classification", ACPR 2019. The
authors published no code. Read was that of a comparison, lihong2303/AGM_ICCV2023 at 5a65542 (CREMA-D). The
same (tests/parity), with `smoothing: 0.6` and its patience plus one: the losses compared, and the epochs in
which each modality stops. Different: the comparison trains the fused loss alone, where the paper's idea is
a classifier for each modality; it then sets the whole model and the optimiser back to the epoch that was
best for that modality, and ends when all have stopped; it multiplies the gradient by 0, so that momentum
and weight decay go on; and it compares losses of the test split. Its patience is 80. Our defaults are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Method, Row, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs


class MSES(Method):
    """Each modality has a classifier beside the multimodal one; a modality that overfits is frozen.

    L_CLS is the cross-entropy of the fused logits plus those of all modalities that are still learning.
    After each epoch, a modality whose own validation loss has not fallen for `patience` epochs stops:
    its loss is dropped, and its encoder and classifier have learning rate 0 from then on. The fusion
    continues to learn. With `unimodal_weight` 0, no modality ever stops, which is joint training.
    """

    name: Literal["mses"] = "mses"
    source: ClassVar[str] = "ACPR 2019"
    heads: ClassVar[tuple[str, ...]] = ("multitask", "sum", "concat")
    patience: int = Field(5, ge=1, description="epochs without a lower validation loss after which a modality stops")
    unimodal_weight: float = Field(1.0, ge=0, le=100, description="weight of the losses of the single modalities")
    smoothing: float = Field(
        0.0, ge=0, lt=1, description="weight of the epoch before in the loss that is compared (AGM's comparison: 0.6)"
    )

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The fused loss plus those of the modalities that have not stopped."""
        loss = super().classification(outputs, labels, state)
        if self.unimodal_weight:
            for modality, logits in outputs.unimodal.items():
                if not self.stopped(modality, state):
                    loss = loss + self.unimodal_weight * classification_loss(logits, labels, state.settings)
        return loss

    def learning_rate_factors(self, state: State) -> Mapping[str, float]:
        """0 for modalities that have stopped."""
        return {modality: 0.0 for modality in state.model.encoders if self.stopped(modality, state)}

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Counts epochs without progress; returns which modalities have stopped."""
        learning = [modality for modality in state.model.encoders if not self.stopped(modality, state)]
        for modality in learning:
            raw = metrics[f"val/{modality}/loss"]
            loss = self.smoothing * state.memory.get(f"loss/{modality}", raw) + (1 - self.smoothing) * raw
            if self.smoothing:
                state.memory[f"loss/{modality}"] = raw
            if loss < state.memory.get(f"lowest/{modality}", float("inf")):
                state.memory[f"lowest/{modality}"], state.memory[f"waited/{modality}"] = loss, 0
            else:
                state.memory[f"waited/{modality}"] = state.memory.get(f"waited/{modality}", 0) + 1
        return {f"{modality}/stopped": float(self.stopped(modality, state)) for modality in state.model.encoders}

    def stopped(self, modality: str, state: State) -> bool:
        """Whether a modality has stopped."""
        return self.unimodal_weight > 0 and state.memory.get(f"waited/{modality}", 0) >= self.patience
