"""Faults of real processes, nodes and disks: nothing is lost, and the table is the undisturbed one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
from synthetic import write_dataset

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.launch import Source, read_notices, run_in_process
from lfm_ray.search.sweep import Sweep, Trial
from lfm_ray.settings import load

TRIALS, EPOCHS = 5, 8
# Settings are a function of seed and number alone, so that trials can run side by side and be compared.
SPACE = f"""
run:
  epochs: {EPOCHS}
  checkpoint: {{keep_every: 2}}
  data: {{path: shards, batch_size: 16}}
  model: {{width: 4, embedding_size: 8}}
search:
  alpha.strategy: {{choice: [heuristic, polynomial, learned]}}
  optimizer.learning_rate: {{loguniform: [0.001, 0.03]}}
sampler: random
pruning: {{by: none}}
trials: {TRIALS}
keep_checkpoints: 2
"""


def tune(folder: Path, *arguments: str | Path, timezone: str = "UTC") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lfm_ray.tune", *map(str, arguments)], cwd=folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"TZ": timezone},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stdout + stderr
    assert "Traceback" not in stderr
    return stdout


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def kill(process: subprocess.Popen[str], name: str) -> None:
    """SIGKILL to a process of Ray whose name contains `name`."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(child.cmdline())
            if command.startswith("ray::") and name in command:
                child.kill()
                return
    raise AssertionError(f"no process {name}")


def epochs(folder: Path, number: int) -> int:
    file = folder / f"trials/{number:04d}/epochs.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def table(sweep: Path) -> pd.DataFrame:
    return Sweep.open(sweep).table().drop(columns="seconds")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = tmp_path_factory.mktemp("work")
    write_dataset(result / "shards")
    (result / "space.yaml").write_text(SPACE)
    return result


@pytest.fixture(scope="module")
def undisturbed(work: Path) -> Path:
    ended(tune(work, "space.yaml", "--name", "undisturbed"))
    return work / "sweeps/undisturbed"


def test_only_the_best_trials_keep_their_checkpoint(undisturbed: Path) -> None:
    trials = Sweep.open(undisturbed).trials()
    kept = {trial.number for trial in trials if list((undisturbed / f"trials/{trial.number:04d}").glob("*.pt"))}
    best = sorted(trials, key=lambda trial: -trial.accuracy)[:2]
    assert kept == {trial.number for trial in best}
    assert all(len(trial.rows) == EPOCHS for trial in trials)


