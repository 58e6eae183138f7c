"""Features extracted beforehand: one .npy file per sample."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from lfm_ray.settings import Settings


class FeatureSettings(Settings):
    """Features extracted beforehand: one .npy file of numbers per sample."""

    shape: list[int] | None = Field(None, description="shape of one sample; null: that of most training files")
    length: int | None = Field(
        None,
        ge=1,
        description="of sequences (T, d) whose T differs: steps of a sample; longer ones are cut, and the steps that a"
        " shorter one has not are NaN, which model.encoders.MODALITY: sequence does not read; null: all have one shape",
    )


MOST_NUMBERS = 2**28  # of a sample, 1 GiB


def load(path: str) -> np.ndarray:
    """The array of a .npy file, or the only one of a .npz file, as float32.

    Raises:
        ValueError: the file does not hold an array of real numbers. NumPy's own errors pass through.
    """
    with open(path, "rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise ValueError("is not a .npy file")
    # Mapped, as a header may claim more than the file has, and than there is memory.
    array = np.load(path, allow_pickle=False, mmap_mode="r")
    if isinstance(array, np.lib.npyio.NpzFile):
        if len(array.files) != 1:
            raise ValueError(f"holds {len(array.files)} arrays ({', '.join(array.files[:5])}); a sample is one array")
        array = array[array.files[0]]
    if isinstance(array, np.ndarray) and array.size > MOST_NUMBERS:
        raise ValueError(f"holds {array.size:,} numbers, more than the {MOST_NUMBERS:,} of one sample")
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ValueError("is not a .npy file with an array of real numbers")
    return array.astype(np.float32)


def padded(array: np.ndarray, length: int) -> np.ndarray:
    """A sequence (T, d) -> (length, d): cut, or the missing steps NaN."""
    result = np.full((length, *array.shape[1:]), np.nan, np.float32)
    result[: len(array)] = array[:length]
    return result


def header(path: str) -> list[int]:
    """The shape of a .npy file's array, without reading it."""
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:  # .npz
        return list(load(path).shape)
    return list(np.load(path, mmap_mode="r", allow_pickle=False).shape)
