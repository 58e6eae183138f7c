"""Optuna's journal file on storage that can fail, and after a kill in the middle of a line."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from lfm_ray.console import console
from lfm_ray.storage import patiently


class NoLock(JournalFileSymlinkLock):
    """Instead of Optuna's lock, a link that a killed process leaves behind, and for which the next waits, silently.

    Where the journal's path is relative, the link points nowhere, and Optuna waits for ever.
    """

    def acquire(self) -> bool:
        """Nothing to wait for."""
        return True

    def release(self) -> None:
        """Nothing to give back."""


class PatientJournal(JournalFileBackend):
    """A journal whose writes and reads are done again while storage fails.

    A write that failed, or that a kill cut short, leaves no part of a line behind, which would make
    the file unreadable. One process at a time may have such a journal on a file: `Sweep.hold` sees to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path), NoLock(str(path)))
        os.truncate(path, end_of_last_line(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of `logs`, once."""
        size = self.path.stat().st_size

        def append() -> None:
            os.truncate(self.path, size)
            super(PatientJournal, self).append_logs(logs)

        patiently(append, self.path, _notice)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """What stands in the journal from a record on."""
        yield from patiently(lambda: list(super(PatientJournal, self).read_logs(log_number_from)), self.path, _notice)


def end_of_last_line(path: Path) -> int:
    """The size of a file without an unfinished line at its end, in bytes."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1


def _notice(text: str) -> None:
    console.print(f"[yellow]{text}[/]", soft_wrap=True)
