"""Pickles of arrays, read without running what they name.

Python's reader imports and calls whatever a pickle names. This one imports nothing: it knows the form in which NumPy
puts arrays into pickles, takes texts, numbers, lists, tuples, sets and dicts beside them, and refuses everything else.
Large arrays stay in the file, which may be larger than memory; `PickledArray` says where they lie.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lfm_ray.errors import UserError

LARGE = 2**12  # bytes, from which on they stay in the file
DAMAGED = (pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
           AssertionError, MemoryError, struct.error)  # fmt: skip
NUMBERS = re.compile(r"[<>|=]?(b1|[fiu][1248]|[US]\d{1,4})")


class Place(NamedTuple):
    """Bytes that lie in the file."""

    offset: int
    size: int


@dataclass
class PickledArray:
    """An array as it lies in a pickle: of numbers, or of texts.

    data: its bytes, in C order; or where they are; or, of an array of objects, these.
    """

    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] | None = None
    data: bytes | Place | list[Any] = b""

    def values(self, file: Path) -> np.ndarray:
        """The whole array. file: the pickle."""
        if isinstance(self.data, list):
            found = np.empty(len(self.data), dtype=object)
            found[:] = self.data
            return found.reshape(self.shape)
        return np.frombuffer(read_bytes(file, self.data), self.dtype).reshape(self.shape)

    def row(self, number: int) -> bytes | Place:
        """The bytes of one of the first dimension, or where they are."""
        assert self.dtype is not None
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        if isinstance(self.data, Place):
            return Place(self.data.offset + number * size, size)
        assert isinstance(self.data, bytes)
        return self.data[number * size : (number + 1) * size]


def read_bytes(file: str | Path, data: bytes | Place) -> bytes:
    """The bytes, from the file if they lie there."""
    if isinstance(data, bytes):
        return data
    with open(file, "rb") as source:
        source.seek(data.offset)
        return source.read(data.size)


def read(path: Path) -> Any:
    """What a pickle holds: texts, numbers, None, containers, and `PickledArray`.

    Raises:
        UserError: it holds anything else, or is damaged.
    """
    only = "only arrays, texts, numbers and containers of these are read from pickles, since others can run code"
    try:
        with path.open("rb") as file:
            return _Reader(file, path.stat().st_size).load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except _Refused as error:
        raise UserError(f"{path}: {error}; {only}") from None
    except DAMAGED:
        raise UserError(f"{path}: is no pickle, is cut short, or holds something else; {only}") from None


class _Refused(Exception):
    """What a pickle holds is not read; says what."""


@dataclass(frozen=True)
class _Part:
    """Something that a pickle names."""

    name: str


@dataclass
class _Type:
    """An element type, before its byte order is known."""

    code: str
    order: str = "|"

    def finished(self) -> np.dtype[Any] | None:
        """As NumPy has it; None: objects."""
        if self.code.startswith("O"):
            return None
        if not NUMBERS.fullmatch(self.order + self.code):
            raise _Refused(f"holds an array of type {self.code[:20]!r}")
        return np.dtype(self.order + self.code)


def _filled(array: PickledArray, shape: Any, kind: _Type, fortran: Any, data: Any) -> PickledArray:
    dtype, shape = kind.finished(), tuple(int(size) for size in shape)
    if min(shape, default=1) < 0 or (fortran and len(shape) > 1 and math.prod(shape)):
        raise _Refused("holds an array in Fortran's order; save it again after np.ascontiguousarray")
    if isinstance(data, bytearray):
        data = bytes(data)
    if dtype is None:
        right = isinstance(data, list) and len(data) == math.prod(shape)
    else:
        count = data.size if isinstance(data, Place) else len(data) if isinstance(data, bytes) else -1
        right = count == math.prod(shape) * dtype.itemsize
    if not right:
        raise ValueError("an array's bytes do not fit its shape")
    array.shape, array.dtype, array.data = shape, dtype, data
    return array


def _empty(*_: Any) -> PickledArray:
    return PickledArray()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> PickledArray:
    return _filled(PickledArray(), shape, kind, order == "F", data)


def _scalar(kind: Any, data: Any) -> Any:
    return np.frombuffer(data, kind.finished())[0].item()


def _type(code: Any, *_: Any) -> _Type:
    return _Type(str(code))


def _no_bytes() -> bytes:
    """Empty bytes, as old protocols write them; others can be of any size."""
    return b""


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding != "latin1":
        raise ValueError(encoding)
    return bytes(str(text), "latin1")


CALLS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _empty,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _type,
    "_codecs.encode": _encoded,
    "collections.OrderedDict": dict,
    **{f"{module}.set": set for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": frozenset for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": _no_bytes for module in ("builtins", "__builtin__")},
}
NAMES = (*CALLS, "numpy.ndarray")
OBJECTS = (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
           pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)  # fmt: skip


_PythonsReader: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Reader(_PythonsReader):  # type: ignore[misc]
    """Python's reader of pickles without what makes objects, and with its own way to make arrays."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in _PythonsReader.dispatch.items() if bytes([code]) not in OBJECTS
    }

    def __init__(self, file: Any, size: int) -> None:
        super().__init__(file)
        self.file, self.size = file, size

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        full = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if full not in NAMES:
            raise _Refused(f"names {full[:80]!r}")
        return _Part(full)

    def load_call(self) -> None:
        """What a part makes of its arguments."""
        arguments = self.stack.pop()
        self.stack[-1] = CALLS[self.stack[-1].name](*arguments)

    def load_state(self) -> None:
        """Fills in an array or a type."""
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, _Type):
            made.order = state[1]
        elif isinstance(made, PickledArray):
            _filled(made, *state[1:])
        else:
            raise TypeError(made)

    def load_bytes(self, form: str) -> None:
        """Bytes, which stay in the file if they are many."""
        (count,) = struct.unpack(form, self.read(struct.calcsize(form)))
        frame = self._unframer.current_frame
        if count < LARGE or (frame is not None and frame.tell() < len(frame.getbuffer())):
            self.append(bytes(self.read(count)))
            return
        self._unframer.current_frame = None
        place = Place(self.file.tell(), count)
        if place.offset + place.size > self.size:
            raise EOFError
        self.file.seek(count, 1)
        self.append(place)

    dispatch[pickle.REDUCE[0]] = load_call
    dispatch[pickle.BUILD[0]] = load_state
    dispatch[pickle.BINBYTES[0]] = lambda self: self.load_bytes("<I")
    dispatch[pickle.BINBYTES8[0]] = lambda self: self.load_bytes("<Q")
    dispatch[pickle.BYTEARRAY8[0]] = lambda self: self.load_bytes("<Q")
