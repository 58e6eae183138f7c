"""Exports a run, a trial, or the best trial of a sweep."""

from __future__ import annotations

from pathlib import Path

from lfm_ray.errors import UserError
from lfm_ray.export.model_folder import ModelCard, check_free, write
from lfm_ray.files import check_within
from lfm_ray.search.kept_model import best_with_model, model_of
from lfm_ray.search.sweep import SWEEP, Sweep
from lfm_ray.storage import exists, fetch, shown
from lfm_ray.training.run_folder import BEST, CHECKPOINT


def export(folder: Path, out: Path, best: bool = False) -> tuple[Path, ModelCard, str]:
    """Writes the model of what `folder` holds to the new folder `out`; returns the run's folder, and the card.

    best: the model after the best epoch of the run, by its `checkpoint.best`, instead of the last. The third that is
    returned says so where a better trial of a sweep has no model any more.

    Raises:
        UserError: there is no run, it has no best epoch, or `out` is in the way.
    """
    check_free(out)
    run, said = run_in(folder)
    file = run / CHECKPOINT
    if best:
        file = run / BEST
        fetch(file)
        if not file.is_file():
            raise UserError(f"{shown(run)}: has no best epoch; --set checkpoint.best=METRIC keeps one")
    return run, write(model_of(run, file), out), said


def run_in(path: Path) -> tuple[Path, str]:
    """The run with a model that a folder holds: its own, or that of a trial, if it is a sweep; and what to say of it.

    Raises:
        UserError: there is none.
    """
    check_within(path)
    fetch(path / CHECKPOINT)
    if (path / CHECKPOINT).is_file():
        return path, ""
    if not exists(path / SWEEP):
        raise UserError(f"{shown(path)}: holds neither a run ({CHECKPOINT}) nor a sweep ({SWEEP})")
    return best_with_model(Sweep.open(path))
