"""Sample-level modality valuation: samples are repeated with the modality alone that contributes too little to them.

Wei et al., "Enhancing multimodal cooperation via sample-level modality valuation", CVPR 2024. Code read:
GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation at 7ed12b0 (code/sample_level.py, code/datasets/dataloader.py,
code/models/models.py). The same (tests/parity): contributions, how often each sample is repeated and with which
modality, the loss of all of these and its gradient. Different: the code values all samples after each epoch, in
evaluation mode, and makes the epoch so much longer; here a sample is valued at its own step, and the repeated ones are
in the same batch, so that an epoch has as many steps as any other method's. Its coarser variant, which repeats the
same share of all samples with the weaker modality, is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.models.classifier import Outputs


def contributions(fused: Tensor, alone: Tensor, labels: Tensor) -> Tensor:
    """Shapley values of both modalities for each sample, (2, B), where what counts is a right prediction.

    fused: (B, C), logits of both; alone: (2, B, C), of each with zeros for the other. Both together are worth 2 if
    they are right, one alone is worth 1, nothing 0.
    """
    both, single = 2 * (fused.argmax(dim=1) == labels), (alone.argmax(dim=2) == labels).long()
    return (single + both - single.flip(0)) / 2


def copies(values: Tensor) -> Tensor:
    """How often a sample is repeated with a modality of this value: 3, 2, 1 or 0 times for -1/2, 0, 1/2 or more."""
    return (2 * (1 - values)).clamp_min(0).round()


class Valuation(Method):
    """What a modality adds to the prediction is valued for each sample; where it is little, the sample comes again.

    phi_j is the Shapley value of modality j in a sample. Beside each sample there are 2 (1 - phi_j) copies of it with
    zeros for the other modality's embedding, none if phi_j is above 1. L_CLS is the mean cross-entropy of all samples
    and copies.
    """

    name: Literal["valuation"] = "valuation"
    source: ClassVar[str] = "CVPR 2024"
    only_classes: ClassVar[str] = "values right predictions of classes"
    exactly_two: ClassVar[bool] = True
    first_epoch: int | None = Field(
        6, ge=1, description="epoch, from 1, in which copies start (authors: 6, after 5 of joint training); null: none"
    )

    def alone(self, outputs: Outputs, state: State) -> Tensor:
        """The fused logits of each modality with zeros for the other, (2, B, C)."""
        z = outputs.embeddings
        zeros = {name: torch.zeros_like(one) for name, one in z.items()}
        return torch.stack([state.model.head({**zeros, name: one})[0] for name, one in z.items()])

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The mean cross-entropy of the samples and their copies."""
        if self.first_epoch is None or state.epoch < self.first_epoch:
            return super().classification(outputs, labels, state)
        alone, smoothing = self.alone(outputs, state), state.settings.uniform_labels
        repeated = copies(contributions(outputs.fused, alone, labels)).to(alone)

        def of_each(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)

        both, single = of_each(outputs.fused), torch.stack([of_each(logits) for logits in alone])
        return (both.sum() + (repeated * single).sum()) / (len(labels) + repeated.sum())

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """The default loss, except that the outer loss is that of the samples as they are."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))
