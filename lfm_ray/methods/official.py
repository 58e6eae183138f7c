"""The loss of the authors' published code, for reproducing its numbers.

Yang et al., "Facilitating multimodal classification via dynamically learning modality gap", NeurIPS 2024. Code
read: njustkmg/NeurIPS24-LFM at ad44fa0. The same (tests/parity): the loss and its gradient, and with
`alpha.strategy: official` whole trainings, step by step. search_spaces/crema_d_official.yaml has all settings.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss, kl_to_mean, mean_over_pairs
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import mean_of_present


class Official(Method):
    """The fused logits are the mean of the unimodal ones; the loss is 2 L_Total with `kl_to_mean` matching."""

    name: Literal["official"] = "official"
    source: ClassVar[str] = "the authors' code of LFM"
    only_classes: ClassVar[str] = "matches softmaxed predictions of classes"
    matches_embeddings: ClassVar[bool] = False
    takes_missing: ClassVar[bool] = True

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """2 L_Total; `loss.matching` and tau have no effect."""
        classification = classification_loss(self.predict(outputs), labels, state.settings)
        matching = mean_over_pairs(kl_to_mean, outputs.unimodal, outputs)
        return Losses(2 * ((1 - state.alpha) * classification + state.alpha * matching), classification, matching)

    def predict(self, outputs: Outputs) -> Tensor:
        """The mean of the unimodal logits, (B, C), of the modalities that a sample has."""
        return mean_of_present(outputs.unimodal, outputs.present)
