"""MSLR: modality-specific learning rates.

Yao and Mihalcea, "Modality-specific learning rates for effective multimodal additive late-fusion",
Findings of ACL 2022. No code was published. Of the paper's three strategies there are `keep` and
`dynamic`; the latter's formula and its 5 epochs are as others have implemented it from the paper.
The third, `smooth`, is left out: no source for its formula was at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, PositiveFloat

from lfm_ray.methods.base import Method, Row, State


class MSLR(Method):
    """Each modality is trained with its own learning rate: of its encoder, projection head and classifier.

    `keep`: the rate that is best for the modality alone, as long as the run. `dynamic`: it begins with
    that rate, which at the end of every `history` epochs is multiplied by the modality's validation
    accuracy over the mean of these epochs' accuracies: what still gains goes faster, what falls slower.
    Rates are given as factors of `optimizer.learning_rate`, and follow its schedule.
    """

    name: Literal["mslr"] = "mslr"
    strategy: Literal["keep", "dynamic"] = Field("keep", description="of the paper's strategies")
    factors: dict[str, PositiveFloat] = Field(
        {}, description="modality -> its learning rate over optimizer.learning_rate; 1 where it is left out"
    )
    history: int = Field(5, ge=2, description="with dynamic: epochs between two changes, and of the mean")

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Refuses a factor of what is no modality."""
        self.check_names("factors", self.factors, modalities)

    def learning_rate_factors(self, state: State) -> Mapping[str, float]:
        """The factors, changed by what each modality has gained since."""
        return {
            name: self.factors.get(name, 1.0) * state.memory.get(f"gain/{name}", 1.0) for name in state.model.encoders
        }

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Compares each modality with its own last epochs; the row holds the factors of the next step."""
        if self.strategy == "keep":
            return {}
        memory = state.memory
        for name in state.model.encoders:
            accuracy = metrics[f"val/{name}/accuracy"]
            total = memory.pop(f"accuracies/{name}", 0.0) + accuracy
            if state.epoch % self.history:
                memory[f"accuracies/{name}"] = total
            elif total:
                memory[f"gain/{name}"] = memory.get(f"gain/{name}", 1.0) * accuracy / (total / self.history)
        factors = self.learning_rate_factors(state)
        return {f"{name}/learning_rate_factor": value for name, value in factors.items()}