def test_kills_a_hang_a_full_disk_and_a_broken_checkpoint_change_nothing(work: Path, undisturbed: Path) -> None:
    sweep = work / "sweeps/disturbed"
    hanging, full = sweep / "trials/0003/weights/epoch-0002.pt.writing", sweep / "trials/0004/epochs.jsonl.writing"
    common = ["--concurrency", "1", "--epoch-time-limit", "8s"]
    first = tune(work, "space.yaml", "--name", "disturbed", *common)
    wait_for(lambda: epochs(sweep, 0) >= 2, first)
    last = sweep / f"trials/0001/weights/epoch-{EPOCHS:04d}.pt.writing"
    last.parent.mkdir(parents=True)
    os.mkfifo(last)  # so that trial 1 does not end before it is killed
    kill(first, "ImplicitFunc")
    wait_for(lambda: epochs(sweep, 1) >= 3, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    last.unlink()
    with (sweep / "study.journal").open("a") as journal:
        journal.write('{"op_code": 5, "worker')  # as a kill in the middle of a write leaves it
    broken = sweep / "trials/0001/checkpoint.pt"
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    for file in (hanging, full):
        file.parent.mkdir(parents=True)
    os.mkfifo(hanging)  # whoever opens it waits for ever
    full.symlink_to("/dev/full")

    again = tune(work, "--resume", "disturbed", *common, timezone="Pacific/Kiritimati")

    def repair() -> None:
        wait_for(lambda: bool((sweep / "trials/0003/hung.txt").exists()), again)
        while not (sweep / "trials/0003/hung.txt").stat().st_size:
            time.sleep(0.05)
        hanging.unlink()
        wait_for(lambda: (sweep / "trials/0004/config.yaml").exists(), again)
        time.sleep(1)
        full.unlink()

    repairing = threading.Thread(target=repair)
    repairing.start()
    said = ended(again)
    repairing.join()
    pd.testing.assert_frame_equal(table(sweep), table(undisturbed))
    notices = [" ".join(read_notices(sweep / f"trials/{number:04d}")) for number in range(TRIALS)]
    for number, expected in {
        0: "its process died",
        1: "checksum differs",
        3: "its process died",
        4: "No space left",
    }.items():
        assert expected in notices[number], notices
    assert "went on from epoch" in notices[1]
    assert "checksum differs" in said
    assert "overcome: trial 0, trial 3: its process died; it went on from its last epoch\n" in said
    assert "in save" in (sweep / "trials/0003/hung.txt").read_text()


def test_each_trial_that_cannot_go_on_is_recorded_with_its_reason(work: Path) -> None:
    (work / "failing.yaml").write_text(
        "run: {epochs: 30, data: {path: shards, batch_size: 16}, optimizer: {name: sgd, schedule: constant,"
        " momentum: 0.99, gradient_clip: null}, model: {embedding_size: 8, fusion: concat}}\n"
        "search: {optimizer.learning_rate: {loguniform: [0.001, 10]}, model.width: {choice: [4, 3000000]}}\n"
        "points:\n  nan: {optimizer.learning_rate: 10, model.width: 4}\n"
        "  memory: {optimizer.learning_rate: 0.001, model.width: 3000000}\n"
        "  well: {optimizer.learning_rate: 0.001, model.width: 4}\n"
    )
    process = tune(work, "failing.yaml", "--name", "failing", "--trials", "3")
    said = ended(process)
    trials: list[Trial] = Sweep.open(work / "sweeps/failing").trials()
    assert [trial.state for trial in trials] == ["failed", "failed", "finished"]
    assert "the loss became NaN" in trials[0].reason
    assert "memory" in trials[1].reason
    assert all(trial.reason[:60] in said for trial in trials[:2])


def test_a_node_that_leaves_and_one_that_joins(work: Path, undisturbed: Path, cluster: object) -> None:
    leaving = cluster.add_node(num_cpus=1)
    process = tune(work, "space.yaml", "--name", "nodes", "--address", cluster.address)
    sweep = work / "sweeps/nodes"
    wait_for(lambda: epochs(sweep, 0) > 0 and epochs(sweep, 1) > 0, process)
    cluster.remove_node(leaving, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    ended(process)
    pd.testing.assert_frame_equal(table(sweep), table(undisturbed))


def test_a_worker_of_two_that_is_killed(work: Path) -> None:
    (work / "run.yaml").write_text(
        "data: {path: shards, batch_size: 16}\nmodel: {width: 4, embedding_size: 8}\nepochs: 20\n"
        "alpha: {strategy: heuristic}\n"
    )
    command = [sys.executable, "-m", "lfm_ray.train", "run.yaml", "--workers", "2", "--name", "two"]
    process = subprocess.Popen(
        command, cwd=work, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    folder = work / "runs/two"
    wait_for(lambda: (folder / "checkpoint.pt").exists(), process)
    kill(process, "RayTrainWorker")
    said = ended(process)
    assert "its process died" in said
    two = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    one: list[dict[str, float]] = []
    run_in_process(load(RunConfig, work / "run.yaml"), Source(Shards(work / "shards"), {}), work / "one", one.append, 1)
    assert [row["epoch"] for row in two] == list(range(1, 21))
    assert [row["train/loss"] for row in two] == pytest.approx([row["train/loss"] for row in one], abs=1e-2)
