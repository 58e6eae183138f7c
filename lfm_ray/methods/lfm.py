"""LFM: classification and modality matching, weighed by alpha (the paper's own method)."""

from __future__ import annotations

from torch import Tensor

from lfm_ray.config import LossSettings
from lfm_ray.losses import ConvexPart, classification_loss, matching_loss, matching_parts
from lfm_ray.methods.base import Losses, Method
from lfm_ray.models.classifier import Outputs


class LFM(Method):
    """L_Total = (1 - alpha) L_CLS + alpha L_MM, eq. (1). alpha = 0 is plain joint training."""

    def loss(self, outputs: Outputs, labels: Tensor, alpha: float, settings: LossSettings) -> Losses:
        """L_CLS of the fused logits, L_MM between the modalities."""
        classification = classification_loss(outputs.fused, labels, settings.uniform_labels)
        matching = matching_loss(outputs, settings)
        total = (1 - alpha) * classification + alpha * matching

        def parts() -> list[ConvexPart]:
            def of_fused(logits: Tensor) -> Tensor:
                return classification_loss(logits, labels, settings.uniform_labels)

            return [ConvexPart(1 - alpha, -1.0, outputs.fused, of_fused), *matching_parts(outputs, alpha, settings)]

        return Losses(total, classification, matching, parts)
