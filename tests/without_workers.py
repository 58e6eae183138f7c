"""Trials and runs in the process of the tests, where Ray would start processes for them: seconds become milliseconds.

For tests of what is done with trials and runs. That Ray Tune and Ray Train carry them out alike is for others to show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lfm_ray.config import RunConfig
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.reproduce import plan
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.training.execution import Launch, run_in_process
from lfm_ray.training.source import DataSource
from lfm_ray.workflows import confirming, single_run, sweeping


class Stopped(BaseException):
    """The study has stopped a trial; no `except Exception` of a run is to hold it up."""


def run_sweep(sweep: Sweep, source: DataSource, resources: Resources, *_: Any) -> None:
    """Like `lfm_ray.search.ray_tune.tuning.run_sweep`, one trial after the other."""
    study = sweep.study
    while study.has_next() and study.has_epochs():
        number, settings = study.ask()
        rows: list[dict[str, float]] = []

        def report(row: dict[str, float], number: int = number, rows: list[dict[str, float]] = rows) -> None:
            rows.append(row)
            if study.report(number, int(row["epoch"]), row):
                raise Stopped

        config, folder = sweep.space.config(settings), trial_folder(sweep.folder, number).absolute()
        try:
            run_in_process(Launch(config, source, folder, resources.nested()), report)
            study.finish(number, rows[-1])
        except Stopped:
            study.stop(number)
        except (TrainingFailed, UserError) as error:
            study.fail(number, str(error))
    study.end_paused()


def run_each(
    runs: dict[Path, RunConfig], source: DataSource, resources: Resources, callbacks: Any, measure: str | None, *_: Any
) -> dict[Path, str]:
    """Like `lfm_ray.search.ray_tune.tuning.run_each`."""
    failures = {}
    for folder, config in runs.items():
        try:
            run_in_process(Launch(config, source, folder, resources.nested(), measure), lambda row: None)
        except (TrainingFailed, UserError) as error:
            failures[folder] = str(error)
    return failures


def run_configs(*arguments: Any) -> None:
    """Like `lfm_ray.search.ray_tune.tuning.run_configs`."""
    for folder, reason in run_each(*arguments).items():
        raise TrainingFailed(f"{folder}: {reason}")


def run_on_workers(launch: Launch, callbacks: Any) -> None:
    """Like `lfm_ray.training.ray_train.run_on_workers`, for one worker."""
    assert launch.workers.count == 1
    run_in_process(launch, lambda row: None)


def use(patch: pytest.MonkeyPatch) -> None:
    """Puts these functions in place of those that ask Ray for processes."""
    patch.setattr(sweeping, "run_sweep", run_sweep)
    patch.setattr(single_run, "run_on_workers", run_on_workers)
    for module in (sweeping, confirming, plan):
        patch.setattr(module, "run_configs", run_configs)
    patch.setattr(plan, "run_each", run_each)
