"""Random transforms of training samples, each sample with its own generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lfm_ray.settings import Settings


class AugmentationSettings(Settings):
    """Random transforms of training samples, determined by seed, epoch and sample; evaluation uses none."""

    smallest_crop: float = Field(
        1.0,
        gt=0,
        le=1,
        description="smallest share of the area that a random crop keeps of an image or of a clip's frames, before it"
        " is resized to full size; 0.08 is usual for photographs; 1: no crop",
    )
    flip: float = Field(0.0, ge=0, le=1, description="probability of mirroring an image or a clip left to right")
    random_frames: bool = Field(False, description="take a random frame of each equal part of a clip, not its middle")
    time_mask: float = Field(0.0, ge=0, lt=1, description="SpecAugment: largest share of the time that is masked")
    frequency_mask: float = Field(0.0, ge=0, lt=1, description="SpecAugment: the same for the frequencies")


WIDEST = math.log(4 / 3)  # aspect ratios from 3/4 to 4/3


def random_views(samples: Tensor, generators: Sequence[np.random.Generator], settings: AugmentationSettings) -> Tensor:
    """`random_view` of each of (B, ..., C, H, W)."""
    views = torch.empty_like(samples)
    for view, sample, random in zip(views, samples, generators, strict=True):
        view.copy_(random_view(sample, random, settings))
    return views


def random_view(pixels: Tensor, random: np.random.Generator, settings: AugmentationSettings) -> Tensor:
    """A random crop, resized to full size, and a random flip; the same for all frames of a clip.

    pixels: (..., C, H, W) uint8. The crop's share of the area is uniform in [smallest_crop, 1], and
    its aspect ratio log-uniform in [3/4, 4/3] (Szegedy et al., "Going deeper with convolutions",
    CVPR 2015); a side that would be longer than the image's is as long as it. Resizing is bilinear
    with antialiasing, as in Pillow.
    """
    *_, height, width = pixels.shape
    if settings.smallest_crop < 1:
        area = random.uniform(settings.smallest_crop, 1) * height * width
        ratio = math.exp(random.uniform(-WIDEST, WIDEST))
        rows = min(height, max(1, round(math.sqrt(area / ratio))))
        columns = min(width, max(1, round(math.sqrt(area * ratio))))
        top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
        crop = pixels[..., top : top + rows, left : left + columns]
        frames = crop.reshape(-1, *crop.shape[-3:])
        resized = F.interpolate(frames, (height, width), mode="bilinear", antialias=True)
        pixels = resized.view(pixels.shape)
    return pixels.flip(-1) if random.random() < settings.flip else pixels


def mask(
    spectrograms: Tensor, generators: Sequence[np.random.Generator], settings: AugmentationSettings, value: float
) -> Tensor:
    """SpecAugment (Park et al., Interspeech 2019): sets one band of frequencies and one stretch of time to `value`.

    spectrograms: (B, 1, frequencies, frames). The masks' lengths are uniform from 0 to the settings' shares.
    """
    from torchaudio.functional import mask_along_axis

    _, _, frequencies, frames = spectrograms.shape
    longest = ((1, round(settings.frequency_mask * frequencies)), (2, round(settings.time_mask * frames)))
    masked = torch.empty_like(spectrograms)
    # torchaudio draws from torch's global generator, whose state must not change for training.
    with torch.random.fork_rng(devices=[]):
        for to, spectrogram, random in zip(masked, spectrograms, generators, strict=True):
            torch.default_generator.manual_seed(int(random.integers(2**63)))
            for axis, length in longest:
                if length:
                    spectrogram = mask_along_axis(spectrogram, length, value, axis)
            to.copy_(spectrogram)
    return masked
