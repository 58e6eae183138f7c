"""Input layers of encoders: standardisation, pixels as a pretrained model expects them, video frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.models.encoders.base import EncoderSettings


def standardised(value: Tensor, mean: float | Tensor, std: float | Tensor, dtype: torch.dtype) -> Tensor:
    """(value - mean) / std in `dtype`, that of the weights; makes one temporary copy."""
    return (value.to(dtype) - mean).div_(std)


class Pixels(nn.Module):
    """(B, C, H, W) -> the same shape, standardised with the card's mean and standard deviation.

    With pretrained weights, uint8 images are instead scaled to 0 ... 1 and standardised as in
    pretraining, with `mean` and `std` of red, green and blue; a grey image with the means of the three.
    `fixed`: so they are with random weights too, and everything else is left as it is.
    """

    def __init__(
        self,
        card: ModalityCard,
        settings: EncoderSettings,
        mean: Sequence[float],
        std: Sequence[float],
        fixed: bool = False,
    ) -> None:
        super().__init__()
        middle, spread = torch.tensor(card.mean), torch.tensor(max(card.std, 1e-6))
        if fixed:
            middle, spread = torch.tensor(0.0), torch.tensor(1.0)
        if (settings.pretrained or fixed) and card.dtype == "uint8" and card.kind in ("image", "video"):
            middle, spread = torch.tensor(mean) * 255, torch.tensor(std) * 255
            if card.shape[-3] == 1:
                middle, spread = middle.mean(), spread.mean()
            else:
                middle, spread = middle[:, None, None], spread[:, None, None]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", middle, persistent=False)
        self.register_buffer("std", spread, persistent=False)

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """value: any real dtype."""
        return standardised(value, self.mean, self.std, dtype)


class VideoEncoder(nn.Module):
    """The mean over frames of an image encoder's embeddings: (B, F, C, H, W) -> (B, d)."""

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = image

    def forward(self, value: Tensor) -> Tensor:
        """value: (B, F, C, H, W)."""
        batch, frames = value.shape[:2]
        return self.image(value.flatten(0, 1)).view(batch, frames, -1).mean(dim=1)
