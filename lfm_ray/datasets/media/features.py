"""Features extracted beforehand: one .npy file per sample."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lfm_ray.datasets.media.content import is_ours
from lfm_ray.settings import Settings


class FeatureSettings(Settings):
    """Features extracted beforehand: one .npy file of numbers per sample."""

    shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, description="shape of one sample; null: that of most training files"
    )
    length: int | None = Field(
        None,
        ge=1,
        description="of sequences (T, d) whose T differs: steps of a sample; longer ones are cut, and the steps that a"
        " shorter one has not are NaN, which model.encoders.MODALITY: sequence does not read; null: all have one shape",
    )


MOST_NUMBERS = 2**28  # of a sample, 1 GiB
NO_NUMBERS = "is not a .npy file with an array of real numbers"
# What zipfile raises of archives that are cut, altered, encrypted or compressed in ways that it does not know.
BROKEN_ARCHIVES = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, KeyError)


def load(path: str) -> np.ndarray:
    """The array of a .npy file, or the only one of a .npz file, as float32.

    Raises:
        ValueError: the file does not hold an array of real numbers, or less than its header says.
    """
    with open(path, "rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise ValueError("is not a .npy file")
    try:
        # Mapped, as a header may claim more than the file has, and than there is memory.
        array = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(array, np.lib.npyio.NpzFile):
            with array:
                _check_size(_shape_in(array))  # before it is unpacked: a few kilobytes can hold terabytes
                array = array[array.files[0]]
    except BROKEN_ARCHIVES:
        raise ValueError("is damaged: it is a .npz archive that cannot be unpacked") from None
    except EOFError as error:
        raise ValueError(_in_words(str(error))) from None
    except ValueError as error:
        if is_ours(error):
            raise
        raise ValueError(_in_words(str(error))) from None
    _check_size(array.shape)
    _check_type(array.dtype)
    if array.ndim == 0:
        raise ValueError(NO_NUMBERS)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, which is refused
        return array.astype(np.float32)


def _in_words(said: str) -> str:
    """What NumPy says of a file, in words for a person."""
    if "object" in said.lower():
        return "holds Python objects, not an array of numbers"
    short = ("mmap length is greater", "EOF", "No data left", "Failed to read all data")
    return "is cut short" if said.startswith(short) else "is damaged: NumPy cannot read its header"


def _check_size(shape: Sequence[int]) -> None:
    _check_numbers(shape)
    if (numbers := math.prod(shape)) > MOST_NUMBERS:
        raise ValueError(f"holds {numbers:,} numbers, more than the {MOST_NUMBERS:,} of one sample")


def _check_type(dtype: np.dtype[Any]) -> None:
    if dtype.kind == "O":
        raise ValueError("holds Python objects, not an array of numbers")
    if dtype.kind not in "fiub":
        raise ValueError(NO_NUMBERS)


def _check_numbers(shape: Sequence[int]) -> None:
    if math.prod(shape) == 0:
        raise ValueError(f"holds no numbers: its shape is {list(shape)}")


def _shape_in(archive: Any) -> list[int]:
    """The shape of the only array of an .npz file, from its header.

    Raises:
        ValueError: there are several, or what is there is no array.
    """
    if len(archive.files) != 1:
        raise ValueError(f"holds {len(archive.files)} arrays ({', '.join(archive.files[:5])}); a sample is one array")
    (name,) = archive.zip.namelist()
    with archive.zip.open(name) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except ValueError:
            raise ValueError("holds no array of NumPy") from None
    _check_type(dtype)
    return list(shape)


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
        with np.load(path, allow_pickle=False) as archive:
            shape = _shape_in(archive)
    else:
        shape = list(np.load(path, mmap_mode="r", allow_pickle=False).shape)
    _check_numbers(shape)
    return shape
