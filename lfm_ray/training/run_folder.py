"""The folder of a run: what is written there, and how it is read back.

    config.yaml     the RunConfig
    epochs.jsonl    the metrics of each epoch, one JSON object a line, with a CRC-32 of the line and its number; it and
                    the three other files of JSON say which run they are of (`run_key`)
    alpha.jsonl     where alpha is learned, alpha after each of its updates: pairs of step and alpha, a line an epoch
    checkpoint.pt   the state from which the run goes on, after the last epoch that it was saved for
    checkpoint.previous.pt   the state before that, for when the last is found truncated or altered
    notices.txt     what went wrong and was overcome, a line each; missing where nothing was
    hung.txt        where it stood when an epoch took longer than allowed; then its process was ended
    weights/        the model after the epochs that `checkpoint.keep_every` names: epoch-0001.pt, ...
    best.pt         the model after the best epoch, where `checkpoint.best` names a metric
    confusion.json  the confusion matrices of the last epoch (`read_confusions`)
    costs.json      parameters, operations, time and memory of a step (`lfm_ray.training.costs`)
    profile.json    where the time of its steps went, with `train --profile`

Where an object store keeps it, this is the copy that a node works in (`lfm_ray.storage`).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lfm_ray import storage
from lfm_ray.checksums import is_whole, line_of, record_of, sealed, with_checksum
from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.files import appending, write_atomically
from lfm_ray.runtime import checkpoint
from lfm_ray.settings import load, read_yaml

if TYPE_CHECKING:
    from lfm_ray.training.trainer import Row, Trainer

CONFIG, EPOCHS, CHECKPOINT, ALPHA = "config.yaml", "epochs.jsonl", "checkpoint.pt", "alpha.jsonl"
WEIGHTS, PROFILE = "weights", "profile.json"
NOTICES, HUNG = "notices.txt", "hung.txt"
UPDATES = "updates"
BEST, CONFUSION = "best.pt", "confusion.json"
RUN = "run"  # the key in a line or a file under which its `run_key` stands
STOPPED_EARLY = "stopped_early"  # in the row of the last epoch of a run that ran out of patience


class Recorder:
    """Writes a run's epochs into its folder, and its state as often as `checkpoint` says.

    troubles: what is wrong with the checkpoints that are there; a wrong one is not kept as the previous.
    saved_after: the state is also written after these epochs, since others, or the run itself, go on from there.
    """

    def __init__(self, trainer: Trainer, folder: Path, troubles: list[str], saved_after: Collection[int] = ()) -> None:
        self.trainer, self.folder, self.saved_after = trainer, folder, saved_after
        self._keep_previous = not troubles
        self._lines: list[str] = []
        self._saved_at, self._cost = -float("inf"), 0.0  # s

    def begin(self) -> None:
        """Makes the folder of a run that has not been started before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / CONFIG, sealed(self.trainer.config.to_yaml()))
        storage.push(self.folder / CONFIG)

    def restore(self) -> None:
        """Writes the epochs again that the state has, where the file of them has others, or was lost or altered."""
        if read_epochs(self.folder) != self.trainer.history:
            self._lines = lines_of(self.trainer.history, run=run_key(self.folder))
            write_atomically(self.folder / EPOCHS, "".join(self._lines))
            storage.push(self.folder / EPOCHS)

    def write(self) -> None:
        """Writes what the run's last epoch gave; the same when it is done again, as after a failure of the disk."""
        trainer, folder, settings = self.trainer, self.folder, self.trainer.config.checkpoint
        if trainer.alpha.updates:
            with appending(folder / ALPHA) as updates:
                # a line of its own, also after one that was cut
                updates.write("\n" + line_of({UPDATES: trainer.alpha.updates} | _named(run_key(folder)), 0).strip())
        self._lines += lines_of(trainer.history, len(self._lines), run_key(folder))
        write_atomically(folder / EPOCHS, "".join(self._lines))
        if settings.keeps(trainer.epoch, trainer.config.epochs):
            checkpoint.save(weights_file(folder, trainer.epoch), trainer.weights())
            storage.push(weights_file(folder, trainer.epoch))
        storage.push(folder / EPOCHS, folder / ALPHA)
        began = time.monotonic()
        if trainer.best.epoch == trainer.epoch:
            checkpoint.save(folder / BEST, trainer.best_weights())
            storage.push(folder / BEST)
        wanted = trainer.ended or trainer.epoch in self.saved_after
        if wanted or settings.is_due(began - self._saved_at, self._cost):
            self._save_state()
            self._saved_at = time.monotonic()
            self._cost = self._saved_at - began

    def _save_state(self) -> None:
        file = self.folder / CHECKPOINT
        checkpoint.save(file, self.trainer.state_dict(), keep_previous=self._keep_previous)
        storage.copy(file, checkpoint.previous(file))
        storage.push(file)
        self._keep_previous = True


