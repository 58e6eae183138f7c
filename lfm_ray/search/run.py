"""Runs the trials of a sweep on Ray Tune."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.launch import Source, Workers, run_in_process, run_on_workers
from lfm_ray.search.space import Space
from lfm_ray.search.sweep import Sweep
from lfm_ray.search.tune_adapters import FAILED, NUMBER, SETTINGS, StudyScheduler, StudySearcher

DRIVER_CPUS = 0.01  # of a trial that only waits for its workers; Ray refuses an empty request


@dataclass(frozen=True)
class Resources:
    """What one trial takes, and how many trials run at once (None: as many as fit)."""

    workers: Workers
    concurrency: int | None = None

    def trials_at_once(self) -> int:
        """How many trials the cluster can run side by side without waiting for one another.

        The tasks that read streamed shards ask for no CPU, so trials may hold all of them.

        Raises:
            UserError: not even one trial fits.
        """
        cluster = ray.cluster_resources()
        cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
        needed_cpus, needed_gpus = self.workers.count * self.workers.cpus, self.workers.count * self.workers.gpus
        fits = int(cpus / needed_cpus)
        if needed_gpus:
            fits = min(fits, int(gpus / needed_gpus))
        if fits < 1:
            raise UserError(
                f"one trial needs {needed_cpus:g} CPUs and {needed_gpus:g} GPUs, the cluster has {cpus:g} and {gpus:g};"
                " lower --workers-per-trial, --cpus-per-worker or --gpus-per-worker"
            )
        return min(fits, self.concurrency or fits)

    def request(self) -> dict[str, float]:
        """What Tune reserves for a trial: its worker, or the driver of its workers."""
        if self.workers.count > 1:
            return {"CPU": DRIVER_CPUS}
        return {"CPU": self.workers.cpus} | ({"GPU": self.workers.gpus} if self.workers.gpus else {})

    def nested(self) -> Workers:
        """The Ray Train workers of a trial; their driver's share comes off their CPUs."""
        return Workers(self.workers.count, self.workers.cpus - DRIVER_CPUS, self.workers.gpus)


def run_sweep(
    sweep: Sweep, source: Source, resources: Resources, time_budget: float | None, callbacks: list[tune.Callback]
) -> None:
    """Runs every trial of the sweep that has not ended; returns when they have, or time is up.

    time_budget: seconds; trials that are cut short by it go on under `--resume`.
    """
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1000000000"  # the study's journal is the state
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "auto"
    study = sweep.study
    remaining = study.remaining()
    if not remaining:
        return
    trainable = tune.with_resources(
        tune.with_parameters(
            run_trial, source=source, space=sweep.space, trials=sweep.folder / "trials", workers=resources.nested()
        ),
        resources.request(),
    )
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(study),
            scheduler=StudyScheduler(study),
            num_samples=remaining,
            max_concurrent_trials=resources.trials_at_once(),
            time_budget_s=time_budget,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="ray", storage_path=str(sweep.folder.absolute()), verbose=0, callbacks=callbacks
        ),
    )
    tuner.fit()


def run_trial(config: dict[str, Any], source: Source, space: Space, trials: Path, workers: Workers) -> None:
    """One trial, in a process of Ray Tune. A trial that fails reports why, and the sweep goes on."""
    folder = trials / f"{config[NUMBER]:04d}"
    try:
        run = space.config(config[SETTINGS])
        if workers.count > 1:
            from ray.tune.integration.ray_train import TuneReportCallback

            run_on_workers(run, source, folder, workers, [TuneReportCallback()])
        else:
            threads = max(1, round(workers.cpus))
            run_in_process(run, source, folder, lambda row: tune.report(dict(row)), threads)
    except (TrainingFailed, UserError) as error:
        tune.report({FAILED: str(error)})
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        reason = (str(error).splitlines() or [""])[0]
        tune.report({FAILED: f"{type(error).__name__}: {reason} (see {folder.name}/error.txt)"})
