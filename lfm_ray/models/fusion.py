"""Fusion heads: embeddings -> logits of the fusion, and logits of each modality on its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Sum(nn.Module):
    """Prediction summation: a linear classifier for each modality; the fused logits are their sum."""

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__()
        self.classifiers = nn.ModuleDict({name: nn.Linear(embedding_size, classes) for name in modalities})

    def forward(self, embeddings: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """embeddings: modality -> (B, d). Returns fused logits (B, C) and modality -> logits (B, C)."""
        unimodal = {name: classifier(embeddings[name]) for name, classifier in self.classifiers.items()}
        return torch.stack(list(unimodal.values())).sum(dim=0), unimodal


class Concat(nn.Module):
    """One linear classifier on the concatenated embeddings, fused = W [z_1; ...; z_m] + b.

    The logits of modality j are its share W_j z_j + b / m (Peng et al., OGM-GE, CVPR 2022), so the
    shares add up to the fused logits.
    """

    def __init__(self, modalities: Sequence[str], embedding_size: int, classes: int) -> None:
        super().__init__()
        self.modalities = list(modalities)
        self.classifier = nn.Linear(embedding_size * len(self.modalities), classes)

    def forward(self, embeddings: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """embeddings: modality -> (B, d). Returns fused logits (B, C) and modality -> logits (B, C)."""
        m = len(self.modalities)
        weights = self.classifier.weight.chunk(m, dim=1)
        unimodal = {
            name: embeddings[name] @ weight.T + self.classifier.bias / m
            for name, weight in zip(self.modalities, weights, strict=True)
        }
        return self.classifier(torch.cat([embeddings[name] for name in self.modalities], dim=1)), unimodal


FUSION_HEADS: dict[str, type[Sum] | type[Concat]] = {"sum": Sum, "concat": Concat}
