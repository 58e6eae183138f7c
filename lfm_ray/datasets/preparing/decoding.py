"""One media item -> one array, and the settings that depend on the media themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfm_ray.datasets.kinds import Kind, Storage
from lfm_ray.datasets.media import audio, features, pictures, text
from lfm_ray.datasets.media.audio import AudioSettings, spectrogram
from lfm_ray.datasets.media.features import FeatureSettings
from lfm_ray.datasets.media.pictures import ImageSettings
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Row
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError
from lfm_ray.settings import nearest

# The kinds that each storage is for.
STORED_AS: dict[Storage, tuple[Kind, ...]] = {
    "tensor": ("audio", "image", "video", "text", "feature"),
    "waveform": ("audio",),
    "jpeg": ("image", "video"),
}
MOST_SECONDS = 10.0
MOST_SAMPLE_RATE = 16000
MOST_PIXELS = 224


class BrokenMedia(Exception):
    """A file that cannot be decoded: its `path`, and the `reason` in one line."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Sample:
    """One modality of one row. seen: as models see it; stored: as the shards store it, an array or files."""

    seen: np.ndarray
    stored: np.ndarray | list[bytes]


def decode(row: Row, name: str, kind: Kind, config: PrepareConfig) -> Sample:
    """Decodes modality `name` of a row and adds its noise; shape and dtype are those of `modality_card`.

    Raises:
        BrokenMedia: the file does not exist or cannot be decoded.
    """
    value = row.values[name]
    try:
        array = _load(row, name, kind, config)
    except (NameError, ImportError, MemoryError, UserError):  # not the file's fault
        raise
    except Exception as error:  # decoders raise all kinds of exceptions
        raise BrokenMedia(value, _reason(error)) from error
    if not np.isfinite(array).all():
        raise BrokenMedia(value, "holds values that are not finite numbers")
    if amount := config.noise.get(name, 0.0):
        array = add_noise(array, amount, generator(config.seed, name, row.id))
    storage = config.storage.get(name, "tensor")
    if storage == "waveform":
        stored = audio.to_pcm(array)
        return Sample(spectrogram(stored.astype(np.float32) / 32768, config.audio), stored)
    if storage == "jpeg":
        frames = array if kind == "video" else array[None]
        return Sample(array, [pictures.to_jpeg(frame, config.jpeg_quality) for frame in frames])
    return Sample(array, array)


def modality_card(name: str, kind: Kind, config: PrepareConfig) -> ModalityCard:
    """The card of a modality under resolved settings; its mean and std are still to be measured.

    Raises:
        UserError: no sample can fit the settings, such as a window longer than a clip.
    """
    storage = config.storage.get(name, "tensor")
    shape: list[Any]
    stored_shape: list[int] = []
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    vocabulary, padding = None, 0
    if kind == "audio":
        shape, dtype = [*audio.spectrogram_shape(config.audio)], np.dtype(np.float16)
        stored_shape = [audio.samples(config.audio)] if storage == "waveform" else []
    elif kind == "image":
        shape = [config.image.channels, config.image.size, config.image.size]
        stored_shape = [1] if storage == "jpeg" else []
    elif kind == "video":
        video = config.video
        shape = [video.frames, video.channels, video.size, video.size]
        stored_shape = [video.frames] if storage == "jpeg" else []
    elif kind == "text":
        shape, dtype = [config.text.length], text.dtype(config.text)
        vocabulary, padding = text.vocabulary_and_padding(config.text)
    else:
        shape, dtype = [*(config.feature.shape or [])], np.dtype(np.float32)
    return ModalityCard(
        kind=kind, shape=shape, dtype=dtype.name, storage=storage, stored_shape=stored_shape, mean=0.0, std=0.0,
        vocabulary=vocabulary, padding=padding,
    )  # fmt: skip


