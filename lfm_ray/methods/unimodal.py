"""Unimodal training: what each modality reaches alone (the first rows of the paper's Table 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from lfm_ray.config import LossSettings
from lfm_ray.losses import classification_loss
from lfm_ray.methods.base import Losses, Method
from lfm_ray.models.classifier import Outputs


class Unimodal(Method):
    """Each modality is trained on its own labels only; alpha plays no part.

    With the fusion head `sum` no parameter serves two modalities, so one run gives what as many
    separate runs would give. The fused prediction is a late fusion of independent models.
    """

    matches_embeddings = False

    def loss(self, outputs: Outputs, labels: Tensor, alpha: float, settings: LossSettings) -> Losses:
        """The sum over modalities of the cross-entropy of its own logits."""
        total = torch.stack([classification_loss(logits, labels) for logits in outputs.unimodal.values()]).sum()
        return Losses(total, total, total.new_zeros(()))
