"""Runs the trials of a sweep on Ray Tune."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from lfm_ray.config import RunConfig
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.launch import Source, Workers, run_in_process, run_on_workers
from lfm_ray.search.population import Population
from lfm_ray.search.space import Space
from lfm_ray.search.study import SETTINGS
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.search.tune_adapters import (
    FAILED,
    NUMBER,
    PopulationScheduler,
    PopulationSearcher,
    StudyScheduler,
    StudySearcher,
)

DRIVER_CPUS = 0.01  # of a trial that only waits for its workers; Ray refuses an empty request

ROUNDING = 1e-9  # a third of a GPU fits three times


@dataclass(frozen=True)
class Resources:
    """What one trial takes, and how many trials run at once (None: as many as fit).

    reader_cpus: CPUs on which Ray Data prepares the batches of one worker, beside the worker's own.
    """

    workers: Workers
    concurrency: int | None = None
    reader_cpus: int = 0

    def trials_at_once(self) -> int:
        """How many trials the cluster can run side by side without waiting for one another.

        What the tasks of Ray Data need is left free, so that no trial waits for its data for ever.

        Raises:
            UserError: not even one trial fits.
        """
        cluster = ray.cluster_resources()
        cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
        needed_cpus = self.workers.count * (self.workers.cpus + self.reader_cpus)
        needed_gpus = self.workers.count * self.workers.gpus
        fits = int(cpus / needed_cpus + ROUNDING)
        if needed_gpus:
            fits = min(fits, int(gpus / needed_gpus + ROUNDING))
        if fits < 1:
            raise UserError(
                f"one trial needs {needed_cpus:g} CPUs and {needed_gpus:g} GPUs, the cluster has {cpus:g} and {gpus:g};"
                " lower --workers-per-trial, --cpus-per-worker, --gpus-per-worker or data.reader_cpus"
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


def cluster_hardware() -> str:
    """The cluster in a line: `2 CPUs (Intel Xeon ...), 1 GPU (NVIDIA H100), 16 GB, 1 node`."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    kinds = {name.removeprefix("accelerator_type:") for node in nodes for name in node if name.startswith("accel")}
    names = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", names)
    parts = [f"{total['CPU']:g} CPUs" + (f" ({model[1].strip()})" if model else "")]
    if total["GPU"]:
        parts.append(f"{total['GPU']:g} GPUs" + (f" ({', '.join(sorted(kinds))})" if kinds else ""))
    return ", ".join([*parts, f"{total['memory'] / 2**30:.0f} GiB for Ray", f"{len(nodes)} node(s)"])


def run_sweep(
    sweep: Sweep, source: Source, resources: Resources, time_budget: float | None, callbacks: list[tune.Callback]
) -> None:
    """Runs every trial of the sweep that has not ended; returns when they have, or time is up.

    time_budget: seconds; trials that are cut short by it go on under `--resume`.
    """
    study = sweep.study
    if not study.remaining() or not study.has_epochs():
        return
    trainable = tune.with_parameters(
        run_trial,
        source=source,
        space=sweep.space,
        sweep=sweep.folder.absolute(),
        workers=resources.nested(),
    )
    config = tune.TuneConfig(time_budget_s=time_budget)
    if sweep.space.epochs_a_round:
        if resources.workers.count > 1:
            raise UserError("--population trains each member in one process; leave out --workers-per-trial")
        population = Population(sweep)
        config.search_alg, config.scheduler = PopulationSearcher(population), PopulationScheduler(population)
        config.num_samples = population.remaining()
    else:
        config.search_alg, config.scheduler = StudySearcher(study), StudyScheduler(study)
        config.num_samples = study.remaining()
    _tune(trainable, config, sweep.folder, resources, callbacks)


def run_trial(config: dict[str, Any], source: Source, space: Space, sweep: Path, workers: Workers) -> None:
    """One trial of a sweep, in a process of Ray Tune."""
    folder = trial_folder(sweep, config[NUMBER])
    _run(lambda: space.config(config[SETTINGS]), folder, source, workers, measure=None)


def run_configs(
    runs: dict[Path, RunConfig],
    source: Source,
    resources: Resources,
    callbacks: list[tune.Callback],
    measure: str | None,
) -> None:
    """Runs given configurations, each in its folder; those that have ended are not repeated.

    The last epoch of each is also measured on the split `measure`, where one is named.

    Raises:
        TrainingFailed: one of them failed; the others have run.
    """
    trainable = tune.with_parameters(
        _run_one, runs=list(runs.items()), source=source, workers=resources.nested(), measure=measure
    )
    where = next(iter(runs)).parent
    config = tune.TuneConfig(num_samples=1)
    grid = _tune(trainable, config, where, resources, callbacks, {"run": tune.grid_search(list(range(len(runs))))})
    for (folder, _), result in zip(runs.items(), (grid[i] for i in range(len(grid))), strict=True):
        if result.error or FAILED in (result.metrics or {}):
            raise TrainingFailed(f"{folder}: {(result.metrics or {}).get(FAILED, result.error)}")


def _run_one(
    config: dict[str, Any], runs: list[tuple[Path, RunConfig]], source: Source, workers: Workers, measure: str | None
) -> None:
    folder, run = runs[config["run"]]
    _run(lambda: run, folder, source, workers, measure)


def _tune(
    trainable: Callable[..., None],
    config: tune.TuneConfig,
    folder: Path,
    resources: Resources,
    callbacks: list[tune.Callback],
    grid: dict[str, Any] | None = None,
) -> tune.ResultGrid:
    """Runs trials on Ray Tune, which keeps files of its own under `folder`/ray."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a failed trial reports its reason and no metrics
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "1000000000"  # what is worth keeping, we keep
    config.max_concurrent_trials = resources.trials_at_once()
    config.reuse_actors = True
    config.trial_dirname_creator = lambda trial: trial.trial_id
    return tune.Tuner(
        tune.with_resources(trainable, resources.request()),
        param_space=grid or {},
        tune_config=config,
        run_config=tune.RunConfig(name="ray", storage_path=str(folder.absolute()), verbose=0, callbacks=callbacks),
    ).fit()


def _run(config: Callable[[], RunConfig], folder: Path, source: Source, workers: Workers, measure: str | None) -> None:
    """One run. If it fails it reports why, and what else there is to run goes on."""
    try:
        if workers.count > 1:
            from ray.tune.integration.ray_train import TuneReportCallback

            run_on_workers(config(), source, folder, workers, [TuneReportCallback()], measure)
        else:
            threads = max(1, round(workers.cpus))
            run_in_process(config(), source, folder, lambda row: tune.report(dict(row)), threads, measure)
    except (TrainingFailed, UserError) as error:
        tune.report({FAILED: str(error)})
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        reason = (str(error).splitlines() or [""])[0]
        tune.report({FAILED: f"{type(error).__name__}: {reason} (see {folder.name}/error.txt)"})
