"""The model of a run or a trial; of a sweep, that of the best trial that still has its checkpoint."""

from __future__ import annotations

from pathlib import Path

from lfm_ray.errors import UserError
from lfm_ray.search.selection import ranked
from lfm_ray.search.sweep import SWEEP, Sweep, trial_folder
from lfm_ray.storage import fetch, shown
from lfm_ray.training.run_folder import CHECKPOINT
from lfm_ray.training.stored_model import StoredModel


def best_with_model(sweep: Sweep) -> tuple[Path, str]:
    """The folder of the best finished trial that has a checkpoint, and what to say if a better one has none.

    Raises:
        UserError: no trial has finished, or none that has still has its checkpoint.
    """
    finished, where = ranked(sweep.trials()), shown(sweep.folder)
    if not finished:
        raise UserError(f"{where}: no trial of this sweep has finished; name one of its folders under trials/")
    best = finished[0]
    why = sweep.removed.get(best.number) or f"{CHECKPOINT} is missing"
    said = f"trial {best.number}, the best of {where}, has no model ({why}); lfm-ray train {where}/best.yaml trains it"
    for trial in finished:
        folder = trial_folder(sweep.folder, trial.number)
        fetch(folder / CHECKPOINT)
        if (folder / CHECKPOINT).is_file():
            return folder, "" if trial is best else f"{said}; this is trial {trial.number}"
    raise UserError(f"{said}; no other trial has one either")


def model_of(run: Path, file: Path | None = None) -> StoredModel:
    """The model of a run, or of a trial of a sweep, as the run's folder and the journal of the sweep know it.

    file: of the folder, where another than the checkpoint is meant.

    Raises:
        UserError: it is missing, was altered, or is that of another run.
    """
    model = StoredModel.read(file or run / CHECKPOINT)
    model.check_is_of_folder(run)
    sweep = run.parent.parent
    if run.parent.name == "trials" and run.name.isdecimal() and (sweep / SWEEP).is_file():
        for trial in Sweep.read(sweep).trials():
            if trial_folder(sweep, trial.number) == run:
                model.check_is_of(trial.config, trial.rows)
    return model
