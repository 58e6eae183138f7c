"""Deletes sweeps and parts of them, so that what is left can still be reported, confirmed and resumed.

Nothing outside of the sweep's folder is touched: a link is never followed, be it the folder, a part of its path or a
file in it. Of a trial that has ended, the journal first says what is removed; then it goes.
"""

from __future__ import annotations

import datetime
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from lfm_ray import storage
from lfm_ray.errors import UserError
from lfm_ray.files import check_name
from lfm_ray.runtime import checkpoint
from lfm_ray.search.study.study import note_removed
from lfm_ray.search.sweep import BUSY, JOURNAL, LEARNED, SWEEP, Sweep, trial_folder
from lfm_ray.storage import shown
from lfm_ray.training.run_folder import BEST, CHECKPOINT, WEIGHTS

REMOVING = ".removing-"  # how the names of folders begin that are being deleted
RUNS = ("trials", "confirm", "confirm-val", "confirm-select", LEARNED)  # where a sweep keeps checkpoints


def remove_sweep(where: Path, name: str) -> int:
    """Deletes a sweep below the folder `where`. Returns the bytes that this frees.

    It need not be one that can be opened: a damaged one is deleted as well.

    Raises:
        UserError: there is no such sweep, it is a link, or another process is running it.
    """
    folder = _sweep_folder(where, name)
    held = storage.hold_where_possible(folder, BUSY) if folder.is_dir() else None
    try:
        freed = storage.bytes_in(folder)
        _delete(folder)
        storage.remove_below(folder)
    finally:
        if held is not None:
            held.close()
    return freed


def remove_trials(where: Path, name: str, numbers: Collection[int]) -> int:
    """Deletes the folders of trials, and their curves for TensorBoard. Returns the bytes that this frees.

    Their settings and last metrics stay in the journal. One that has not ended begins anew when the sweep is resumed.

    Raises:
        UserError: what `remove_sweep` raises; there is no such trial; or members of a population still need it.
    """
    with _opened(where, name) as sweep:
        ended = _ended(sweep, numbers)
        note_removed(sweep.folder / JOURNAL, ended, f"its folder was removed on {_today()}")
        freed = 0
        for number in numbers:
            folders = [trial_folder(sweep.folder, number), *_curves(sweep, number)]
            for folder in folders:
                freed += storage.bytes_in(folder)
                _delete(folder)
                storage.remove_below(folder)
        storage.push(sweep.folder / JOURNAL)
    return freed


def remove_checkpoints(where: Path, name: str, numbers: Collection[int] = ()) -> int:
    """Deletes the models of trials that have ended, those of confirming runs, and of the learned run.

    numbers: only of these trials; empty: of all. What was measured stays. Returns the bytes that this frees.

    Raises:
        UserError: what `remove_trials` raises.
    """
    with _opened(where, name) as sweep:
        known = {trial.number: trial.frozen.state.is_finished() for trial in sweep.trials()}
        wanted = list(numbers) or [number for number, ended in known.items() if ended]
        ended = _ended(sweep, wanted)
        stored = storage.sizes_in(sweep.folder)
        files = [file for number in wanted for file in _models(trial_folder(sweep.folder, number), stored)]
        if not numbers:
            runs = [folder for kind in RUNS[1:-1] for folder in _below(sweep.folder / kind)]
            learned = [] if sweep.file.from_learned else [sweep.folder / LEARNED]
            files += [file for folder in [*runs, *learned] for file in _models(folder, stored)]
        having = [number for number in ended if any(_models(trial_folder(sweep.folder, number), stored))]
        note_removed(sweep.folder / JOURNAL, having, f"its {CHECKPOINT} was removed on {_today()}")
        freed = sum(stored[file] if file in stored else file.lstat().st_size for file in files)
        storage.remove(*files)
        storage.push(sweep.folder / JOURNAL)
    return freed


@contextmanager
def _opened(where: Path, name: str) -> Iterator[Sweep]:
    """The sweep, kept to this process."""
    sweep = Sweep.open(_sweep_folder(where, name))
    sweep.hold()
    try:
        yield sweep
    finally:
        sweep.let_go()


def _sweep_folder(where: Path, name: str) -> Path:
    folder = where / check_name("NAME", name)
    _refuse_links(folder)
    if not storage.exists(folder / SWEEP):
        raise UserError(f"{shown(folder)}: there is no sweep here (no {SWEEP})")
    return folder


def _ended(sweep: Sweep, numbers: Collection[int]) -> list[int]:
    """Those of the trials that have ended."""
    known = {trial.number: trial.frozen.state.is_finished() for trial in sweep.trials()}  # not those that are paused
    for number in numbers:
        if number not in known:
            last = f"0 to {max(known)}" if known else "none"
            raise UserError(f"--trial {number}: {shown(sweep.folder)} has no such trial; it has {last}")
    open_ones = [number for number, ended in known.items() if not ended]
    if open_ones and sweep.space.epochs_a_round:
        raise UserError(f"{shown(sweep.folder)}: its members go on from one another's models; resume it first")
    return [number for number in numbers if number not in open_ones]


def _curves(sweep: Sweep, number: int) -> list[Path]:
    """The folders of a trial's curves for TensorBoard."""
    return [folder for folder in _below(sweep.folder / "tensorboard") if folder.name.startswith(f"{number:03d}-")]


def _below(folder: Path) -> list[Path]:
    """The folders in a folder, here or in the store, which is no link, as they are none."""
    if folder.is_symlink():
        return []
    return [folder / name for name in storage.folders_in(folder) if not (folder / name).is_symlink()]


def _models(run: Path, stored: Collection[Path]) -> list[Path]:
    """The files with weights in the folder of a run. stored: what the store has, where the sweep is in one."""
    if run.is_symlink() or run.parent.is_symlink():
        return []
    file = run / CHECKPOINT
    single = [file, checkpoint.previous(file), run / BEST]
    weights = run / WEIGHTS
    there = [] if weights.is_symlink() else weights.glob("*.pt")
    kept = {*there, *(file for file in stored if file.parent == weights and file.suffix == ".pt")}
    return [file for file in [*single, *sorted(kept)] if file in stored or os.path.lexists(file)]


def _refuse_links(folder: Path) -> None:
    if folder.is_symlink():
        raise UserError(f"{folder}: is a link; remove it yourself, or name the folder that it leads to")


def _delete(folder: Path) -> None:
    """Deletes a folder. It has another name while that lasts, so that nobody takes what is left of it for whole."""
    if folder.parent.is_symlink():
        raise UserError(f"{folder.parent}: is a link, through which nothing is removed")
    _refuse_links(folder)
    for left in folder.parent.glob(f"{REMOVING}*"):
        shutil.rmtree(left, ignore_errors=True)
    if folder.exists():
        going = folder.with_name(f"{REMOVING}{secrets.token_hex(8)}")
        folder.rename(going)
        shutil.rmtree(going)


def _today() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
