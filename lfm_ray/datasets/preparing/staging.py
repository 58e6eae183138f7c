"""A folder that is made in parts, by a job that can be killed at any moment, and then is there as a whole.

Work goes to `OUT.partial`, which becomes `OUT` when all of it is done. So a reader never sees half
a dataset, and what was done is not done again. Its files, beside the shards:

    fingerprint       of the source and the settings that the work belongs to
    NAME.arrow.json   what is known of a finished shard
    dataset.json      written last; from then on the folder is complete and only has to be put into place
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lfm_ray.datasets.shards import CARD, CONTACT_SHEET, DatasetCard, read_card
from lfm_ray.errors import UserError
from lfm_ray.storage import LOCK, hold

BAD_ROWS = "bad_rows.csv"
FINGERPRINT = "fingerprint"


class Workplace:
    """The folder where `out` is made, for this process alone."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        self.out, self.fingerprint = out, fingerprint
        self.folder = out.with_name(f"{out.name}.partial")
        self._older = out.with_name(f"{out.name}.replaced")

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Keeps the folder to this process; the lock of a process that was killed is free again.

        What an interrupted job with the same fingerprint left is kept, and nothing else.

        Raises:
            UserError: another process is writing there, the folder is not ours, or cannot be written.
        """
        marks = (self.folder / FINGERPRINT, self.folder / CARD)
        foreign = self.folder.exists() and any(item.name != LOCK for item in self.folder.iterdir())
        if foreign and not any(mark.is_file() for mark in marks):
            raise UserError(f"{self.folder}: is in the way, and is not lfm_ray's; move it or name another --out")
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            held = hold(self.folder, "another prepare is writing there; wait for it, or name another --out")
        with held:
            with self.writing():
                self._start_or_go_on()
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what the file system refuses into one line."""
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror or error}") from None

    def complete(self) -> bool:
        """Whether a job was killed between its last shard and putting the folder into place."""
        return (self.folder / CARD).is_file() and read_card(self.folder).fingerprint == self.fingerprint

    def result(self, shard: str) -> dict[str, Any] | None:
        """What an earlier job wrote of a shard; None where there is none, or rows were bad that may be mended."""
        try:
            result: dict[str, Any] = json.loads((self.folder / f"{shard}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return None if result["bad"] else result

    def finish(self, card: DatasetCard) -> None:
        """Writes the card, after which the folder is complete, and puts it into place."""
        with self.writing():
            unfinished = self.folder / f".{CARD}"
            unfinished.write_text(json.dumps(card.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
            unfinished.replace(self.folder / CARD)
        self.put_into_place()

    def put_into_place(self) -> None:
        """Makes the complete folder `out`; an older dataset there goes only once the new one stands."""
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
        """Removes the dataset that `out` replaced, where a job was killed before it could."""
        if self.out.exists() and (self._older / CARD).is_file():
            shutil.rmtree(self._older)

    def _start_or_go_on(self) -> None:
        mark = self.folder / FINGERPRINT
        if self.complete() or (mark.is_file() and mark.read_text() == self.fingerprint):
            return
        mark.write_text("")  # still ours, but nobody's work
        for item in self.folder.iterdir():
            if item.name not in (LOCK, FINGERPRINT):
                item.unlink()
        mark.write_text(self.fingerprint)


def check_replaceable(out: Path) -> None:
    """Raises a UserError unless `out` is free, empty, or a dataset folder with nothing else in it."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir() or not (out / CARD).is_file():
        raise UserError(f"--out {out}: exists and is not a dataset of lfm_ray; name another folder")
    ours = _files(read_card(out))
    foreign = sorted(item.name for item in out.iterdir() if item.name not in ours)
    if foreign:
        raise UserError(f"--out {out}: holds {foreign[0]}, which is not part of the dataset; name another folder")


def _files(card: DatasetCard) -> set[str]:
    """The names of a finished dataset's files."""
    return {CARD, BAD_ROWS, CONTACT_SHEET} | {shard.file for shards in card.splits.values() for shard in shards}
