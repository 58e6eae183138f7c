"""Weights & Biases and MLflow, by Ray's own callbacks: what `lfm_ray.tune --log` sends a sweep's trials to.

Where they go, and with which key, is said by the packages' own environment variables and logins
(WANDB_MODE, WANDB_API_KEY, MLFLOW_TRACKING_URI, ...), so that no key stands in a space, a command or
the files of a sweep.
"""

from __future__ import annotations

import logging
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback

from lfm_ray.callbacks.tensorboard import row_of, run_name, run_settings
from lfm_ray.errors import UserError
from lfm_ray.search.ray_tune.adapters import FAILED, NUMBER, DriverOnly
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.study import SETTINGS


def loggers(names: list[str], sweep: Path, space: Space) -> list[Callback]:
    """The callbacks of these names, ready to log: a wrong key or an unreachable server shows before a sweep begins.

    Raises:
        UserError: a package is not installed or refuses to log, or the sweep is that of a population.
    """
    if names and space.epochs_a_round:
        raise UserError("--log: a member of a population trains in rounds, each of which would be a run; leave it out")
    return [_logger(name, sweep, space) for name in dict.fromkeys(names)]


def _logger(name: str, sweep: Path, space: Space) -> Callback:
    try:
        import_module(name)
    except ImportError:
        raise UserError(f"--log {name}: {name} is not installed; pip install 'lfm_ray[{name}]'") from None
    made = _wandb(sweep, space) if name == "wandb" else _mlflow(sweep, space)
    try:
        made.setup()
    except Exception as error:
        raise UserError(f"--log {name}: {(str(error).splitlines() or [type(error).__name__])[0]}") from None
    return made


class TrialLogger(DriverOnly, LoggerCallback):
    """What Ray's logger behind it in the order of classes is shown of a trial: its name, settings and metrics.

    Run names are as in TensorBoard while a trial runs, `017-cubic`; the settings are those of HParams.
    """

    def __init__(self, space: Space, **settings: Any) -> None:
        super().__init__(**settings)
        self.space = space

    def log_trial_start(self, trial: Trial) -> None:
        """Begins a run."""
        number, config = trial.config[NUMBER], self.space.config(trial.config[SETTINGS])
        kept = trial.config, trial.custom_trial_name
        trial.config, trial.custom_trial_name = run_settings(self.space, number, config), run_name(number, config)
        try:
            super().log_trial_start(trial)
        finally:
            trial.config, trial.custom_trial_name = kept

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Logs an epoch, with its number as the step."""
        if FAILED not in result:
            super().log_trial_result(iteration, trial, {"training_iteration": result["epoch"], **row_of(result)})

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """Ends a run."""
        super().log_trial_end(trial, failed or FAILED in (trial.last_result or {}))


def _wandb(sweep: Path, space: Space) -> Callback:
    """Runs of the project WANDB_PROJECT (default lfm_ray), grouped by sweep; local files are in SWEEP/wandb."""
    from ray.air.integrations.wandb import WandbLoggerCallback

    key = os.environ.get("WANDB_API_KEY")

    class Wandb(TrialLogger, WandbLoggerCallback):
        def log_trial_start(self, trial: Trial) -> None:
            """Begins a run; the key goes to its process by an argument, for Ray logs environments it is to set."""
            kept = os.environ.pop("WANDB_API_KEY", None)
            try:
                super().log_trial_start(trial)
            finally:
                os.environ |= {} if kept is None else {"WANDB_API_KEY": kept}

        def __del__(self) -> None:
            """Nothing: the runs end with the experiment, and Ray's own fails when the interpreter is ending."""

    return Wandb(
        space,
        project=os.environ.get("WANDB_PROJECT", "lfm_ray"),
        group=sweep.name,
        dir=str(sweep.absolute()),
        mode=os.environ.get("WANDB_MODE"),  # the process of a run on a cluster does not have this one's environment
        settings={"api_key": key} if key else None,
    )


def _mlflow(sweep: Path, space: Space) -> Callback:
    """Runs of the experiment MLFLOW_EXPERIMENT_NAME (default: the sweep's name)."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table of a new database

    class MLflow(TrialLogger, MLflowLoggerCallback):
        def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
            """Logs an epoch in one request; Ray's own makes two for each metric, and no trial is served meanwhile."""
            if FAILED not in result:
                now, epoch = int(1000 * time.time()), int(result["epoch"])
                metrics = [Metric(name, float(value), now, epoch) for name, value in row_of(result).items()]
                MlflowClient().log_batch(self._trial_runs[trial], metrics)

    return MLflow(space, experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", sweep.name))
