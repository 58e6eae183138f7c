"""One media item -> one array."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.media import audio, features, pictures, text, video
from lfm_ray.datasets.media.audio import spectrogram
from lfm_ray.datasets.media.content import reason_of
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.embedded import path_of
from lfm_ray.datasets.preparing.manifest import Row
from lfm_ray.datasets.shards import ModalityCard
from lfm_ray.errors import UserError

MOST_BYTES = 2**30  # of a sample in memory


class BrokenMedia(Exception):
    """A file that cannot be decoded: its `path`, and the `reason` in one line."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Sample:
    """One modality of one row. seen: as models see it; stored: as the shards store it, an array or files.

    steps: of a sequence before it was cut or padded to the length of all. loudest: of sound that is stored as
    16-bit numbers, the largest value before what is beyond [-1, 1] was clipped.
    """

    seen: np.ndarray
    stored: np.ndarray | list[bytes]
    steps: int = 0
    loudest: float = 0.0


def decode(row: Row, name: str, kind: Kind, config: PrepareConfig) -> Sample:
    """Decodes modality `name` of a row and adds its noise; shape and dtype are those of `modality_card`.

    Raises:
        BrokenMedia: the file does not exist or cannot be decoded.
    """
    value = row.values[name]
    try:
        with path_of(value) as path, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what libraries say of odd files; what matters of it is an error
            array = _decoded(path, row, name, kind, config)
    except ValueError as error:  # what is embedded cannot be read
        raise BrokenMedia(str(value), str(error)) from error
    if not np.isfinite(array).all():
        raise BrokenMedia(str(value), "holds values that are not finite numbers")
    loudest = float(np.abs(array).max()) if kind == "audio" else 0.0
    if amount := config.noise.get(name, 0.0):
        array = add_noise(array, amount, generator(config.seed, name, row.id))
    storage = config.storage.get(name, "tensor")
    if kind == "feature" and (length := config.of(name, kind).length):
        padded = features.padded(array, length)
        return Sample(padded, padded, len(array))
    if kind == "audio" and config.of(name, kind).form == "waveform":
        return Sample(audio.to_pcm(array), audio.to_pcm(array), loudest=loudest)
    if storage == "waveform":
        stored = audio.to_pcm(array)
        return Sample(spectrogram(stored.astype(np.float32) / 32768, config.of(name, kind)), stored, loudest=loudest)
    if storage == "jpeg":
        frames = array if kind == "video" else array[None]
        return Sample(array, [pictures.to_jpeg(frame, config.jpeg_quality) for frame in frames])
    return Sample(array, array)


def modality_card(name: str, kind: Kind, config: PrepareConfig) -> ModalityCard:
    """The card of a modality under resolved settings; its mean and std are still to be measured.

    Raises:
        UserError: no sample can fit the settings, such as a window longer than a clip, or one would be too large.
    """
    storage = config.storage.get(name, "tensor")
    shape: list[Any]
    stored_shape: list[int] = []
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    vocabulary, padding = None, 0
    settings = config.of(name, kind)
    sample_rate = None
    if kind == "audio" and settings.form == "waveform":
        shape, dtype, storage = [audio.samples(settings)], np.dtype(np.int16), "tensor"  # `waveform` says the same
        sample_rate = settings.sample_rate
    elif kind == "audio":
        shape, dtype = [*audio.spectrogram_shape(settings)], np.dtype(np.float16)
        stored_shape = [audio.samples(settings)] if storage == "waveform" else []
    elif kind == "image":
        shape = [settings.channels, settings.size, settings.size]
        stored_shape = [1] if storage == "jpeg" else []
    elif kind == "video":
        shape = [settings.frames, settings.channels, settings.size, settings.size]
        stored_shape = [settings.frames] if storage == "jpeg" else []
    elif kind == "text":
        shape, dtype = [settings.length], text.dtype(settings)
        vocabulary, padding = text.vocabulary_and_padding(settings)
    else:
        shape, dtype = [*(settings.shape or [])], np.dtype(np.float32)
    for numbers, size in ((math.prod(shape), dtype.itemsize), (math.prod(stored_shape), 2)):
        if numbers * size > MOST_BYTES:
            sizes = " x ".join(map(str, shape))
            raise UserError(
                f"{kind}: a sample of {name} would take {numbers * size / 2**30:,.1f} GiB ({sizes}), more than"
                f" {MOST_BYTES / 2**30:g} GiB; choose smaller settings"
            )
    return ModalityCard(
        kind=kind, shape=shape, dtype=dtype.name, storage=storage, stored_shape=stored_shape, mean=0.0, std=0.0,
        vocabulary=vocabulary, padding=padding, sample_rate=sample_rate,
        padded=kind == "feature" and bool(settings.length),
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


def _decoded(path: str, row: Row, name: str, kind: Kind, config: PrepareConfig) -> np.ndarray:
    """`_load`, where whatever a decoder raises is the file's fault."""
    try:
        return _load(path, row, name, kind, config)
    except (NameError, ImportError, UserError):  # not the file's fault
        raise
    except MemoryError:
        raise BrokenMedia(str(row.values[name]), "needs more memory than there is") from None
    except Exception as error:  # decoders raise all kinds of exceptions
        raise BrokenMedia(str(row.values[name]), reason_of(error, path, kind)) from error


def _load(value: str, row: Row, name: str, kind: Kind, config: PrepareConfig) -> np.ndarray:
    """value: the path, or the text itself."""
    settings = config.of(name, kind)
    if kind == "audio":
        waveform = audio.load(value, settings, *row.clip(name))
        as_sound = settings.form == "waveform" or config.storage.get(name) == "waveform"
        return waveform if as_sound else spectrogram(waveform, settings)
    if kind == "image":
        return pictures.load_image(value, settings)
    if kind == "video":
        return video.load_video(value, settings, *row.clip(name))
    if kind == "text":
        return text.tokens(value, settings)
    array = features.load(value)
    if settings.length and array.ndim == 2 and len(array) and array.shape[1] == settings.shape[-1]:
        return array  # `decode` pads it
    if list(array.shape) != settings.shape:
        hint = "; for sequences of different lengths: --set feature.length=STEPS" if array.ndim == 2 else ""
        raise ValueError(f"has shape {list(array.shape)} where the others have {settings.shape}{hint}")
    return array
