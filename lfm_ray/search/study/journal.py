"""Optuna's journal file, made safe against failing storage and against a kill in the middle of a line."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from lfm_ray.checksums import line_of, record_of
from lfm_ray.console import console, notice
from lfm_ray.errors import UserError
from lfm_ray.files import appending
from lfm_ray.storage import patiently, shown

DAMAGED = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)  # what Python says of a line is for programmers


class NoLock(JournalFileSymlinkLock):
    """Replaces Optuna's lock, a symlink that a killed process leaves behind and the next one silently waits for.

    If the journal's path is relative, the link is broken and Optuna waits forever.
    """

    def acquire(self) -> bool:
        """Does nothing."""
        return True

    def release(self) -> None:
        """Does nothing."""


class CheckedJournal(JournalFileBackend):
    """A journal that is only read, so that another process may be writing; each of its lines is checked.

    A line holds a CRC-32 of itself and its number; those of earlier versions have none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path), NoLock(str(path)))
        self._offsets = {0: 0}  # number of records -> bytes that they take
        self._sure = False

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records from number `log_number_from` on; a last line that has no end is still being written.

        Raises:
            UserError: a line is not as it was written.
        """
        if self.path.is_dir():
            raise UserError(f"{shown(self.path)}: is a folder, not the journal of a search; put a copy of it back")
        known = max(number for number in self._offsets if number <= log_number_from)
        with self.path.open("rb") as file:
            file.seek(self._offsets[known])
            content = file.read()
        offset = self._offsets[known]
        for number, line in enumerate(content.split(b"\n")[:-1], start=known + 1):
            try:
                record, checked = record_of(line, number)
                if self._sure and not checked:
                    raise ValueError("has no checksum, so it was altered")
            except (ValueError, RecursionError) as error:
                ours = not isinstance(error, DAMAGED) and "sys.set_int_max_str_digits" not in str(error)
                reason = str(error) if ours else "is damaged"
                raise UserError(
                    f"{shown(self.path)}, line {number}: {reason}; put a copy of the file back, or remove this line and"
                    " all after it: what they say is then done again"
                ) from None
            self._sure = self._sure or checked
            offset += len(line) + 1
            self._offsets[number] = offset
            if number > log_number_from:
                yield record


class PatientJournal(CheckedJournal):
    """A journal that retries reads and writes while storage fails.

    A write that fails or is cut short by a kill leaves no partial line behind, which would make the
    file unreadable. Only one process at a time may open a file this way; `Sweep.hold` ensures it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        whole = end_of_last_line(path)
        os.truncate(path, whole)
        with path.open("rb") as file:
            self._lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of `logs`, exactly once."""
        size = self.path.stat().st_size
        text = "".join(line_of(log, number) for number, log in enumerate(logs, start=self._lines + 1))

        def append() -> None:
            os.truncate(self.path, size)
            with appending(self.path) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())

        patiently(append, self.path, _notice)
        self._lines += len(logs)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records of the journal from number `log_number_from` on."""
        yield from patiently(lambda: list(super(PatientJournal, self).read_logs(log_number_from)), self.path, _notice)


def end_of_last_line(path: Path) -> int:
    """The size of a file in bytes, not counting an unfinished last line."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1


def _notice(text: str) -> None:
    console.print(notice(text), soft_wrap=True)