def weights_file(folder: Path, epoch: int) -> Path:
    """Where a run in `folder` keeps its model after an epoch."""
    return folder / WEIGHTS / f"epoch-{epoch:04d}.pt"


def run_key(folder: Path) -> str:
    """What tells the run in a folder from others: a hash of its settings, but for where its data lie; empty without."""
    try:
        return settings_key((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""


def settings_key(text: str) -> str:
    """The same of the content of `CONFIG`. It is of the text, as later versions add settings to those that are read."""
    lines = [line for line in text.splitlines() if not re.match(r"#|\s+path:", line)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _named(run: str) -> dict[str, str]:
    return {RUN: run} if run else {}


def is_anothers(run: object, own: str) -> bool:
    """Whether something that says that it is of a run is of another one than this."""
    return bool(run) and bool(own) and run != own


def lines_of(history: list[Row], first: int = 0, run: str = "") -> list[str]:
    """The lines of the file of epochs, from row number `first` on; run: its key."""
    return [line_of(row | _named(run), number) for number, row in enumerate(history[first:], start=first + 1)]


def read_epochs(folder: Path) -> list[Row]:
    """The rows that a run in `folder` has written so far, up to the first that is not as it was written."""
    return epochs_and_trouble(folder)[0]


def epochs_and_trouble(folder: Path) -> tuple[list[Row], str]:
    """Like `read_epochs`, and what is wrong with the rest; empty if nothing is."""
    file, sure, own = folder / EPOCHS, False, run_key(folder)
    rows: list[Row] = []
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"{storage.shown(file)}: cannot be read: {error.strerror}"
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            row, checked = record_of(line, number)
            if sure and not checked:
                raise ValueError("has no checksum, unlike those before")
            if is_anothers(row.pop(RUN, ""), own):
                return [], f"{storage.shown(file)}: is of another run than the {CONFIG} beside it"
            if not all(isinstance(value, int | float | None) for value in row.values()):
                raise ValueError("holds more than numbers")
            if not checked and row_of(row) != row:  # such as a checksum whose name was altered
                raise ValueError("holds more than metrics")
        except (ValueError, RecursionError):
            return rows, f"{storage.shown(file)}, line {number}: is not as it was written"
        sure = sure or checked
        rows.append(row)
    return rows, ""


OWN = ("epoch", "seconds", "best_epoch", STOPPED_EARLY)


def is_last(row: Mapping[str, object], epochs: int) -> bool:
    """Whether a run of so many epochs has ended with this row: it has them all, or has run out of patience."""
    return row.get("epoch") == epochs or STOPPED_EARLY in row


def row_of(result: Mapping[str, float]) -> Row:
    """The row of an epoch within what a trial reported to Ray Tune, which adds values of its own."""
    ours = ("val/", "train/", "test/", "alpha", "learning", "tau")
    return {name: value for name, value in result.items() if name in OWN or name.startswith(ours)}


def read_config(folder: Path) -> RunConfig:
    """The settings of a run.

    Raises:
        UserError: they are missing, or were altered.
    """
    file = folder / CONFIG
    if file.exists() and not read_yaml(file):
        raise UserError(f"{storage.shown(file)}: is empty; put a copy back")
    return load(RunConfig, file)


def checked_epochs(folder: Path) -> list[Row]:
    """Like `read_epochs`.

    Raises:
        UserError: the file of epochs was altered.
    """
    rows, trouble = epochs_and_trouble(folder)
    if trouble:
        raise UserError(f"{trouble}; where its {CHECKPOINT} is kept, training it again under its name writes it anew")
    return rows


def read_alpha_updates(folder: Path) -> dict[int, float]:
    """alpha after each of its updates so far, by the step on theta that it followed; empty where none is learned."""
    file = folder / ALPHA
    storage.fetch(file)
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    own = run_key(folder)
    # A run that was killed and goes on from its checkpoint takes some of its steps, and writes them, again.
    return dict(sorted({step: alpha for line in lines for step, alpha in _whole(line, own)}.items()))


def _whole(line: str, own: str) -> list[tuple[int, float]]:
    """The content of a line that a kill may have cut, or that is of another run than the one with the key `own`."""
    try:
        if line.startswith("["):  # of earlier versions
            pairs = json.loads(line)
        else:
            record = record_of(line, 0)[0]
            pairs = [] if is_anothers(record.get(RUN), own) else record[UPDATES]
        return [(int(step), float(alpha)) for step, alpha in pairs]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def write_confusions(folder: Path, trainer: Trainer, counted: Mapping[str, Mapping[str, list[list[int]]]]) -> None:
    """Writes the confusion matrices of a run's end; counted: split -> `lfm_ray.models.evaluation.confusions`."""
    content = {"epoch": trainer.epoch, "classes": trainer.card.classes, "splits": counted} | _named(run_key(folder))
    write_atomically(folder / CONFUSION, json.dumps(with_checksum(content)))
    storage.push(folder / CONFUSION)


def read_confusions(folder: Path, split: str) -> tuple[list[str], dict[str, np.ndarray]] | None:
    """The classes, and `fused` or a modality -> its confusion matrix (C, C) of a split; None if there is none.

    A row is a class, a column what its samples were taken for.
    """
    storage.fetch(folder / CONFUSION)
    if not (folder / CONFUSION).is_file():
        return None
    try:
        content = json.loads((folder / CONFUSION).read_text(encoding="utf-8"))
        whole = is_whole(content)
    except (ValueError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise UserError(f"{storage.shown(folder / CONFUSION)}: was altered since it was written; remove it")
    if is_anothers(content.get(RUN), run_key(folder)):
        raise UserError(
            f"{storage.shown(folder / CONFUSION)}: is of another run than the {CONFIG} beside it; remove it"
        )
    if split not in content["splits"]:
        return None
    return content["classes"], {name: np.array(matrix) for name, matrix in content["splits"][split].items()}


def add_notice(folder: Path, text: str) -> None:
    """Adds a line to what a run has overcome."""
    folder.mkdir(parents=True, exist_ok=True)
    storage.fetch(folder / NOTICES)
    with appending(folder / NOTICES) as file:
        file.write(f"{text}\n")
    storage.push(folder / NOTICES)


def read_notices(folder: Path) -> list[str]:
    """What the run in `folder` has overcome."""
    file = folder / NOTICES
    return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []


def overcome(folders: Mapping[str, Path]) -> list[str]:
    """What the runs in some folders have overcome: a line for each cause, with the names of the runs.

    Where a cause has several runs, the files and the seconds of each are left out.
    """
    notices: dict[str, dict[str, str]] = {}
    for name, folder in folders.items():
        for notice in read_notices(folder):
            notices.setdefault(re.sub(r"^\S+: |, for [\d.]+ s", "", notice), {})[name] = notice
    lines = []
    for cause, of_run in notices.items():
        names = list(of_run)
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        lines.append(f"{', '.join(names[:10])}{more}: {cause if len(names) > 1 else of_run[names[0]]}")
    return lines
