"""What a training method is: hooks that the loop calls, each with a default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lfm_ray.config import LossSettings
from lfm_ray.losses import ConvexPart
from lfm_ray.models.classifier import Outputs


@dataclass(frozen=True)
class Losses:
    """The losses of one global batch, scalars: total is what theta is trained on.

    `parts` gives total as a sum of convex parts, for the Gauss-Newton product; None where the
    method offers none.
    """

    total: Tensor
    classification: Tensor
    matching: Tensor
    parts: Callable[[], list[ConvexPart]] | None = None


class Method:
    """A training method. Derive from it, override what differs, add it to `METHODS`."""

    matches_embeddings = True
    """Whether `loss.matching: infonce` has an effect; a projection head and a learned tau are built only then."""

    def loss(self, outputs: Outputs, labels: Tensor, alpha: float, settings: LossSettings) -> Losses:
        """The losses of a global batch: outputs of B samples, labels (B,) int64, alpha in [0, 1]."""
        raise NotImplementedError

    def predict(self, outputs: Outputs) -> Tensor:
        """Logits (B, C) by which the multimodal model is judged."""
        return outputs.fused
