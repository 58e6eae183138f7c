"""CML: a prediction must not grow more confident when a modality is taken away.

Ma et al., "Calibrating multimodal learning", ICML 2023. Code read: QingyangZhang/CML at 9d2496e (cpm/CPM_Nets.py,
rank_loss), and the comparison of GeWu-Lab/BalanceBenchmark at 4c1482f. The same (tests/parity): the ranking loss
and its gradient by the logits, which are sums over the batch there. Different: their networks fill in what is
missing, here the head sees zeros; the order in which modalities are taken away is drawn for every step (in the
comparison for every epoch, in their code it is fixed by the data).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lfm_ray.methods.base import Losses, Method, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs


def ranking_loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """How much more confident predictions grow with less, mean over the batch; 0 for a single modality.

    logits: (B, C) each, every next one of fewer modalities. Confidence is the highest probability. A sample counts
    unless the prediction from fewer is right where the one before is wrong.
    """
    loss = logits[0].new_zeros(())
    for more, less in pairwise(logits):
        confident, less_confident = (one.softmax(dim=1).max(dim=1).values for one in (more, less))
        mended = (less.argmax(dim=1) == labels) & (more.argmax(dim=1) != labels)
        loss = loss + ((less_confident - confident).clamp_min(0) * ~mended).mean()
    return loss


class CML(Method):
    """Predictions from fewer and fewer modalities are learned as well, and ranked by their confidence.

    Modalities are taken away one by one, in an order drawn for every step, until one is left. L_CLS is the mean of the
    cross-entropies of all m predictions, plus lambda times `ranking_loss`.
    """

    name: Literal["cml"] = "cml"
    source: ClassVar[str] = "ICML 2023"
    only_classes: ClassVar[str] = "ranks predictions by the probability of their class"
    heads: ClassVar[tuple[str, ...]] = ("concat", "sum")
    ranking_weight: float = Field(1.0, ge=0, le=1000, description="lambda, of the ranking loss (our default)")

    def fewer_and_fewer(self, outputs: Outputs, labels: Tensor, state: State) -> list[Tensor]:
        """The fused logits (B, C) of all modalities, and of ever fewer."""
        names = list(outputs.embeddings)
        order = torch.randperm(len(names), generator=state.generator(labels.device), device=labels.device).tolist()
        left, logits = dict(outputs.embeddings), [outputs.fused]
        for index in order[:-1]:
            left[names[index]] = torch.zeros_like(left[names[index]])
            logits.append(state.model.head(left)[0])
        return logits

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The mean of the cross-entropies and the ranking loss."""
        logits = self.fewer_and_fewer(outputs, labels, state)
        each = [classification_loss(one, labels, state.settings) for one in logits]
        return torch.stack(each).mean() + self.ranking_weight * ranking_loss(logits, labels)

    def loss(self, outputs: Outputs, labels: Tensor, state: State) -> Losses:
        """The default loss, except that the outer loss is that of all modalities."""
        return replace(super().loss(outputs, labels, state), outer=super().classification(outputs, labels, state))
