"""The multimodal classifier: an encoder for each modality, joined by a fusion head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lfm_ray.config import ModelSettings
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.models.encoders import small_encoder
from lfm_ray.models.fusion import FUSION_HEADS


@dataclass(frozen=True)
class Outputs:
    """What the classifier says of B samples.

    fused: (B, C), logits of the fusion; unimodal: modality -> (B, C), logits of it alone;
    embeddings: modality -> (B, d), the z of paper section 3.1.
    """

    fused: Tensor
    unimodal: dict[str, Tensor]
    embeddings: dict[str, Tensor]

    def logits(self) -> dict[str, Tensor]:
        """The logits by name: `fused`, then each modality."""
        return {"fused": self.fused, **self.unimodal}

    def map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        """Applies a function of rows to everything in one call: (B, all columns) -> (B', all columns)."""
        parts = [self.fused, *self.unimodal.values(), *self.embeddings.values()]
        columns = function(torch.cat(parts, dim=1)).split([part.shape[1] for part in parts], dim=1)
        m = len(self.unimodal)
        return Outputs(
            columns[0],
            dict(zip(self.unimodal, columns[1 : 1 + m], strict=True)),
            dict(zip(self.embeddings, columns[1 + m :], strict=True)),
        )


class MultimodalClassifier(nn.Module):
    """Encoders, dropout and a fusion head for the given modalities.

    modalities: name -> card with kind, shape, mean and std; inputs are standardised by the card,
    so the weights and the preprocessing travel together.
    """

    def __init__(self, modalities: Mapping[str, ModalityCard], classes: int, settings: ModelSettings) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: small_encoder(card, settings) for name, card in modalities.items()})
        self.dropout = nn.Dropout(settings.dropout)
        self.head = FUSION_HEADS[settings.fusion](list(modalities), settings.embedding_size, classes)

    def forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """inputs: modality -> (B, ...) as the shards hold it."""
        embeddings = {name: self.dropout(encoder(inputs[name])) for name, encoder in self.encoders.items()}
        fused, unimodal = self.head(embeddings)
        return Outputs(fused, unimodal, embeddings)
