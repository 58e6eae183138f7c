"""Stored samples -> model inputs: decoded, and augmented for training. This module does not need Ray."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from lfm_ray.datasets.columns import Column, Columns, PackedFrames, presence
from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.reading.augmentation import AugmentationSettings, mask, random_views
from lfm_ray.datasets.shards import DatasetCard, ModalityCard
from lfm_ray.datasets.targets import TargetCard
from lfm_ray.settings import Settings


class DataSettings(Settings):
    """Which shards are read, and how."""

    path: str = Field("shards/demo", description="folder written by lfm_ray.prepare, or its s3:// or gs:// URI")
    modalities: list[str] | None = Field(None, description="which modalities to use; null: all of them")
    batch_size: int = Field(64, ge=2, description="samples per training step, over all workers together")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="samples that a worker passes through the encoders at once, so that a large batch fits into memory;"
        " the gradient is that of the whole batch, at the cost of one more forward pass; null: the whole batch",
    )
    frames: int = Field(3, ge=1, description="frames per clip that the model receives, out of those in the shards")
    augmentation: AugmentationSettings = AugmentationSettings()
    memory_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="a dataset below this share of the object store is held there, once for all trials on a node; a"
        " larger one is read batch by batch from its memory-mapped files",
    )
    reader_cpus: int = Field(
        0,
        ge=0,
        description="extra CPUs per worker, anywhere in the cluster, on which Ray Data reads, decodes and augments for"
        " it; 0: each worker does this on its own CPUs",
    )

    @field_validator("modalities")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and not names:
            raise ValueError("names no modality; leave it out to use all of them")
        if names is not None and len(set(names)) < len(names):
            raise ValueError("names a modality twice")
        return names


NONE = AugmentationSettings()
OF_CLASSES = TargetCard()


def seen(card: DatasetCard, data: DataSettings) -> dict[str, ModalityCard]:
    """The modalities of a run, with the shapes that its model receives: of a video, the frames that are chosen."""
    cards = {name: card.modalities[name] for name in data.modalities or card.modalities}
    for name, one in cards.items():
        if one.kind == "video":
            cards[name] = one.model_copy(update={"shape": [min(data.frames, one.shape[0]), *one.shape[1:]]})
    return cards


@dataclass(frozen=True)
class Inputs:
    """The transform from stored samples to model inputs.

    modalities: name -> card; frame_count: the most frames of a clip that the model receives; audio:
    modality -> how its stored waveform becomes a spectrogram; augmentation: all off for evaluation. The random draws
    for a sample depend on (seed, epoch, row, modality) alone, not on the rest of its batch. target: that of the labels.
    """

    modalities: dict[str, ModalityCard]
    frame_count: int
    audio: dict[str, AudioSettings]
    augmentation: AugmentationSettings = NONE
    seed: int = 0
    target: TargetCard = OF_CLASSES

    @classmethod
    def of(
        cls, card: DatasetCard, data: DataSettings | None = None, seed: int | None = None, training: bool = False
    ) -> Inputs:
        """The transform that a run's settings ask for; training: whether samples are augmented."""
        data = data or DataSettings()
        names = data.modalities or list(card.modalities)
        return cls(
            {name: card.modalities[name] for name in names},
            data.frames,
            {name: audio_settings(card, name) for name in names if card.modalities[name].kind == "audio"},
            data.augmentation if training else NONE,
            seed or 0,
            card.target,
        )

    def labels(self, stored: np.ndarray) -> Tensor:
        """Stored labels as losses take them."""
        return torch.from_numpy(self.target.for_training(stored))

    def frames(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """The frames to take from each row: modality -> (len(rows), F); videos that need all frames are left out.

        The stored frames are divided into F equal parts, and the middle frame of each part is taken,
        or with `augmentation.random_frames` a random one.
        """
        chosen = {}
        for name, card in self.modalities.items():
            stored = card.shape[0]
            if card.kind != "video" or self.frame_count >= stored:
                continue
            where = np.full((len(rows), self.frame_count), 0.5)
            if self.augmentation.random_frames:
                for parts, random in zip(where, self._generators(rows, epoch, f"{name}/frames"), strict=True):
                    parts[:] = random.random(self.frame_count)
            chosen[name] = ((np.arange(self.frame_count) + where) * stored / self.frame_count).astype(np.int64)
        return chosen

    def __call__(self, columns: Columns, rows: np.ndarray, epoch: int) -> dict[str, Tensor]:
        """columns: the stored samples of `rows`, with the chosen frames. Returns modality -> (B, ...).

        Where columns say which samples have a modality (`columns.presence`), so does the result.
        """
        inputs = {name: self._input(columns[name], name, card, rows, epoch) for name, card in self.modalities.items()}
        masks = {presence(name): columns[presence(name)] for name in inputs if presence(name) in columns}
        return inputs | {name: torch.from_numpy(mask) for name, mask in masks.items()}

    def _input(self, column: Column, name: str, card: ModalityCard, rows: np.ndarray, epoch: int) -> Tensor:
        values = self._unpacked(column, name, card)
        settings = self.augmentation
        if card.kind == "audio" and card.sample_rate is None and (settings.time_mask or settings.frequency_mask):
            kept = mask(torch.ones_like(values), self._generators(rows, epoch, name), settings, 0.0)
            return torch.where(kept > 0, values, torch.tensor(card.means or [card.mean], dtype=values.dtype)[:, None])
        if card.kind in ("image", "video") and (settings.smallest_crop < 1 or settings.flip):
            return random_views(values, self._generators(rows, epoch, name), settings)
        return values

    def _unpacked(self, column: Column, name: str, card: ModalityCard) -> Tensor:
        if isinstance(column, PackedFrames):
            pixels = np.empty((len(column), column.begin.shape[1], *card.shape[-3:]), np.uint8)
            _in_threads(lambda sample: _decode(column.files(sample), pixels[sample]), range(len(column)))
            return torch.from_numpy(pixels if card.kind == "video" else pixels[:, 0])
        values = torch.from_numpy(column)
        if card.storage == "waveform":
            from lfm_ray.datasets.media.audio import from_pcm, log_spectrogram

            spectrograms = torch.empty((len(values), *card.shape), dtype=torch.float16)
            for spectrogram, waveform in zip(spectrograms, values, strict=True):
                spectrogram.copy_(log_spectrogram(from_pcm(waveform), self.audio[name]))
            return spectrograms
        return values

    def _generators(self, rows: np.ndarray, epoch: int, name: str) -> list[np.random.Generator]:
        key = zlib.crc32(name.encode())
        return [np.random.default_rng((self.seed, epoch, row, key)) for row in rows.tolist()]


def audio_settings(card: DatasetCard, name: str) -> AudioSettings:
    """Those with which a modality was prepared: of all sound, and its own."""
    own = card.preprocessing.get("columns", {}).get("audio", {}).get(name, {})
    return AudioSettings.model_validate({**card.preprocessing.get("audio", {}), **own})


def _decode(files: Sequence[bytes], to: np.ndarray) -> None:
    """Writes the pixels of JPEG files to (F, C, H, W) uint8; of an empty file, that of a missing picture, zeros."""
    from PIL import Image

    for file, pixels in zip(files, to, strict=True):
        if len(file):
            pixels[:] = np.atleast_3d(np.asarray(Image.open(io.BytesIO(file)))).transpose(2, 0, 1)
        else:
            pixels[:] = 0


def _in_threads(function: Callable[[int], None], items: Iterable[int]) -> None:
    """Calls `function` on as many threads as torch uses. It must not compute with torch, which has its own threads."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(function, items))
