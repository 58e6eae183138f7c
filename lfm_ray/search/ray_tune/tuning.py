"""Runs the trials of a sweep on Ray Tune."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import ConcurrencyLimiter, Searcher

from lfm_ray.config import RunConfig
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.interruption import Interrupted, stoppable
from lfm_ray.ray_daemons import ENDED, RayEnded
from lfm_ray.ray_private import plain_actors
from lfm_ray.search.population import Population
from lfm_ray.search.ray_tune.adapters import (
    FAILED,
    NUMBER,
    Forget,
    KeepBest,
    Mirror,
    PopulationScheduler,
    PopulationSearcher,
    RayHasEnded,
    Recoveries,
    StopOrBudget,
    StudyScheduler,
    StudySearcher,
    TimeBudget,
)
from lfm_ray.search.ray_tune.resources import Growth, Resources, check_nodes
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.study import SETTINGS
from lfm_ray.search.sweep import JOURNAL, SWEEP, Sweep, trial_folder
from lfm_ray.storage import name_of, push, working_folder
from lfm_ray.training.execution import Launch, run_in_process
from lfm_ray.training.failures import told
from lfm_ray.training.packing import Packed
from lfm_ray.training.ray_train import RETRIES, first_reason, run_on_workers
from lfm_ray.training.run_folder import is_last
from lfm_ray.training.source import DataSource


def run_sweep(
    sweep: Sweep,
    source: DataSource,
    resources: Resources,
    time_budget: TimeBudget | None,
    callbacks: list[tune.Callback],
) -> None:
    """Runs every trial of the sweep that has not ended; returns when all have ended or time is up.

    Trials cut short by the time budget continue with `--resume`; those that are paused then are recorded as pruned.
    """
    study = sweep.study
    # Ray Train would start its workers anew for a trial that goes on, and they may still train when it pauses.
    if resources.workers.count > 1:
        study.prune_at_once()
    if not study.has_next() or not study.has_epochs():
        study.end_paused()
        return
    check_nodes(source, sweep.folder / SWEEP)
    trainable = tune.with_parameters(
        run_trial, sweep=name_of(sweep.folder), packed=Packed.of((source, sweep.space, resources.nested()))
    )
    config = tune.TuneConfig()
    searcher: Searcher
    if sweep.space.epochs_a_round:
        population = Population(sweep)
        searcher, config.scheduler = PopulationSearcher(population), PopulationScheduler(population)
        config.num_samples = population.remaining()
    else:
        searcher, config.scheduler = StudySearcher(sweep, time_budget), StudyScheduler(study)
        # Each time that a trial goes on is a trial to Tune. The searcher says when there is nothing left.
        rungs = sweep.space.pruning.rungs(sweep.space.longest)
        config.num_samples = sweep.space.trials * (1 + len(rungs)) if study.promotes else study.remaining()
    config.search_alg = limiter = ConcurrencyLimiter(searcher, max_concurrent=resources.trials_at_once())
    keep_best = KeepBest(sweep, sweep.space.keep_checkpoints)
    callbacks = [*callbacks, Recoveries(sweep.folder), keep_best, Growth(limiter, resources), Mirror(sweep.folder)]
    _tune(trainable, config, sweep.folder, resources, callbacks, time_budget=time_budget)
    sweep.settle()
    if isinstance(searcher, StudySearcher) and searcher.ended:
        raise TrainingFailed(f"{ENDED}; what has finished is saved; --resume {sweep.folder.name} goes on")
    study.end_paused()
    keep_best.tidy()
    push(sweep.folder / JOURNAL, sweep.folder / "tensorboard")


def run_trial(config: dict[str, Any], sweep: str, packed: Packed) -> None:
    """One trial of a sweep, in a process of Ray Tune. packed: the data, the space and the workers of a trial."""
    folder = trial_folder(working_folder(sweep), config[NUMBER])

    def launch() -> Launch:
        source: DataSource
        space: Space
        source, space, workers = packed.open()
        run = space.config(config[SETTINGS])
        return Launch(run, source, folder, workers, saved_after=saved_after(space, run.epochs))

    _run(folder, launch)


def saved_after(space: Space, epochs: int) -> frozenset[int]:
    """The epochs after which a trial of `epochs` epochs is saved, since it may go on from there later."""
    if space.epochs_a_round:
        return frozenset(range(space.epochs_a_round, epochs + 1, space.epochs_a_round))
    return frozenset(space.pruning.rungs(epochs) if space.pruning.promotion else ())


def run_configs(
    runs: dict[Path, RunConfig],
    source: DataSource,
    resources: Resources,
    callbacks: list[tune.Callback],
    measure: str | None,
    time_budget: TimeBudget | None = None,
) -> None:
    """Trains the given configurations, each in its folder; runs that have ended are not repeated.

    After its last epoch, each is also evaluated on the split `measure`, if given. Runs cut short by
    the time budget continue when this is called again.

    Raises:
        TrainingFailed: one of them failed; the others have been run.
    """
    for folder, reason in run_each(runs, source, resources, callbacks, measure, time_budget).items():
        raise TrainingFailed(f"{folder}: {reason}")


def run_each(
    runs: dict[Path, RunConfig],
    source: DataSource,
    resources: Resources,
    callbacks: list[tune.Callback],
    measure: str | None,
    time_budget: TimeBudget | None = None,
) -> dict[Path, str]:
    """Like `run_configs`, but returns the folders of failed runs with the reasons.

    Raises:
        KeyboardInterrupt: Tune was interrupted before all runs had ended and before time was up.
    """
    launches = [Launch(run, source, folder, resources.nested(), measure) for folder, run in runs.items()]
    trainable = tune.with_parameters(_run_one, folders=[name_of(folder) for folder in runs], packed=Packed.of(launches))
    where = next(iter(runs)).parent
    check_nodes(source, next(file for file in (where / SWEEP, where.parent / SWEEP) if file.exists()))
    config = tune.TuneConfig(num_samples=1)
    space = {"run": tune.grid_search(list(range(len(runs))))}
    grid = _tune(trainable, config, where, resources, callbacks, space, time_budget)
    failures: dict[Path, str] = {}
    ended = 0
    for (folder, run), result in zip(runs.items(), (grid[i] for i in range(len(grid))), strict=False):
        metrics = result.metrics or {}
        if result.error or FAILED in metrics:
            failures[folder] = str(metrics.get(FAILED, result.error))
        ended += folder in failures or is_last(metrics, run.epochs)
    if ended < len(runs) and not (time_budget and time_budget.stop_all()):
        raise KeyboardInterrupt
    return failures


def _run_one(config: dict[str, Any], folders: list[str], packed: Packed) -> None:
    number = config["run"]
    _run(working_folder(folders[number]), lambda: packed.open()[number])


def _tune(
    trainable: Callable[..., None],
    config: tune.TuneConfig,
    folder: Path,
    resources: Resources,
    callbacks: list[tune.Callback],
    grid: dict[str, Any] | None = None,
    time_budget: TimeBudget | None = None,
) -> tune.ResultGrid:
    """Runs trials on Ray Tune, which keeps its own files under `folder`/ray.

    A trial whose process died (killed from outside, out of memory, node lost) is restarted.

    Raises:
        Interrupted: it was asked to stop by a signal, and has stopped.
        RayEnded: the Ray that this process started has ended; what has not ended can be run again on another.
    """
    plain_actors()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # we record and print failures ourselves
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a failed trial reports a reason instead of metrics
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1000000000"  # we keep all state that matters
    if config.search_alg is None:
        config.max_concurrent_trials = resources.trials_at_once()
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # `stoppable` has its own
    config.reuse_actors = True
    stopper = StopOrBudget(time_budget)
    config.trial_dirname_creator = lambda trial: trial.trial_id
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources.request()),
        param_space=grid or {},
        tune_config=config,
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder.absolute()),
            verbose=0,
            callbacks=[*callbacks, Forget()],
            stop=stopper,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        with stoppable() as stop:
            stopper.asked = stop
            results = tuner.fit()
    except RayHasEnded:
        raise RayEnded(f"{ENDED}; what has finished is saved, and the same command goes on") from None
    except tune.TuneError as error:
        if "TrainingFailed: " not in str(error):
            raise
        raise TrainingFailed(first_reason(error)) from None
    if stop:
        raise Interrupted(number=stop.number or 0)
    return results


def _run(folder: Path, launch_of: Callable[[], Launch]) -> None:
    """One run. If it fails, or its settings cannot be built, it reports why, and other runs continue."""
    try:
        with told(folder):
            launch = launch_of()
            if launch.workers.count > 1:
                from ray.tune.integration.ray_train import TuneReportCallback

                run_on_workers(launch, [TuneReportCallback()])
            else:
                run_in_process(launch, lambda row: tune.report(dict(row)))
    except (TrainingFailed, UserError) as error:
        tune.report({FAILED: str(error)})
