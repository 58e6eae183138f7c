"""Logs a sweep's trials to Weights & Biases and MLflow with Ray's own callbacks (`lfm_ray.tune --log`).

Destination and key come from the packages' own environment variables and logins (WANDB_MODE,
WANDB_API_KEY, MLFLOW_TRACKING_URI, ...), so that no key appears in a space, a command or the files of
a sweep.
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

from lfm_ray.callbacks.tensorboard import run_name, run_settings
from lfm_ray.errors import UserError
from lfm_ray.search.ray_tune.adapters import FAILED, NUMBER, DriverOnly
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.study import SETTINGS
from lfm_ray.training.run_folder import row_of


def loggers(names: list[str], sweep: Path, space: Space) -> list[Callback]:
    """The callbacks with these names, ready to log: a wrong key or unreachable server is found before a sweep starts.

    Raises:
        UserError: a package is not installed or cannot log, or the sweep trains a population.
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
    """A mixin before one of Ray's loggers, which passes on our names, settings and metrics of a trial.

    Runs are named as in TensorBoard while a trial trains, `017-cubic`; the settings are those of HParams.
    """

    def __init__(self, space: Space, **settings: Any) -> None:
        super().__init__(**settings)
        self.space = space

    def log_trial_start(self, trial: Trial) -> None:
        """Starts a run."""
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
    """Logs runs to the project WANDB_PROJECT (default lfm_ray), grouped by sweep; local files are in SWEEP/wandb."""
    from ray.air.integrations.wandb import WandbLoggerCallback

    key = os.environ.get("WANDB_API_KEY")

    class Wandb(TrialLogger, WandbLoggerCallback):
        def log_trial_start(self, trial: Trial) -> None:
            """Starts a run. The key is passed as an argument, since Ray logs the environment variables that it sets."""
            kept = os.environ.pop("WANDB_API_KEY", None)
            try:
                super().log_trial_start(trial)
            finally:
                os.environ |= {} if kept is None else {"WANDB_API_KEY": kept}

        def __del__(self) -> None:
            """Does nothing: runs end with the experiment, and Ray's version fails while the interpreter shuts down."""

    return Wandb(
        space,
        project=os.environ.get("WANDB_PROJECT", "lfm_ray"),
        group=sweep.name,
        dir=str(sweep.absolute()),
        mode=os.environ.get("WANDB_MODE"),  # on a cluster, a run's process does not inherit this environment
        settings={"api_key": key} if key else None,
    )


def _mlflow(sweep: Path, space: Space) -> Callback:
    """Logs runs to the experiment MLFLOW_EXPERIMENT_NAME (default: the sweep's name)."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports every table of a new database

    class MLflow(TrialLogger, MLflowLoggerCallback):
        def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
            """Logs an epoch in one request; Ray's version makes two per metric and serves no trial meanwhile."""
            if FAILED not in result:
                now, epoch = int(1000 * time.time()), int(result["epoch"])
                metrics = [Metric(name, float(value), now, epoch) for name, value in row_of(result).items()]
                MlflowClient().log_batch(self._trial_runs[trial], metrics)

    return MLflow(space, experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", sweep.name))
