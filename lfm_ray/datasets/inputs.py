"""Stored samples -> what a model receives: unpacked, and augmented where they train. No Ray here."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lfm_ray.config import AudioSettings, AugmentationSettings, DataSettings, PrepareConfig
from lfm_ray.datasets.augmentation import mask, random_view
from lfm_ray.datasets.columns import Column, Columns, PackedFrames
from lfm_ray.datasets.shards import DatasetCard, ModalityCard

Result = TypeVar("Result")
Item = TypeVar("Item")

NONE = AugmentationSettings()


@dataclass(frozen=True)
class Inputs:
    """How samples of a dataset reach the model.

    modalities: name -> card; frame_count: frames of a clip that the model receives, at most; audio:
    how a stored waveform becomes a spectrogram; augmentation: all off in evaluation. What is drawn
    for a sample is a function of (seed, epoch, row, modality), whatever else is in its batch.
    """

    modalities: dict[str, ModalityCard]
    frame_count: int
    audio: AudioSettings
    augmentation: AugmentationSettings = NONE
    seed: int = 0

    @classmethod
    def of(
        cls, card: DatasetCard, data: DataSettings | None = None, seed: int | None = None, training: bool = False
    ) -> Inputs:
        """What the settings of a run ask for; `training` says whether samples are augmented."""
        data = data or DataSettings()
        names = data.modalities or list(card.modalities)
        return cls(
            {name: card.modalities[name] for name in names},
            data.frames,
            PrepareConfig.model_validate(card.preprocessing).audio,
            data.augmentation if training else NONE,
            seed or 0,
        )

    def frames(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """Which frames of each row are needed: modality -> (len(rows), F); videos that need all are left out.

        The stored frames are cut into F equal parts; of each part it is the middle one, or with
        `augmentation.random_frames` any.
        """
        chosen = {}
        for name, card in self.modalities.items():
            stored = card.shape[0]
            if card.kind != "video" or self.frame_count >= stored:
                continue
            where = np.full((len(rows), self.frame_count), 0.5)
            if self.augmentation.random_frames:
                draws = [self._random(row, epoch, f"{name}/frames").random(self.frame_count) for row in rows]
                where = np.array(draws).reshape(where.shape)
            chosen[name] = ((np.arange(self.frame_count) + where) * stored / self.frame_count).astype(np.int64)
        return chosen

    def __call__(self, columns: Columns, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """columns: the stored samples of `rows`, with the chosen frames. Returns modality -> (B, ...)."""
        return {name: self._input(columns[name], name, card, rows, epoch) for name, card in self.modalities.items()}

    def _input(self, column: Column, name: str, card: ModalityCard, rows: np.ndarray, epoch: int) -> Tensor:
        values = self._unpacked(column, card)
        settings, generators = self.augmentation, (self._random(row, epoch, name) for row in rows)
        if card.kind == "audio" and (settings.time_mask or settings.frequency_mask):
            return _stack((mask(*item, settings, card.mean) for item in zip(values, generators, strict=True)), values)
        if card.kind in ("image", "video") and (settings.smallest_crop < 1 or settings.flip):
            samples = zip(values, generators, strict=True)
            return _stack(_in_threads(lambda item: random_view(*item, settings), samples), values)
        return values

    def _unpacked(self, column: Column, card: ModalityCard) -> Tensor:
        if isinstance(column, PackedFrames):
            pixels = _in_threads(lambda sample: _decoded(column.files(sample), card), range(len(column)))
            frames = list(column.begin.shape[1:]) if card.kind == "video" else []
            return _stack(pixels, torch.empty((0, *frames, *card.shape[-3:]), dtype=torch.uint8))
        values = torch.from_numpy(column)
        if card.storage == "waveform":
            from lfm_ray.datasets.audio import from_pcm, log_spectrogram

            if not len(values):
                return torch.empty((0, *card.shape), dtype=torch.float16)
            return log_spectrogram(from_pcm(values), self.audio).to(torch.float16)
        return values

    def _random(self, row: int, epoch: int, name: str) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, int(row), zlib.crc32(name.encode())))


def _decoded(files: Sequence[bytes], card: ModalityCard) -> Tensor:
    """JPEG files -> (C, H, W), or of a video (F, C, H, W), uint8."""
    from PIL import Image

    frames = [np.atleast_3d(np.array(Image.open(io.BytesIO(file)))).transpose(2, 0, 1) for file in files]
    return torch.from_numpy(np.stack(frames) if card.kind == "video" else frames[0])


def _in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
    """`map` on as many threads as this process computes with; what it calls leaves the interpreter's lock."""
    threads = torch.get_num_threads()
    if threads == 1:
        return map(function, items)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def _stack(samples: Iterable[Tensor], like: Tensor) -> Tensor:
    """Samples as a batch; `like` says the shape where there are none."""
    found = list(samples)
    return torch.stack(found) if found else like
