"""Exports a run, a trial, or the best trial of a sweep."""

from __future__ import annotations

from pathlib import Path

from lfm_ray.errors import UserError
from lfm_ray.export.model_folder import ModelCard, check_free, write
from lfm_ray.files import check_within
from lfm_ray.runtime import checkpoint
from lfm_ray.search.selection import best_of
from lfm_ray.search.sweep import SWEEP, Sweep, trial_folder
from lfm_ray.storage import exists, fetch, shown
from lfm_ray.training.run_folder import BEST, CHECKPOINT


def export(folder: Path, out: Path, best: bool = False) -> tuple[Path, ModelCard]:
    """Writes the model of what `folder` holds to the new folder `out`; returns the run's folder, and the card.

    best: the model after the best epoch of the run, by its `checkpoint.best`, instead of the last.

    Raises:
        UserError: there is no run, it has no best epoch, or `out` is in the way.
    """
    check_free(out)
    file = checkpoint_of(folder)
    if best:
        file = file.with_name(BEST)
        fetch(file)
        if not file.is_file():
            raise UserError(f"{shown(file.parent)}: has no best epoch; --set checkpoint.best=METRIC keeps one")
    return file.parent, write(checkpoint.load(file), out)


def checkpoint_of(path: Path) -> Path:
    """The checkpoint in a run's folder, or of the best trial of a sweep.

    Raises:
        UserError: there is none.
    """
    check_within(path)
    fetch(path / CHECKPOINT)
    if (path / CHECKPOINT).is_file():
        return path / CHECKPOINT
    if not exists(path / SWEEP):
        raise UserError(f"{shown(path)}: holds neither a run ({CHECKPOINT}) nor a sweep ({SWEEP})")
    best = best_of(Sweep.open(path).trials())
    if best is None:
        raise UserError(f"{shown(path)}: no trial of this sweep has finished; name one of its folders under trials/")
    fetch(trial_folder(path, best.number) / CHECKPOINT)
    return trial_folder(path, best.number) / CHECKPOINT
