"""Ray's own processes end, as when memory is short: a line says so, a sweep goes on, and nothing is dumped."""

from __future__ import annotations

import io
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import ray
from commands import SMALL_FLAGS, completed, start, wait_for
from rich.console import Console
from synthetic import write_dataset

from lfm_ray import ray_daemons, ray_session
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.ray_daemons import ENDED, RayEnded
from lfm_ray.search.ray_tune.adapters import RayHasEnded, StopOrBudget
from lfm_ray.training.execution import Workers
from lfm_ray.workflows import sweeping


def node(**running: bool) -> SimpleNamespace:
    """The node of this process as Ray knows it."""
    return SimpleNamespace(
        all_processes={
            name: [SimpleNamespace(process=SimpleNamespace(poll=lambda lives=lives: None if lives else -9))]
            for name, lives in running.items()
        }
    )


@pytest.mark.parametrize(
    ("known", "ended"),
    [
        (None, False),
        (node(), False),  # this process has joined a cluster
        (node(raylet=True, gcs_server=True, log_monitor=False), False),
        (node(raylet=False, gcs_server=True), True),
        (node(raylet=True, gcs_server=False), True),
    ],
)
def test_tune_leaves_off_when_a_daemon_has_ended(monkeypatch: pytest.MonkeyPatch, known: Any, ended: bool) -> None:
    monkeypatch.setattr(ray._private.worker.global_worker, "node", known, raising=False)
    assert ray_daemons.daemon_ended() == ended
    if ended:
        with pytest.raises(RayHasEnded):
            StopOrBudget(None).stop_all()
    else:
        assert not StopOrBudget(None).stop_all()


def test_the_state_of_a_node_that_died_is_not_printed_and_other_messages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr(
        ray._private.worker, "print_to_stdstream", lambda data, ignore_prefix: printed.extend(data["lines"])
    )
    ray_daemons.without_dumps()
    ray_daemons.without_dumps()
    said = ray._private.worker.print_to_stdstream
    for line in ("Raylet is terminated. Last 20 lines of the Raylet logs:\n [state-dump]", "no node has 3 GPUs"):
        said({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    said({"lines": ["Raylet is terminated"], "pid": 7, "is_err": False}, ignore_prefix=False)
    assert printed == ["no node has 3 GPUs", "Raylet is terminated"]


@dataclass
class Asked:
    folder: Path


@pytest.mark.parametrize("times", [1, 2])
def test_a_sweep_goes_on_with_another_ray_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    asked: Any = Asked(tmp_path / "sweeps/mine")
    runs: list[tuple[Any, float | None]] = []

    def once(what: Any, means: sweeping.Means) -> None:
        runs.append((what, means.time_budget))
        if len(runs) <= times:
            raise RayEnded(ENDED)

    resumed = Asked(asked.folder)
    monkeypatch.setattr(sweeping, "run_once", once)
    monkeypatch.setattr(sweeping, "goes_on", lambda folder, *changes: resumed)
    output = io.StringIO()
    means = sweeping.Means(Workers(1), None, 100.0, (), None, Console(file=output))
    if times == 1:
        sweeping.run(asked, means)
    else:
        with pytest.raises(TrainingFailed, match=r"twice; what has finished is saved; .*tune --resume mine .*goes on$"):
            sweeping.run(asked, means)
    assert f"{ENDED}; it is started anew, and the sweep goes on\n" in output.getvalue()
    assert [one for one, _ in runs] == [asked, resumed]
    assert runs[1][1] is not None and 99 < runs[1][1] < 100


def test_a_command_that_waits_for_a_ray_that_has_ended_ends_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(ray_session, "LOOK", 0.001)
    monkeypatch.setattr(ray_daemons, "daemon_ended", lambda: True)
    monkeypatch.setattr(os, "_exit", ended.append)
    with ray_session._watched(tmp_path):
        pass  # at once
    assert not ended
    monkeypatch.setattr(ray_session, "GRACE", 0.01)
    with ray_session._watched(tmp_path / "folder"):
        while not ended:
            time.sleep(0.01)
    assert ended == [1]
    assert capsys.readouterr().err == f"error: {ENDED}; what was saved is kept, and the command can be run again\n"


def test_what_ray_raises_when_it_has_ended_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="of its own"), ray_session._watched(tmp_path):
        raise OSError("of its own")
    monkeypatch.setattr(ray_daemons, "daemon_ended", lambda: True)
    with pytest.raises(RayEnded, match="can be run again"), ray_session._watched(tmp_path):
        raise ray.exceptions.ActorUnavailableError("Socket closed", None)
    with pytest.raises(UserError, match="a wrong setting"), ray_session._watched(tmp_path):
        raise UserError("a wrong setting")


def end(process: subprocess.Popen[str], daemon: str) -> None:
    """SIGKILL to a daemon of a command's Ray."""
    for child in psutil.Process(process.pid).children(recursive=True):
        if Path((child.cmdline() or [""])[0]).name == daemon:
            child.kill()
            return
    raise AssertionError(f"no {daemon}")


def clean(said: str) -> bool:
    """Whether nothing of Ray's own words is in what a command has said."""
    return not any(word in said for word in ("Traceback", "(raylet)", "state-dump", ".cc:", ".h:", "***"))


@pytest.mark.parametrize(
    "daemon", [pytest.param("raylet", marks=pytest.mark.slow), pytest.param("gcs_server", marks=pytest.mark.long)]
)
def test_a_sweep_whose_ray_is_killed_goes_on(tmp_path: Path, daemon: str) -> None:
    write_dataset(tmp_path / "shards/tiny")
    process = start(
        tmp_path, "tune", "--data", "shards/tiny", "--name", "one", "--trials", "6", "--epochs", "60",
        "--concurrency", "1", *SMALL_FLAGS,
    )  # fmt: skip
    wait_for((tmp_path / "sweeps/one/trials/0001/epochs.jsonl").exists, process)
    end(process, daemon)
    done = completed(process)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"{ENDED}; it is started anew, and the sweep goes on" in said
    assert "6 finished" in said or "pruned" in said
    assert "failed" not in said and clean(said)


@pytest.mark.long
def test_a_run_whose_ray_is_killed_ends_with_a_line(tmp_path: Path) -> None:
    write_dataset(tmp_path / "shards/tiny")
    (tmp_path / "run.yaml").write_text("model: {width: 4, embedding_size: 8}\ndata: {batch_size: 16}\n")
    process = start(tmp_path, "train", "run.yaml", "--data", "shards/tiny", "--epochs", "100000", "--name", "one")
    wait_for((tmp_path / "runs/one/epochs.jsonl").exists, process)
    end(process, "raylet")
    done = completed(process)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"error: {ENDED}; the same command with --name one goes on" in done.stderr
    assert clean(done.stdout + done.stderr)
