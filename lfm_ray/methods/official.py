"""The loss of the authors' published code (njustkmg/NeurIPS24-LFM), for reproducing its numbers."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss, js_divergence, mean_over_pairs
from lfm_ray.models.classifier import Outputs


class Official(Method):
    """The fused logits are the mean of the unimodal ones; the loss is 2 L_Total with JS matching.

    Settings to use with it: `alpha.strategy: official`, `optimizer: {name: sgd, learning_rate:
    0.01, momentum: 0.9, weight_decay: 1e-4, schedule: step, gradient_clip: null}`, `epochs: 200`.
    """

    name: Literal["official"] = "official"
    matches_embeddings: ClassVar[bool] = False

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """2 L_Total; `loss.matching` and tau have no effect."""
        classification = classification_loss(self.predict(outputs), labels, state.settings.uniform_labels)
        matching = mean_over_pairs(js_divergence, outputs.unimodal)
        return Losses(2 * ((1 - state.alpha) * classification + state.alpha * matching), classification, matching)

    def predict(self, outputs: Outputs) -> Tensor:
        """The mean of the unimodal logits, (B, C)."""
        return torch.stack(list(outputs.unimodal.values())).mean(dim=0)
