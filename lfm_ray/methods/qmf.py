"""QMF: weights modalities, per sample, by a confidence that is trained to follow their losses.

Zhang et al., "Provable dynamic fusion for low-quality multimodal data", ICML 2023. Code read:
QingyangZhang/QMF at fe6c4c6, its text-and-image variant. The same (tests/parity): confidences, fusion, the
samples' sums, their scaling, the ranking loss, gradients. Different: nothing that is known. Its RGB-D
variant ranks before the sums are updated, has gradients through the weights of the fusion, and weighs the
ranking by 0.1 (NYUD2) or 1 (SUN); of it, only `regulariser` is a setting here.
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


def ranking_loss(confidences: Tensor, hardness: Tensor, margin: float = -1.0) -> Tensor:
    """The regulariser: of two samples, the harder should have the lower confidence.

    confidences, hardness: (B,), the latter from 0 to 1. Each sample is paired with the next:
    max(0, g (w_i - w_j) + margin |h_i - h_j|) with g = sign(h_i - h_j), mean over the batch. With margin
    -1 an order that is wrong by up to the lead in hardness costs nothing; with 1 only one that is right by
    at least that lead costs nothing.
    """
    lead = hardness - hardness.roll(-1)
    return (lead.sign() * (confidences - confidences.roll(-1)) + margin * lead.abs()).clamp_min(0).mean()


class QMF(Method):
    """Losses of the confidence-weighted sum and of each modality, and a ranking loss of its confidences.

    A sample's hardness for a modality is the sum of its losses over all epochs so far, scaled to
    0 ... 1 over all training samples; one that has not been seen yet counts as 0.

    The margin of the ranking loss is subtracted, as in the authors' code, which gave the published
    figures. In the correctness ranking loss that the paper builds on (Moon et al., ICML 2020) it is
    added: there, larger values mean more correct, here harder, and the code reverses the order but not
    the margin.
    """

    name: Literal["qmf"] = "qmf"
    source: ClassVar[str] = "ICML 2023"
    only_classes: ClassVar[str] = "takes its confidence from the softmax of classes"
    regulariser: float = Field(1.0, ge=0, le=100, description="weight of the ranking losses; 0: none")
    margin: Literal["subtracted", "added"] = Field(
        "subtracted", description="the lead in hardness in a ranking loss: subtracted, the code; added, Moon et al."
    )
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
        losses = [classification_loss(self.predict(outputs), labels, state.settings)]
        losses += [classification_loss(logits, labels, state.settings) for logits in outputs.unimodal.values()]
        rows = outputs.extra[ROWS].squeeze(1).long()
        for name, sums in self._sums(outputs, labels, state).items():
            lowest = sums.min() if len(sums) >= state.samples else 0.0
            scaled = (sums[rows] - lowest) / (sums.max() - lowest).clamp_min(1e-12)
            ranking = ranking_loss(confidence(outputs.unimodal[name]), scaled, -1 if self.margin == "subtracted" else 1)
            losses.append(self.regulariser * ranking)
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
