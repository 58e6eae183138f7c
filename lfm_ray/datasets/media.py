"""One media item -> one array, and the settings that only the media themselves can tell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from lfm_ray.config import AudioSettings, ImageSettings, Kind, PrepareConfig
from lfm_ray.datasets import audio, pictures
from lfm_ray.datasets.audio import spectrogram
from lfm_ray.datasets.manifest import Row
from lfm_ray.errors import UserError
from lfm_ray.settings import nearest

__all__ = ["BrokenMedia", "add_noise", "decode", "generator", "resolve", "shape_and_dtype", "spectrogram", "text_bytes"]

MOST_SECONDS = 10.0
MOST_SAMPLE_RATE = 16000
MOST_PIXELS = 224
BYTE_VALUES = 257  # 256 bytes and the padding


class BrokenMedia(Exception):
    """A file that cannot be decoded; `path` and, in one line, `reason`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


def decode(row: Row, name: str, kind: Kind, config: PrepareConfig) -> np.ndarray:
    """Modality `name` of a row, with its noise, of the shape and dtype that `shape_and_dtype` says.

    Raises:
        BrokenMedia: the file does not exist or cannot be decoded.
    """
    value = row.values[name]
    try:
        array = _load(row, value, kind, config)
    except (NameError, ImportError, MemoryError):  # not the file's fault
        raise
    except Exception as error:  # decoders raise whatever they like
        raise BrokenMedia(value, _reason(error)) from error
    if not np.isfinite(array).all():
        raise BrokenMedia(value, "holds values that are not finite numbers")
    amount = config.noise.get(name, 0.0)
    return add_noise(array, amount, generator(config.seed, name, row.id)) if amount else array


def shape_and_dtype(kind: Kind, config: PrepareConfig) -> tuple[list[int], np.dtype]:
    """Shape and dtype of one sample, from resolved settings.

    Raises:
        UserError: the settings fit no sample, such as a window longer than a clip.
    """
    if kind == "audio":
        return audio.spectrogram_shape(config.audio), np.dtype(np.float16)
    if kind == "image":
        assert config.image.size is not None and config.image.channels is not None
        return [config.image.channels, config.image.size, config.image.size], np.dtype(np.uint8)
    if kind == "video":
        video = config.video
        return [video.frames, video.channels, video.size, video.size], np.dtype(np.uint8)
    return [config.text.length], np.dtype(np.int16)


def text_bytes(text: str, length: int) -> np.ndarray:
    """UTF-8 bytes + 1, so 1 to 256, cut or padded with 0 -> (length,) int16."""
    data = np.frombuffer(text.encode("utf-8")[:length], np.uint8).astype(np.int16) + 1
    return np.pad(data, (0, length - len(data))).astype(np.int16)


def add_noise(array: np.ndarray, amount: float, random: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise of `amount` times the array's own standard deviation; the dtype stays.

    uint8 is rounded and clipped to 0..255.
    """
    values = array.astype(np.float32)
    values += amount * values.std() * random.standard_normal(array.shape, dtype=np.float32)
    return values.round().clip(0, 255).astype(np.uint8) if array.dtype == np.uint8 else values.astype(array.dtype)


def generator(seed: int, name: str, row_id: str) -> np.random.Generator:
    """The noise of one sample's modality: the same whichever process makes it, and when."""
    digest = hashlib.sha256(f"{seed}\n{name}\n{row_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def resolve(config: PrepareConfig, kinds: Mapping[str, Kind], rows: Sequence[Row]) -> PrepareConfig:
    """Fills in the nulls of `config` from the headers of the training rows' files.

    Broken files are passed over; the decoder reports them.

    Raises:
        UserError: noise for a modality that is unknown or a text, or no file of a kind can be read.
    """
    for name, amount in config.noise.items():
        if name not in kinds:
            raise UserError(f"noise.{name}: there is no such modality{nearest(name, list(kinds))}")
        if kinds[name] == "text":
            raise UserError(f"noise.{name}: text takes no noise, its bytes are not quantities")
        if amount < 0:
            raise UserError(f"noise.{name}: must be 0 or more (it is {amount:g})")
    config = config.model_copy(
        update={
            "audio": _resolve_audio(config.audio, [name for name in kinds if kinds[name] == "audio"], rows),
            "image": _resolve_image(config.image, [name for name in kinds if kinds[name] == "image"], rows),
        }
    )
    for kind in kinds.values():
        shape_and_dtype(kind, config)
    return config


def _resolve_audio(settings: AudioSettings, names: Sequence[str], rows: Sequence[Row]) -> AudioSettings:
    rate, longest = settings.sample_rate, settings.seconds or 0.0
    for row, path in [(row, row.values[name]) for name in names for row in rows]:
        if rate and longest >= (settings.seconds or MOST_SECONDS):
            break
        try:
            file_rate, duration = audio.header(path)
        except Exception:  # reported when it is decoded
            continue
        rate = rate or min(file_rate, MOST_SAMPLE_RATE)
        duration = duration if row.end is None else min(duration, row.end)
        longest = max(longest, duration - (row.start or 0.0))
    if names and not (rate and longest > 0):
        raise UserError(
            f"no training file of {', '.join(names)} can be read as audio, the first is {rows[0].values[names[0]]}"
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
        f"no training file of {', '.join(names)} can be read as an image, the first is {rows[0].values[names[0]]}"
    )


def _load(row: Row, value: str, kind: Kind, config: PrepareConfig) -> np.ndarray:
    if kind == "audio":
        return spectrogram(audio.load(value, config.audio, row.start, row.end), config.audio)
    if kind == "image":
        return pictures.load_image(value, config.image)
    if kind == "video":
        return pictures.load_video(value, config.video, row.start, row.end)
    return text_bytes(value, config.text.length)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (str(error).splitlines() or [""])[0] or type(error).__name__
