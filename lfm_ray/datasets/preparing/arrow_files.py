"""Parquet and Arrow files: their small columns as data frames, their media cell by cell.

Media never lie in memory together. A `Cell` says where one is; a cursor reads its column from front to back, a
few rows at a time, so that neighbours cost nothing more, however large the file or its row groups are.
"""

from __future__ import annotations

import bisect
import functools
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as pq

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.preparing.embedded import Embedded
from lfm_ray.errors import UserError

DAMAGED = (pa.ArrowException, OSError, EOFError, ValueError)  # what is raised of files that are no longer whole
BYTES_AT_ONCE = 4 * 2**20  # of a column, that a cursor reads
ROWS_AT_ONCE = 1024
BUFFER = 2**20  # bytes; without one, a whole column of a row group is read into memory
MAPPED = 256 * 2**20  # bytes of an Arrow file that are read before it is mapped anew, which lets go of the pages


@dataclass(frozen=True, slots=True)
class Cell(Embedded):
    """The bytes in a cell, those of a {bytes, path}, or numbers in lists, which become a .npy file."""

    column: str
    row: int

    @property
    def place(self) -> str:
        """Its row and column."""
        return f"row {self.row}, {self.column}"

    def copy_to(self, target: IO[bytes]) -> None:
        """Writes the bytes, or a .npy file of the numbers."""
        status = os.stat(self.file)
        try:
            value = _cursor(self.file, self.column, status.st_size, status.st_mtime_ns).value(self.row)
        except (*DAMAGED, IndexError):
            raise ValueError("is damaged: the file around it cannot be read there") from None
        value = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(value, bytes):
            target.write(value)
            return
        try:
            array = np.asarray(value)
        except ValueError:
            raise ValueError("holds lists of different lengths, which are not an array") from None
        if array.dtype.kind not in "fiub":
            raise ValueError("holds lists of something else than numbers, or gaps in them")
        np.save(target, array, allow_pickle=False)


