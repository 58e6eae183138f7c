"""One modality of many samples, as the shards store it: an array, or compressed frames. Processes can share both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class PackedFrames:
    """N samples of F files each, of any length: file (n, f) is data[begin[n, f] : end[n, f]].

    data: (bytes,) uint8; begin, end: (N, F) int64.
    """

    data: np.ndarray
    begin: np.ndarray
    end: np.ndarray

    @classmethod
    def from_arrow(cls, column: pa.FixedSizeListArray) -> PackedFrames:
        """A view of a `fixed_size_list<binary>` column, whose files are not copied; those of a null are empty."""
        files = column.values.slice(column.offset * column.type.list_size, len(column) * column.type.list_size)
        _, offsets, data = files.buffers()
        bounds = np.frombuffer(offsets, np.int32)[files.offset :][: len(files) + 1].astype(np.int64)
        shape = (len(column), column.type.list_size)
        return cls(np.frombuffer(data, np.uint8), bounds[:-1].reshape(shape), bounds[1:].reshape(shape))

    @classmethod
    def pack(cls, samples: Sequence[Sequence[bytes]]) -> PackedFrames:
        """Copies the given files into one buffer."""
        sizes = np.array([[len(file) for file in files] for files in samples], np.int64)
        end = np.cumsum(sizes.ravel()).reshape(sizes.shape)
        data = np.frombuffer(b"".join(file for files in samples for file in files), np.uint8)
        return cls(data, end - sizes, end)

    def __len__(self) -> int:
        return len(self.begin)

    def files(self, sample: int, frames: Sequence[int] | np.ndarray | None = None) -> list[bytes]:
        """The files of one sample, or those of the given frames."""
        chosen = range(self.begin.shape[1]) if frames is None else frames
        return [self.data[self.begin[sample, frame] : self.end[sample, frame]].tobytes() for frame in chosen]

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return self.data.nbytes + self.begin.nbytes + self.end.nbytes


Column = np.ndarray | PackedFrames
Columns = dict[str, Column]


def presence(modality: str) -> str:
    """Beside the values of a modality that some rows lack: the name of (N,) bool, whether a row has it.

    No modality has such a name. Where a row has none, its values are zeros, which no encoder sees.
    """
    return f"/has/{modality}"


def having(columns: Columns, modality: str) -> np.ndarray:
    """(N,) bool: whether each sample has a modality of these columns."""
    there = columns.get(presence(modality))
    return there if isinstance(there, np.ndarray) else np.ones(len(columns[modality]), dtype=bool)


def gather(
    columns: Sequence[Column], which: Sequence[int] | np.ndarray, rows: np.ndarray, frames: np.ndarray | None = None
) -> Column:
    """Copies sample `rows[i]` of `columns[which[i]]`, for every i.

    frames: (len(rows), F) frame numbers to take from each sample; None: whole samples.
    """
    first = columns[0]
    if isinstance(first, PackedFrames):
        packed = [column for column in columns if isinstance(column, PackedFrames)]
        chosen = [None] * len(rows) if frames is None else frames
        files = [packed[i].files(row, frame) for i, row, frame in zip(which, rows, chosen, strict=True)]
        return PackedFrames.pack(files) if files else PackedFrames(first.data[:0], first.begin[:0], first.end[:0])
    arrays = [column for column in columns if isinstance(column, np.ndarray)]
    inner = first.shape[1:] if frames is None else (frames.shape[1], *first.shape[2:])
    result = np.empty((len(rows), *inner), first.dtype)
    for to, (i, row) in enumerate(zip(which, rows, strict=True)):
        if frames is None:
            result[to] = arrays[i][row]
        else:  # "clip" writes straight into `out`; no index is out of bounds
            np.take(arrays[i][row], frames[to], axis=0, out=result[to], mode="clip")
    return result


def to_arrow(value: np.ndarray | Sequence[Sequence[bytes]], there: np.ndarray | None = None) -> pa.Array:
    """One modality of a shard: (N, ...) numbers as tensors, or N lists of F files.

    there: (N,) bool, whether a row has it; where not, the column is null, and numbers are zeros.
    """
    if there is None:
        there = np.ones(len(value), dtype=bool)
    if not isinstance(value, np.ndarray):
        files = [one if has else None for one, has in zip(value, there, strict=True)]
        return pa.array(files, pa.list_(pa.binary(), len(value[0])))
    if there.all():
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(value))
    dense = np.zeros_like(value)
    dense[there] = value[there]
    numbers, shape = pa.array(dense.reshape(-1)), list(value.shape[1:])
    storage = pa.FixedSizeListArray.from_arrays(numbers, math.prod(shape), mask=pa.array(~there))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(numbers.type, shape), storage)


def from_arrow(column: pa.Array) -> Column:
    """A view of what `to_arrow` made; nothing is copied."""
    if not isinstance(column, pa.FixedShapeTensorArray):
        return PackedFrames.from_arrow(column)
    if not column.null_count:
        return column.to_numpy_ndarray()
    size = math.prod(column.type.shape)
    numbers = column.storage.values.slice(column.storage.offset * size, len(column) * size)
    return numbers.to_numpy().reshape(len(column), *column.type.shape)
