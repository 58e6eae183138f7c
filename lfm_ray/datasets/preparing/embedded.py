"""Media that lie within other files: a member of a tar, a cell of a Parquet or an Arrow file.

Decoders take a path. What lies within another file is copied for them, one item at a time, into a file that
has no name: it needs no memory, and the operating system removes it with the process, however that ends.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lfm_ray.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Embedded(ABC):
    """One item of media within `file`; size: bytes of the item, or of the file where the item's are not known."""

    file: str
    size: int

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is in the file, in words for a person."""

    @abstractmethod
    def copy_to(self, target: IO[bytes]) -> None:
        """Writes its bytes.

        Raises:
            ValueError: they cannot be read; says why.
        """

    @property
    def most_steps(self) -> int | None:
        """Of a sequence: how many steps it and the others of its array can have; None: that is not known."""
        return None

    @property
    def short(self) -> str:
        """The same wherever the folder of the file is moved."""
        return f"{Path(self.file).name}, {self.place}"

    def __str__(self) -> str:
        return f"{self.file}, {self.place}"


@contextlib.contextmanager
def path_of(value: str | Embedded) -> Iterator[str]:
    """The path of a file, while it is needed: itself, or that of a copy of what is embedded.

    Raises:
        ValueError: what is embedded cannot be read.
        UserError: there is no space for the copy.
    """
    if isinstance(value, str):
        yield value
        return
    with _copy() as copy:
        try:
            value.copy_to(copy)
            copy.flush()
        except OSError as error:
            if error.errno in FULL:  # not the item's fault, and true of the next one too
                raise UserError(f"{tempfile.gettempdir()}: is full; let TMPDIR name a folder with more space") from None
            raise ValueError(f"cannot be read: {error.strerror or error}") from None
        number = next(_numbers)  # two copies at one descriptor are different files to those who remember files
        os.utime(copy.fileno(), ns=(number, number))
        yield f"/proc/self/fd/{copy.fileno()}"


def _copy() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise UserError(f"no temporary file can be made: {error.strerror or error}; let TMPDIR name a folder") from None