class ArrowFile:
    """A Parquet file, or an Arrow file in the form of files or of streams, as `datasets` writes it."""

    def __init__(self, path: str | Path) -> None:
        """Raises a UserError if it cannot be read."""
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                head = file.read(6)
            self.parquet = head.startswith(b"PAR1")
            self.stream = not self.parquet and not head.startswith(b"ARROW1")
            if self.parquet:
                self._parquet = pq.ParquetFile(self.path, pre_buffer=False, buffer_size=BUFFER)
                self.schema: pa.Schema = self._parquet.schema_arrow
            else:
                self.schema = self._reader().schema
            for field in self.schema:
                _check_names(field)
        except FileNotFoundError:
            raise UserError(f"{self.path}: there is no such file") from None
        except DAMAGED as error:
            raise UserError(f"{self.path}: cannot be read: {_first_line(error)}") from None

    def check_columns(self, names: Sequence[str]) -> None:
        """Raises a UserError if the file has two columns of one of these names."""
        for name in names:
            if (count := self.schema.names.count(name)) > 1:
                raise UserError(f"{self.path}: has {count} columns named {name!r}; rename or remove all but one")

    def frame(self, columns: Sequence[str], lists: Collection[str] = ()) -> pd.DataFrame:
        """These columns, in memory; bytes are read as UTF-8. lists: those that may hold lists of texts or numbers.

        Raises:
            UserError: a column holds lists or structures, or the file is damaged.
        """
        for name in columns:
            kind = self.schema.field(name).type
            if name in lists and _is_list(kind) and not pa.types.is_nested(kind.value_type):
                continue
            if pa.types.is_nested(kind) or isinstance(kind, pa.ExtensionType):
                raise UserError(f"{self.path}: column {name!r} holds {_in_words(kind)}, not one text or number a row")
        try:
            if self.parquet:
                table = self._parquet.read(columns=list(columns), use_threads=False)
            else:
                batches = [batch.select(list(columns)) for batch in self._batches()]
                table = pa.Table.from_batches(batches, pa.schema([self.schema.field(name) for name in columns]))
                table.validate(full=True)
            # Integers of a column with nulls as objects: as floats those above 2**53 would be others.
            frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
        except DAMAGED as error:
            raise UserError(f"{self.path}: cannot be read: {_first_line(error)}") from None
        for name in columns:
            if _is_bytes(self.schema.field(name).type):
                frame[name] = [_decoded(value) for value in frame[name]]
        return frame

    def media(self, name: str, kind: Kind) -> list[object]:
        """A column of media: for each row a `Cell`, a path, or None.

        Raises:
            UserError: the column's type is none that can hold this kind, or the file is damaged.
        """
        column = self.schema.field(name).type
        size = os.stat(self.path).st_size
        inner = bytes_field(column)
        if not _is_bytes(column) and inner is None and not (kind == "feature" and _is_numbers(column)):
            if pa.types.is_nested(column) or isinstance(column, pa.ExtensionType):
                raise UserError(
                    f"{self.path}: column {name!r} holds {_in_words(column)}; {kind} is read from paths, bytes, or"
                    " structures of bytes and path"
                )
            return list(self.frame([name])[name])
        found: list[object] = []
        try:
            if self.parquet and self._is_full(name):
                return [Cell(str(self.path), size, name, row) for row in range(self._parquet.metadata.num_rows)]
            for batch in self._batches([name]):
                batch.validate(full=True)
                found += self._cells(batch.column(batch.schema.get_field_index(name)), name, size, len(found))
        except DAMAGED as error:
            raise UserError(f"{self.path}: cannot be read: {_first_line(error)}") from None
        return found

    def features(self) -> dict[str, dict[str, Any]]:
        """What `datasets` notes of each column, such as {"_type": "ClassLabel", "names": [...]}; empty: nothing."""
        try:
            noted = json.loads((self.schema.metadata or {})[b"huggingface"])["info"]["features"]
        except (KeyError, ValueError, TypeError):
            return {}
        return {name: value for name, value in noted.items() if isinstance(value, dict)}

    def cells_from(self, column: str, row: int) -> tuple[Iterator[tuple[int, pa.Array]], int]:
        """The column in pieces, each with its first row, from one that holds `row` or lies before it, and their end."""
        if not self.parquet:
            return _numbered(0, (batch.column(batch.schema.get_field_index(column)) for batch in self._batches())), -1
        metadata = self._parquet.metadata
        starts = np.cumsum([0, *(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))])
        group = bisect.bisect_right(starts.tolist(), row) - 1
        batches = self._parquet.iter_batches(
            self._rows_at_once(group), row_groups=[group], columns=[column], use_threads=False
        )
        pieces = (batch.column(batch.schema.get_field_index(column)) for batch in batches)
        return _numbered(int(starts[group]), pieces), int(starts[group + 1])

    def _cells(self, column: pa.Array, name: str, size: int, first: int) -> Iterator[object]:
        there = column.is_valid()
        paths = None
        if pa.types.is_struct(column.type):
            names = [column.type.field(index).name for index in range(column.type.num_fields)]
            there = compute.and_(there, column.field("bytes").is_valid())
            paths = column.field("path") if names.count("path") == 1 else None
        for offset, full in enumerate(there.to_pylist()):
            if full:
                yield Cell(str(self.path), size, name, first + offset)
            else:
                yield paths[offset].as_py() if paths is not None and column[offset].is_valid else None

    def _is_full(self, name: str) -> bool:
        """Whether the statistics of a Parquet file say that no cell of the column is null."""
        metadata = self._parquet.metadata
        wanted = (name, f"{name}.bytes")
        found = 0
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                column = metadata.row_group(group).column(index)
                if column.path_in_schema in wanted:
                    found += 1
                    if column.statistics is None or column.statistics.null_count != 0:
                        return False
        return found == metadata.num_row_groups

    def _rows_at_once(self, group: int) -> int:
        metadata = self._parquet.metadata.row_group(group)
        return max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE * metadata.num_rows // max(1, metadata.total_byte_size)))

    def _batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows, in order, in pieces that need little memory."""
        if self.parquet:
            for group in range(self._parquet.metadata.num_row_groups):
                yield from self._parquet.iter_batches(
                    self._rows_at_once(group), row_groups=[group], columns=columns, use_threads=False
                )
        elif self.stream:
            yield from self._reader()
        else:
            reader = self._reader()
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))

    def _reader(self) -> Any:
        """Maps an Arrow file into memory: of what is not asked for nothing is read."""
        mapped = pa.memory_map(str(self.path))
        return pa.ipc.open_stream(mapped) if self.stream else pa.ipc.open_file(mapped)


class _Cursor:
    """Where a column of a file is being read."""

    def __init__(self, file: str, column: str) -> None:
        self.file, self.column = file, column
        self.pieces: Iterator[tuple[int, pa.Array]] | None = None
        self.piece: pa.Array = pa.nulls(0)
        self.first, self.end, self.read = 0, -1, 0

    def value(self, row: int) -> Any:
        """The content of a cell, as Python has it, or as an array."""
        if not self.first <= row or (self.end >= 0 and row >= self.end) or self.pieces is None:
            self._forget()
            self.pieces, self.end = ArrowFile(self.file).cells_from(self.column, row)
        while row >= self.first + len(self.piece):
            try:
                self.first, self.piece = next(self.pieces)
            except StopIteration:
                raise IndexError(row) from None
        cell = self.piece.slice(row - self.first, 1)
        if isinstance(cell, pa.FixedShapeTensorArray):
            has_gaps = cell.storage.flatten().null_count  # whose numbers are whatever lies there
            return cell.storage[0].as_py() if has_gaps else cell.to_numpy_ndarray()[0]
        found = cell[0].as_py()
        content = found.get("bytes") if isinstance(found, dict) else found
        self.read += len(content) if isinstance(content, bytes) else 0
        if self.read > MAPPED:
            self._forget()
        return found

    def _forget(self) -> None:
        self.pieces, self.piece = None, pa.nulls(0)
        self.first, self.end, self.read = 0, -1, 0


@functools.lru_cache(maxsize=8)
def _cursor(file: str, column: str, size: int, changed: int) -> _Cursor:
    """One for each column that a process is reading. size, changed: a file that was replaced is opened anew."""
    return _Cursor(file, column)


def bytes_field(column: pa.DataType) -> pa.DataType | None:
    """The type of the bytes in a structure of bytes and path, as `datasets` stores pictures, sound and videos."""
    if not pa.types.is_struct(column):
        return None
    found = [column.field(index).type for index in range(column.num_fields) if column.field(index).name == "bytes"]
    return found[0] if len(found) == 1 and _is_bytes(found[0]) else None


def _check_names(field: pa.Field) -> None:
    """Raises a UnicodeDecodeError if the name of a field, or of one within it, is no text."""
    str(field.name)
    for index in range(field.type.num_fields):
        _check_names(field.type.field(index))


def _is_bytes(column: pa.DataType) -> bool:
    if pa.types.is_dictionary(column):
        column = column.value_type
    return (
        pa.types.is_binary(column)
        or pa.types.is_large_binary(column)
        or pa.types.is_fixed_size_binary(column)
        or pa.types.is_binary_view(column)
    )


def _is_numbers(column: pa.DataType) -> bool:
    """Whether it is lists, or lists of lists, of numbers, or tensors."""
    if isinstance(column, pa.FixedShapeTensorType):
        return True
    depth = 0
    while _is_list(column):
        column, depth = column.value_type, depth + 1
    return depth > 0 and (pa.types.is_floating(column) or pa.types.is_integer(column) or pa.types.is_boolean(column))


def _is_list(column: pa.DataType) -> bool:
    types = pa.types
    return (
        types.is_list(column) or types.is_large_list(column) or types.is_fixed_size_list(column)
        or types.is_list_view(column) or types.is_large_list_view(column)
    )  # fmt: skip


def _in_words(column: pa.DataType) -> str:
    if pa.types.is_struct(column):
        names = [column.field(index).name for index in range(column.num_fields)]
        return f"structures of {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    if pa.types.is_map(column):
        return "maps"
    if isinstance(column, pa.ExtensionType):
        return "tensors"
    return "lists" if _is_list(column) else f"values of Arrow's type {column}"


def _decoded(value: object) -> object:
    """UTF-8 as text; other bytes as they are, which are refused later, with their row."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _numbered(first: int, pieces: Iterator[pa.Array]) -> Iterator[tuple[int, pa.Array]]:
    for piece in pieces:
        piece.validate(full=True)  # or what a damaged file says of positions would be believed
        yield first, piece
        first += len(piece)


def _first_line(error: Exception) -> str:
    if "zoneinfo" in str(error):  # what Arrow says of a time zone that Python does not know
        return "a column of times has an unknown time zone"
    return (str(error).splitlines() or [type(error).__name__])[0]