def add_noise(array: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise of `amount` times the array's own standard deviation and keeps the dtype.

    uint8 is rounded and clipped to 0..255.
    """
    values = array.astype(np.float32)
    values += amount * values.std() * random.standard_normal(array.shape, dtype=np.float32)
    return values.round().clip(0, 255).astype(np.uint8) if array.dtype == np.uint8 else values.astype(array.dtype)


def generator(seed: int, name: str, row_id: str) -> np.random.Generator:
    """The generator of the noise in one modality of one sample: the same in every process and every run."""
    digest = hashlib.sha256(f"{seed}\n{name}\n{row_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def resolve(config: PrepareConfig, kinds: Mapping[str, Kind], rows: Sequence[Row]) -> PrepareConfig:
    """Fills in the nulls of `config` from the headers of the training rows' files.

    Broken files are skipped; `decode` reports them.

    Raises:
        UserError: `noise` or `storage` does not fit a modality, or no file of a kind can be read.
    """
    for setting, given in (("noise", config.noise), ("storage", config.storage)):
        for name in set(given) - set(kinds):
            raise UserError(f"{setting}.{name}: there is no such modality{nearest(name, list(kinds))}")
    for name, storage in config.storage.items():
        if kinds[name] not in STORED_AS[storage]:
            allowed = ", ".join(item for item, with_kinds in STORED_AS.items() if kinds[name] in with_kinds)
            raise UserError(f"storage.{name}: {kinds[name]} cannot be stored as {storage}, only as {allowed}")
    for name, amount in config.noise.items():
        if kinds[name] == "text":
            raise UserError(f"noise.{name}: text takes no noise, since its tokens are not quantities")
        if amount < 0:
            raise UserError(f"noise.{name}: must be 0 or more (it is {amount:g})")
    config = config.model_copy(
        update={
            "audio": _resolve_audio(config.audio, [name for name in kinds if kinds[name] == "audio"], rows),
            "image": _resolve_image(config.image, [name for name in kinds if kinds[name] == "image"], rows),
            "feature": _resolve_feature(config.feature, [name for name in kinds if kinds[name] == "feature"], rows),
        }
    )
    for name, kind in kinds.items():
        modality_card(name, kind, config)
    return config


def _resolve_audio(settings: AudioSettings, names: Sequence[str], rows: Sequence[Row]) -> AudioSettings:
    rate, longest = settings.sample_rate, settings.seconds or 0.0
    for (start, end), path in [(row.clip(name), row.values[name]) for name in names for row in rows]:
        if rate and longest >= (settings.seconds or MOST_SECONDS):
            break
        try:
            file_rate, duration = audio.header(path)
        except Exception:  # reported when it is decoded
            continue
        rate = rate or min(file_rate, MOST_SAMPLE_RATE)
        duration = duration if end is None else min(duration, end)
        longest = max(longest, duration - (start or 0.0))
    if names and not (rate and longest > 0):
        raise UserError(
            f"no training file of {', '.join(names)} can be read as audio; the first one is {rows[0].values[names[0]]}"
        )
    return settings.model_copy(
        update={"sample_rate": rate, "seconds": settings.seconds or (min(longest, MOST_SECONDS) or None)}
    )


def _resolve_image(settings: ImageSettings, names: Sequence[str], rows: Sequence[Row]) -> ImageSettings:
    if not names or (settings.size and settings.channels):
        return settings
    for path in [row.values[name] for name in names for row in rows]:
        try:
            side, channels = pictures.image_header(path)
        except Exception:  # reported when it is decoded
            continue
        update = {"size": settings.size or min(side, MOST_PIXELS), "channels": settings.channels or channels}
        return settings.model_copy(update=update)
    raise UserError(
        f"no training file of {', '.join(names)} can be read as an image; the first one is {rows[0].values[names[0]]}"
    )


def _resolve_feature(settings: FeatureSettings, names: Sequence[str], rows: Sequence[Row]) -> FeatureSettings:
    if not names or settings.shape:
        return settings
    for path in [row.values[name] for name in names for row in rows]:
        try:
            return settings.model_copy(update={"shape": features.header(path)})
        except Exception:  # reported when it is decoded
            continue
    raise UserError(
        f"no training file of {', '.join(names)} can be read as .npy; the first one is {rows[0].values[names[0]]}"
    )


def _load(row: Row, name: str, kind: Kind, config: PrepareConfig) -> np.ndarray:
    value = row.values[name]
    if kind == "audio":
        waveform = audio.load(value, config.audio, *row.clip(name))
        return waveform if config.storage.get(name) == "waveform" else spectrogram(waveform, config.audio)
    if kind == "image":
        return pictures.load_image(value, config.image)
    if kind == "video":
        return pictures.load_video(value, config.video, *row.clip(name))
    if kind == "text":
        return text.tokens(value, config.text)
    array = features.load(value)
    if list(array.shape) != config.feature.shape:
        raise ValueError(f"has shape {list(array.shape)} where the others have {config.feature.shape}")
    return array


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (str(error).splitlines() or [""])[0] or type(error).__name__
