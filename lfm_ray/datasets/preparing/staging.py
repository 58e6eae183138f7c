"""A staging folder, where a job that may be killed at any moment builds a dataset part by part.

The job works in `OUT.partial`, which is renamed to `OUT` when it is complete. So a reader never sees
half a dataset, and finished work is not repeated. Its files, besides the shards:

    fingerprint       of the source and the settings that the work belongs to
    NAME.arrow.json   the result of a finished shard
    dataset.json      written last; from then on the folder is complete and only has to be put into place
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lfm_ray.datasets.shards import CARD, CONTACT_SHEET, LINEAR_BASELINES, DatasetCard, read_card
from lfm_ray.errors import UserError
from lfm_ray.files import LONGEST_NAME, check_path, check_within, write_atomically
from lfm_ray.storage import LOCK, hold
from lfm_ray.visible import UNSHOWN

BAD_ROWS = "bad_rows.csv"
FINGERPRINT = "fingerprint"


class StagingFolder:
    """The folder where `out` is built, by one process at a time."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        self.out, self.fingerprint = out, fingerprint
        self.folder = out.with_name(f"{out.name}.partial")
        self._older = out.with_name(f"{out.name}.replaced")

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Locks the folder for this process; the lock of a killed process is released.

        What an interrupted job with the same fingerprint left is kept; anything else is removed.

        Raises:
            UserError: another process is writing there, or the folder is not ours or cannot be written.
        """
        marks = (self.folder / FINGERPRINT, self.folder / CARD)
        foreign = self.folder.exists() and any(item.name != LOCK for item in self.folder.iterdir())
        if foreign and not any(mark.is_file() for mark in marks):
            raise UserError(f"{self.folder}: is in the way and was not made by lfm_ray; move it, or use another --out")
        check_within(self.folder)
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            held = hold(self.folder, "another prepare is writing there; wait for it, or choose another --out")
        with held:
            with self.writing():
                self._resume_or_start_over()
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns errors of the file system into one-line errors."""
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror or error}") from None

    def complete(self) -> bool:
        """Whether everything is written, and the folder only has to be put into place."""
        return (self.folder / CARD).is_file() and read_card(self.folder).fingerprint == self.fingerprint

    def result(self, shard: str) -> dict[str, Any] | None:
        """An earlier job's result for a shard; None if there is none, or it had bad rows, which may be fixed by now."""
        try:
            result: dict[str, Any] = json.loads((self.folder / f"{shard}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return None if result["bad"] else result

    def finish(self, card: DatasetCard) -> None:
        """Writes the card, which completes the folder, and puts the folder into place."""
        with self.writing():
            write_atomically(self.folder / CARD, card.to_json())
        self.put_into_place()

    def put_into_place(self) -> None:
        """Renames the complete folder to `out`; an older dataset there is removed only after that."""
        kept = _files(read_card(self.folder))
        with self.writing():
            for item in self.folder.iterdir():
                if item.name not in kept:
                    item.unlink()
            if self.out.exists():
                shutil.rmtree(self._older, ignore_errors=True)
                self.out.rename(self._older)
            self.folder.rename(self.out)
        self.remove_older()

    def remove_older(self) -> None:
        """Removes the dataset that `out` replaced, if it is still there."""
        if self.out.exists() and (self._older / CARD).is_file():
            shutil.rmtree(self._older)

    def _resume_or_start_over(self) -> None:
        mark = self.folder / FINGERPRINT
        if self.complete() or (mark.is_file() and mark.read_text() == self.fingerprint):
            return
        write_atomically(mark, "")  # the folder is still marked as ours, but fits no job
        for item in self.folder.iterdir():
            if item.name not in (LOCK, FINGERPRINT):
                item.unlink()
        write_atomically(mark, self.fingerprint)


def check_replaceable(out: Path) -> None:
    """Raises a UserError unless `out` is free, empty, or a dataset folder with nothing else in it."""
    if len(out.name.encode(errors="surrogateescape")) > LONGEST_NAME:
        raise UserError(f"--out {out.name[:80]}...: the name of a folder has at most {LONGEST_NAME} bytes; shorten it")
    if UNSHOWN.search(str(out)):
        raise UserError(f"--out {out}: has a character that is not UTF-8 or cannot be shown; choose another folder")
    check_path(out)
    if out.is_symlink() and not out.exists():
        raise UserError(f"--out {out}: is a link that leads nowhere; remove it, or choose another folder")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / CARD).is_file():  # before all that lies in it is looked at: it may be a home
        raise UserError(f"--out {out}: exists and is not a dataset of lfm_ray; choose another folder")
    check_within(out)
    ours = _files(read_card(out))
    foreign = sorted(item.name for item in out.iterdir() if item.name not in ours)
    if foreign:
        raise UserError(f"--out {out}: holds {foreign[0]}, which is not part of the dataset; choose another folder")


def _files(card: DatasetCard) -> set[str]:
    """The names of a finished dataset's files."""
    return {CARD, BAD_ROWS, CONTACT_SHEET, LINEAR_BASELINES} | {
        shard.file for shards in card.splits.values() for shard in shards
    }
