"""Unimodal training: what each modality reaches alone (the first rows of the paper's Table 1)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from lfm_ray.methods.base import Method, State
from lfm_ray.methods.losses import classification_loss
from lfm_ray.models.classifier import Outputs


class Unimodal(Method):
    """Each modality is trained on its own, with its own loss only.

    With the fusion head `sum`, modalities share no parameters, so one run is equivalent to separate
    runs. The fused prediction is a late fusion of independent models.
    """

    name: Literal["unimodal"] = "unimodal"
    source: ClassVar[str] = "none; a baseline"
    combines: ClassVar[bool] = False
    matches_embeddings: ClassVar[bool] = False
    takes_missing: ClassVar[bool] = True

    def classification(self, outputs: Outputs, labels: Tensor, state: State) -> Tensor:
        """The sum over modalities of the cross-entropy of their own logits, of the samples that have them."""
        each = []
        for name, logits in outputs.unimodal.items():
            rows = outputs.rows_with(name)
            if rows is None:
                each.append(classification_loss(logits, labels, state.settings))
            elif rows.any():
                each.append(classification_loss(logits[rows], labels[rows], state.settings))
        return torch.stack(each).sum()
