"""What Weights & Biases and MLflow are given of a sweep, offline, by their own packages."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lfm_ray.callbacks.loggers import loggers
from lfm_ray.errors import UserError
from lfm_ray.search.spaces.space import Space
from lfm_ray.tune import main

SPACE = Space.model_validate(
    {
        "run": {"epochs": 3},
        "search": {
            "alpha.strategy": {"choice": ["heuristic", "polynomial"]},
            "alpha.coefficients": {"uniform": [0, 1], "length": 2, "when": {"alpha.strategy": "polynomial"}},
        },
    }
)
KEY = "k" * 40


class Trial:
    """What the callbacks see of a trial of Ray Tune."""

    def __init__(self, number: int, settings: dict[str, Any], folder: Path) -> None:
        self.trial_id, self.config = f"t{number}", {"number": number, "settings": settings}
        self.custom_trial_name, self.last_result = "run_trial_abc", dict[str, Any]()
        self.experiment_dir_name, self.local_path = "ray", str(folder)

    def __str__(self) -> str:
        return self.custom_trial_name


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "seconds": 1.0, "alpha": 0.5, "val/fused/accuracy": 0.8 + epoch / 100, "pid": 7,
            "config": {"number": 17}, "training_iteration": epoch + 5}  # fmt: skip


def polynomial(folder: Path, number: int = 17) -> Trial:
    return Trial(number, {"alpha.strategy": "polynomial", "alpha.coefficients": [0.5, 0.25]}, folder)


def test_mlflow_has_a_run_for_each_trial_named_as_in_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    (callback,) = loggers(["mlflow", "mlflow"], tmp_path / "mine", SPACE)
    ended, failed = polynomial(tmp_path), polynomial(tmp_path, 3)
    for trial in (ended, failed):
        callback.on_trial_start(0, [], trial)
        for epoch in (1, 2):
            callback.on_trial_result(0, [], trial, row(epoch))
    failed.last_result = {"failed": "out of memory"}
    callback.on_trial_result(0, [], failed, failed.last_result)
    for trial in (ended, failed):
        callback.on_trial_complete(0, [], trial)
        assert (str(trial), trial.config["number"]) in (("run_trial_abc", 17), ("run_trial_abc", 3))

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("mine")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {
        "017-polynomial": "FINISHED",
        "003-polynomial": "FAILED",
    }
    run = runs["017-polynomial"]
    searched = {"strategy": "polynomial", "trial": "17", "alpha.coefficients.0": "0.5", "alpha.coefficients.1": "0.25"}
    assert searched.items() <= run.data.params.items()
    assert set(run.data.metrics) == {"epoch", "seconds", "alpha", "val/fused/accuracy"}
    history = client.get_metric_history(run.info.run_id, "val/fused/accuracy")
    assert [(one.step, one.value) for one in history] == [(1, pytest.approx(0.81)), (2, pytest.approx(0.82))]


@pytest.mark.slow
def test_wandb_has_them_too_and_the_key_is_on_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_local: None
) -> None:
    pytest.importorskip("wandb")
    from lfm_ray.ray_private import session_folder

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (callback,) = loggers(["wandb"], tmp_path / "mine", SPACE)
    (tmp_path / "mine").mkdir()
    trial = polynomial(tmp_path)
    callback.on_trial_start(0, [], trial)
    for epoch in (1, 2):
        callback.on_trial_result(0, [], trial, row(epoch))
    callback.on_trial_complete(0, [], trial)
    callback.on_experiment_end([trial])
    (file,) = (tmp_path / "mine/wandb").glob("offline-run-*-t17/run-t17.wandb")
    until = time.monotonic() + 60
    while b"lfm_ray" not in file.read_bytes() and time.monotonic() < until:
        time.sleep(0.2)  # W&B writes it from a process of its own
    content = file.read_bytes()
    for expected in (b"017-polynomial", b"alpha.coefficients.1", b"val/fused/accuracy", b"lfm_ray"):
        assert expected in content
    for file in [*tmp_path.rglob("*"), *(session_folder() / "logs").rglob("*")]:
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "argv", ["tune", "--log", name])
    with pytest.raises(UserError, match=rf"--log {name}: {name} is not installed; pip install 'lfm_ray\[{name}\]'"):
        main()
    assert list(tmp_path.iterdir()) == []


def test_what_refuses_to_log_says_why_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"--log wandb: No WandB API key found. Either set [^\n]*$"):
        loggers(["wandb"], tmp_path / "mine", SPACE)
    rounds = SPACE.model_copy(update={"epochs_a_round": 1})
    with pytest.raises(UserError, match="--log: a member of a population trains in rounds"):
        loggers(["wandb"], tmp_path / "mine", rounds)
