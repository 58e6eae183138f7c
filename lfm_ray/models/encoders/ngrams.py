"""Texts as bags of hashed n-grams, each with a learned embedding: what texts are encoded by if nothing else is chosen.

A linear model on counts of character n-grams is hard to beat where there are few texts. This is one of low rank, whose
n-grams are found by hashing as in fastText: Joulin, Grave, Bojanowski, Mikolov, "Bag of Tricks for Efficient Text
Classification", EACL 2017. `benchmarks/encoders.py` compares it with the linear model and with the GRU of `small`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfm_ray.datasets.media.text import BYTE_VALUES
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.models.encoders.base import Encoder, EncoderSettings

LONGEST = 4  # tokens of an n-gram
BUCKETS = 2**15  # that n-grams are hashed to; those that fall into the same one share an embedding
SPREAD = 0.01  # of the first embeddings: an n-gram that training never saw then says next to nothing
SLOWER = 0.3  # learning rate over that of the settings; the default one suits the other small encoders
PRIME, ODD = 1_000_003, 2_654_435_761  # of the polynomial that a code is, and 2^32 over the golden ratio (Knuth)


class NGramEncoder(nn.Module):
    """Tokens (B, L) -> the sum of the embeddings of all n-grams, over the root of their number -> Linear -> (B, d).

    n is 1 to 4. Of bytes, those of A to Z count as a to z. Padding is part of no n-gram.
    """

    lower: Tensor

    def __init__(self, card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> None:
        super().__init__()
        assert card.vocabulary is not None and settings.width is not None
        size = 4 * settings.width
        self.padding = card.padding
        lower = torch.arange(card.vocabulary)
        if card.vocabulary == BYTE_VALUES:
            lower[1 + ord("A") : 2 + ord("Z")] += ord("a") - ord("A")
        self.register_buffer("lower", lower, persistent=False)
        self.embed = nn.Embedding(BUCKETS, size)
        nn.init.normal_(self.embed.weight, std=SPREAD)
        self.project = nn.Linear(size, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, L) integers, at least 0 and less than the vocabulary."""
        buckets, present = hashed(self.lower[value.long()], value != self.padding)
        total = torch.where(present.unsqueeze(2), self.embed(buckets), 0.0).sum(dim=1)
        return self.project(total / present.sum(dim=1, keepdim=True).clamp(min=1).sqrt())

    def learning_rate_factors(self) -> dict[str, float]:
        """Parameter -> factor of its learning rate (`lfm_ray.optimization.optimizer`).

        With that of other encoders it fits what single texts have: Adam moves rare n-grams as far as frequent ones.
        """
        return {name: SLOWER for name, _ in self.named_parameters()}


def hashed(tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The buckets of the n-grams that begin at each token, for n = 1 ... 4, and which of them are in the text.

    tokens, present: (B, L); the results: (B, 4 L). A code is computed in 31 bits, so that no product overflows.
    """
    code, whole = torch.zeros_like(tokens), torch.ones_like(present)
    buckets, wholes = [], []
    for n in range(LONGEST):
        code = (code * PRIME + F.pad(tokens, (0, n))[:, n:] + 1) & 0x7FFFFFFF
        whole = whole & F.pad(present, (0, n))[:, n:]
        buckets.append(((code + n) * ODD & 0xFFFFFFFF) * BUCKETS >> 32)
        wholes.append(whole)
    return torch.cat(buckets, dim=1), torch.cat(wholes, dim=1)


ENCODER = Encoder(NGramEncoder, ("text",), ("width",), large=False)
