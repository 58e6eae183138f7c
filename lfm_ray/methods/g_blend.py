"""G-Blend: gradient blending.

Wang, Tran and Feiszli, "What makes training multi-modal classification networks hard?", CVPR 2020. Code
read: facebookresearch/VMZ at 4cc542d, which has the weighted loss, with fixed weights (its tutorial
gradient_blending.md lists them). The same (tests/parity): that loss and its gradient. The authors did not
publish the estimator of the weights; ours is the paper's, and equals that of another comparison
(GeWu-Lab/BalanceBenchmark at 4c1482f) where all losses fall. Where one rises, that one takes the absolute
value, ours gives no weight. The length of a super-epoch is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, field_validator
from torch import Tensor

from lfm_ray.methods.base import Method, Row, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs

FUSED = "fused"
SMALLEST_CHANGE = 1e-3  # of the overfitting: smaller values would give one loss all the weight


class GBlend(Method):
    """L_CLS = sum_k w_k L_k over the single modalities and the fusion, weighted by how much each overfits.

    w_k is proportional to G_k / O_k^2 (the paper's proposition 1), where, between two epochs, G_k is the
    decrease of the validation loss of k, and O_k the growth of its overfitting, validation minus training
    loss. The w_k add up to 1; before the first estimate, they are equal.

    With `weights`, the paper's offline form: take them from `blend_weights` of the curves of earlier runs
    (`method: unimodal`, and joint training). Otherwise online: weights are re-estimated every
    `super_epoch` epochs. For the estimate, the paper trains a copy of the model for each loss; here the
    curves are those of the model itself, at no cost. A loss that has not fallen gets weight 0, and O_k
    counts as at least 0.001.
    """

    name: Literal["g_blend"] = "g_blend"
    source: ClassVar[str] = "CVPR 2020"
    heads: ClassVar[tuple[str, ...]] = ("multitask", "sum", "concat")
    weights: dict[str, NonNegativeFloat] | None = Field(
        None, description="modality or fused -> its weight, default 0; null: estimated online"
    )
    super_epoch: int = Field(5, ge=1, description="epochs between estimates")

    @field_validator("weights")
    @classmethod
    def _not_all_zero(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights is not None and not any(weights.values()):
            raise ValueError("at least one weight must be above 0")
        return weights

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Checks that every weight belongs to a modality or `fused`."""
        self.check_names("weights", self.weights or {}, [FUSED, *modalities])

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The blended losses; losses with weight 0 are not computed."""
        logits = {FUSED: outputs.fused, **outputs.unimodal}
        loss = outputs.fused.new_zeros(())
        for name, weight in self.blended(list(logits), state).items():
            if weight:
                loss = loss + weight * classification_loss(logits[name], labels, state.settings)
        return loss

    def blended(self, names: list[str], state: State) -> dict[str, float]:
        """The weight w of each loss in this step."""
        if self.weights is not None:
            return {name: self.weights.get(name, 0.0) for name in names}
        return {name: state.memory.get(f"weight/{name}", 1 / len(names)) for name in names}

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Accumulates the training losses of the epoch."""
        if self.weights is None:
            for name, logits in {FUSED: outputs.fused, **outputs.unimodal}.items():
                key = f"sum/{name}"
                state.memory[key] = state.memory.get(key, 0.0) + classification_loss(logits, labels)
            state.memory["steps"] = state.memory.get("steps", 0) + 1

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Estimates new weights at the end of a super-epoch; returns those of the next step."""
        names, memory = [FUSED, *state.model.encoders], state.memory
        if self.weights is None:
            steps = memory.pop("steps")
            train = {name: float(memory.pop(f"sum/{name}")) / steps for name in names}
            now = {name: (train[name], metrics[f"val/{name}/loss"]) for name in names}
            if state.epoch > 1 and (state.epoch - 1) % self.super_epoch == 0:
                before = {name: (memory[f"train/{name}"], memory[f"val/{name}"]) for name in names}
                memory |= {f"weight/{name}": weight for name, weight in blend_weights(before, now).items()}
            if (state.epoch - 1) % self.super_epoch == 0:
                memory |= {f"train/{name}": loss for name, (loss, _) in now.items()}
                memory |= {f"val/{name}": loss for name, (_, loss) in now.items()}
        return {f"weight/{name}": weight for name, weight in self.blended(names, state).items()}


def blend_weights(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """G / O^2 of each loss, normalised to sum to 1; empty if no validation loss has fallen.

    before, after: name -> (training loss, validation loss) at two epochs.
    """
    ratios = {}
    for name, (train, val) in after.items():
        generalisation = before[name][1] - val
        overfitting = (val - train) - (before[name][1] - before[name][0])
        ratios[name] = max(generalisation, 0.0) / max(abs(overfitting), SMALLEST_CHANGE) ** 2
    total = sum(ratios.values())
    return {name: ratio / total for name, ratio in ratios.items()} if total else {}
