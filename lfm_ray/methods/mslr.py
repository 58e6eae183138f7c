"""MSLR: modality-specific learning rates.

Yao and Mihalcea, "Modality-specific learning rates for effective multimodal additive late-fusion",
Findings of ACL 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, PositiveFloat

from lfm_ray.methods.base import Method, State


class MSLR(Method):
    """Each modality is trained with its own learning rate: of its encoder, projection head and classifier.

    This is the paper's first strategy (keep the rate that is best for the modality alone). Rates are
    given as factors of `optimizer.learning_rate`, and follow its schedule.
    """

    name: Literal["mslr"] = "mslr"
    factors: dict[str, PositiveFloat] = Field(
        {}, description="modality -> its learning rate over optimizer.learning_rate; 1 where it is left out"
    )

    def check_modalities(self, modalities: Sequence[str]) -> None:
        """Refuses a factor of what is no modality."""
        self.check_names("factors", self.factors, modalities)

    def learning_rate_factors(self, state: State) -> Mapping[str, float]:
        """The factors."""
        return self.factors
