"""QMF: weights modalities, per sample, by a confidence that is trained to follow their losses.

Zhang et al., "Provable dynamic fusion for low-quality multimodal data", ICML 2023; QingyangZhang/QMF.
Difference: the ranking loss adds the lead in hardness, as in the correctness ranking loss that the paper
builds on (Moon et al., ICML 2020). In the published code, larger values mean harder instead of more
correct, and it reverses the order but not the margin, which it subtracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lfm_ray.datasets.reading.batches import ROWS
from lfm_ray.methods.base import Method, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs

ENERGY_SCALE = 10.0  # the authors' temperature of the energy


def confidence(logits: Tensor) -> Tensor:
    """(B, C) -> (B,): the negative energy logsumexp(l), divided by the authors' temperature of 10."""
    return logits.logsumexp(dim=1) / ENERGY_SCALE


def confidence_weighted(logits: Mapping[str, Tensor]) -> Tensor:
    """sum_j w_j l_j, where w_j is the confidence of modality j, taken as constant."""
    return torch.stack([confidence(one).detach()[:, None] * one for one in logits.values()]).sum(dim=0)


def ranking_loss(confidences: Tensor, hardness: Tensor) -> Tensor:
    """The regulariser: of two samples, the harder should have a confidence lower by its lead in hardness.

    confidences, hardness: (B,), the latter from 0 to 1. Each sample is paired with the next:
    max(0, g (w_i - w_j) + |h_i - h_j|) with g = sign(h_i - h_j), mean over the batch.
    """
    lead = hardness - hardness.roll(-1)
    return (lead.sign() * (confidences - confidences.roll(-1)) + lead.abs()).clamp_min(0).mean()


class QMF(Method):
    """Losses of the confidence-weighted sum and of each modality, and a ranking loss of its confidences.

    A sample's hardness for a modality is the sum of its losses over all epochs so far, scaled to
    0 ... 1 over the samples seen so far.
    """

    name: Literal["qmf"] = "qmf"
    regulariser: float = Field(1.0, ge=0, le=100, description="weight of the ranking losses; 0: none")
    heads: ClassVar[tuple[str, ...]] = ("sum",)
    follows_samples: ClassVar[bool] = True
    cannot_learn_alpha: ClassVar[str] = "has no outer loss to learn alpha from"

    def forward(self, network: nn.Module, inputs: Mapping[str, Tensor], state: State) -> Outputs:
        """The outputs, with each sample's row number (exact up to 2^24 rows)."""
        outputs = super().forward(network, inputs, state)
        outputs.extra[ROWS] = inputs[ROWS][:, None].to(outputs.fused.dtype)
        return outputs

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The sum of all these losses."""
        losses = [classification_loss(self.predict(outputs), labels)]
        losses += [classification_loss(logits, labels) for logits in outputs.unimodal.values()]
        rows = outputs.extra[ROWS].squeeze(1).long()
        for name, sums in self._sums(outputs, labels, state).items():
            seen = sums[sums > 0]
            scaled = (sums[rows] - seen.min()) / (seen.max() - seen.min()).clamp_min(1e-12)
            losses.append(self.regulariser * ranking_loss(confidence(outputs.unimodal[name]), scaled))
        return torch.stack(losses).sum()

    def after_backward(self, outputs: Outputs, labels: Tensor, state: State) -> None:
        """Stores the samples' summed losses."""
        state.memory.update(self._sums(outputs, labels, state))

    def predict(self, outputs: Outputs) -> Tensor:
        """The confidence-weighted sum."""
        return confidence_weighted(outputs.unimodal)

    def _sums(self, outputs: Outputs, labels: Tensor, state: State) -> dict[str, Tensor]:
        """Modality -> (rows so far,): each sample's summed losses, including this batch."""
        rows, result = outputs.extra[ROWS].squeeze(1).long(), {}
        for name, logits in outputs.unimodal.items():
            losses = F.cross_entropy(logits.detach(), labels, reduction="none")
            before = state.memory.get(name, losses.new_zeros(0))
            longer = F.pad(before, (0, max(0, int(rows.max()) + 1 - len(before))))
            result[name] = longer.index_add(0, rows, losses.to(longer.dtype))
        return result
