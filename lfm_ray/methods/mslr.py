"""MSLR: modality-specific learning rates.

Yao and Mihalcea, "Modality-specific learning rates for effective multimodal additive late-fusion",
Findings of ACL 2022. The authors published no code. Read was that of a comparison,
lihong2303/AGM_ICCV2023 at 5a65542, for `dynamic`. The same (tests/parity): the ratio, its 5 epochs, the
factors. Different: the comparison scales gradients, not rates, so that weight decay is not scaled; it takes
accuracies of the test split; and its first factors are 0.9 for audio and 1.1 for video on CREMA-D (AV-MNIST
1.3 and 0.7; UR-Funny 0.9 audio, 1.4 visual, 0.7 text), ours 1. Of the paper's three strategies, `keep` and
`dynamic` are implemented; `smooth` is left out, since no source for its formula was available.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.errors import UserError
from lfm_ray.methods.base import Method, Row, State


class MSLR(Method):
    """Each modality has its own learning rate for its encoder, projection head and classifier.

    `keep`: the rate that is best for the modality alone, for the whole run. `dynamic`: that rate times
    the ratio of the modality's validation accuracy to its mean over the previous `history` epochs, once
    there are that many, so that modalities that improve learn faster and those that get worse, slower.
    Rates are given as factors of `optimizer.learning_rate`, and follow its schedule.
    """

    name: Literal["mslr"] = "mslr"
    source: ClassVar[str] = "Findings 2022"
    takes_missing: ClassVar[bool] = True
    strategy: Literal["keep", "dynamic"] = Field("keep", description="strategy of the paper")
    factors: dict[str, PositiveFloat] = Field(
        {}, description="modality -> its learning rate divided by optimizer.learning_rate; default 1"
    )
    history: int = Field(5, ge=1, description="with dynamic: number of epochs in the mean")

    def check_target(self, kind: TargetKind) -> None:
        """Checks that there are accuracies where they change the rates."""
        if self.strategy == "dynamic" and kind != "classes":
            raise UserError(
                f"method: mslr compares accuracies, and the dataset's targets are {kind}; set method.strategy=keep"
            )

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Checks that every factor belongs to a modality."""
        self.check_names("factors", self.factors, modalities)

    def learning_rate_factors(self, state: State) -> Mapping[str, float]:
        """The factors, adjusted by each modality's recent gain."""
        return {
            name: self.factors.get(name, 1.0) * state.memory.get(f"gain/{name}", 1.0) for name in state.model.encoders
        }

    def on_epoch_end(self, state: State, metrics: Mapping[str, float]) -> Row:
        """Compares each modality with its own recent epochs; returns the factors of the next step."""
        if self.strategy == "keep":
            return {}
        memory = state.memory
        for name in state.model.encoders:
            accuracy = metrics[f"val/{name}/accuracy"]
            before = memory.get(f"accuracies/{name}", torch.empty(0, dtype=torch.float64))
            if len(before) == self.history and before.any():
                memory[f"gain/{name}"] = accuracy / float(before.mean())
            memory[f"accuracies/{name}"] = torch.cat([before, before.new_tensor([accuracy])])[-self.history :]
        factors = self.learning_rate_factors(state)
        return {f"{name}/learning_rate_factor": value for name, value in factors.items()}
