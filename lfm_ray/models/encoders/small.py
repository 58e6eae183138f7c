"""Small encoders, (B, ...) -> (B, d), that train in seconds on a CPU.

They use GroupNorm, not BatchNorm: a sample's embedding does not depend on the rest of the batch,
so several workers that share a batch compute what one worker computes with all of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.models.encoders.base import Encoder, EncoderSettings
from lfm_ray.models.encoders.inputs import VideoEncoder, standardised


def small_encoder(card: ModalityCard, settings: EncoderSettings, embedding_size: int) -> nn.Module:
    """A CNN, its mean over frames for video, a GRU for text, two linear layers for features."""
    assert settings.width is not None
    if card.kind == "text":
        return TextEncoder(card, settings.width, embedding_size)
    if card.kind == "feature":
        return FeatureEncoder(card, settings.width, embedding_size)
    image = ImageEncoder(card, settings.width, embedding_size)
    return VideoEncoder(image) if card.kind == "video" else image


class ImageEncoder(nn.Module):
    """A CNN for images (B, C, H, W) and spectrograms (B, 1, frequencies, frames).

    Blocks of strided convolution, GroupNorm and ReLU halve each side until about 4 pixels are left;
    striding instead of pooling takes a quarter of the time on a CPU. Each band of a spectrogram is standardised
    by itself, if the shards say how (`ModalityCard.means`), since bands differ in loudness.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, card: ModalityCard, width: int, embedding_size: int) -> None:
        super().__init__()
        means, stds = (card.means, card.stds) if card.kind == "audio" and card.means else ([card.mean], [card.std])
        std = torch.tensor(stds)[:, None]
        self.register_buffer("mean", torch.tensor(means)[:, None], persistent=False)
        self.register_buffer("std", torch.where(std > 1e-6, std, 1.0), persistent=False)
        channels, *sides = card.shape[-3:]
        blocks = min(5, max(2, round(math.log2(min(sides))) - 2))
        layers: list[nn.Module] = []
        for block in range(blocks):
            out = width * 2 ** min(block, 3)
            layers += [
                nn.Conv2d(channels, out, 5 if block == 0 else 3, stride=2, padding=2 if block == 0 else 1, bias=False),
                nn.GroupNorm(math.gcd(out, 8), out),
                nn.ReLU(),
            ]
            channels = out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.project = nn.Linear(channels * 4, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, C, H, W) of any real dtype; standardised here."""
        dtype = self.project.weight.dtype
        value = standardised(value, self.mean.to(dtype), self.std.to(dtype), dtype)
        return self.project(self.features(value))

    @property
    def last_map(self) -> nn.Module:
        """The layer whose output is the last feature map, (B, K, h, w)."""
        return self.features[-3]


class TextEncoder(nn.Module):
    """Tokens (B, L) -> the mean of a bidirectional GRU's states over all positions but padding -> Linear -> (B, d)."""

    def __init__(self, card: ModalityCard, width: int, embedding_size: int) -> None:
        super().__init__()
        assert card.vocabulary is not None
        size = width * 4
        self.padding = card.padding
        self.embed = nn.Embedding(card.vocabulary, size, padding_idx=card.padding)
        self.recurrent = nn.GRU(size, size, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * size, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, L) integers, at least 0 and less than the vocabulary."""
        present = (value != self.padding).unsqueeze(-1)
        states, _ = self.recurrent(self.embed(value.long()))
        total = torch.where(present, states, 0.0).sum(dim=1)
        return self.project(total / present.sum(dim=1).clamp(min=1))


class FeatureEncoder(nn.Module):
    """Features extracted by another model, of any shape -> Linear, ReLU, Linear.

    Each entry of the last dimension is standardised by itself, as entries have units of their own; an entry
    that is the same in all of train is only centred. Shards without `means` are standardised as a whole.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, card: ModalityCard, width: int, embedding_size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(card.means or card.mean), persistent=False)
        std = torch.tensor(card.stds or card.std)
        self.register_buffer("std", torch.where(std > 1e-6 * std.max(), std, 1.0), persistent=False)
        self.padded = card.padded
        self.hidden = nn.Linear(math.prod(card.shape), width * 4)
        self.project = nn.Linear(width * 4, embedding_size)

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, ...) of any real dtype; flattened to one vector per sample and standardised here."""
        dtype = self.project.weight.dtype
        value = standardised(value, self.mean.to(dtype), self.std.to(dtype), dtype).flatten(1)
        if self.padded:  # the steps that a sequence has not are taken for the mean
            value = value.nan_to_num(0.0)
        return self.project(self.hidden(value).relu())


ENCODER = Encoder(small_encoder, ("audio", "image", "video", "text", "feature"), ("width",), large=False)
