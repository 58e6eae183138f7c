"""Optuna's journal file, made safe against failing storage and against a kill in the middle of a line."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from lfm_ray.console import console, notice
from lfm_ray.storage import patiently


class NoLock(JournalFileSymlinkLock):
    """Replaces Optuna's lock, a symlink that a killed process leaves behind and the next one silently waits for.

    If the journal's path is relative, the link is broken and Optuna waits forever.
    """

    def acquire(self) -> bool:
        """Does nothing."""
        return True

    def release(self) -> None:
        """Does nothing."""


class PatientJournal(JournalFileBackend):
    """A journal that retries reads and writes while storage fails.

    A write that fails or is cut short by a kill leaves no partial line behind, which would make the
    file unreadable. Only one process at a time may open a file this way; `Sweep.hold` ensures it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(str(path), NoLock(str(path)))
        os.truncate(path, end_of_last_line(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends all of `logs`, exactly once."""
        size = self.path.stat().st_size

        def append() -> None:
            os.truncate(self.path, size)
            super(PatientJournal, self).append_logs(logs)

        patiently(append, self.path, _notice)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records of the journal from number `log_number_from` on."""
        yield from patiently(lambda: list(super(PatientJournal, self).read_logs(log_number_from)), self.path, _notice)


def end_of_last_line(path: Path) -> int:
    """The size of a file in bytes, not counting an unfinished last line."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1


def _notice(text: str) -> None:
    console.print(notice(text), soft_wrap=True)
