"""Faults of real processes, nodes and disks: nothing is lost, and the table is the undisturbed one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest
from commands import ended, start, wait_for
from synthetic import write_dataset

from lfm_ray.datasets.shards import Shards
from lfm_ray.search.sweep import Sweep, Trial
from lfm_ray.training.execution import Launch, run_in_process
from lfm_ray.training.run_folder import read_notices
from lfm_ray.training.source import DataSource

TRIALS, EPOCHS = 5, 6
# Settings are a function of seed and number alone, so that trials can run side by side and be compared.
SPACE = f"""
run:
  epochs: {EPOCHS}
  checkpoint: {{keep_every: 2, hours_between_failures: 0}}
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


# What every Python process of these tests does when it starts. It sets its clock back by three hours from the moment
# that a file appears; and before it has saved a file of which NAME.held exists, it waits, and of which NAME.full
# exists, it finds the disk full.
SITE = """
import errno, os, time
def fsync(file, real=os.fsync):
    folder, name = os.path.split(os.readlink(f"/proc/self/fd/{{file if isinstance(file, int) else file.fileno()}}"))
    saved = os.path.join(folder, name[1:].rsplit(".", 2)[0])
    while os.path.exists(saved + ".held"):
        time.sleep(0.05)
    if os.path.exists(saved + ".full"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), saved)
    real(file)
os.fsync = fsync
def time_of(real=time.time):
    if not os.path.exists({file!r}):
        return real()
    open(f"{{{file!r}}}-{{os.getpid()}}", "a").close()
    return real() - 3 * 3600
time.time = time_of
"""


def kill(process: subprocess.Popen[str], name: str) -> None:
    """SIGKILL to a process of Ray whose name contains `name`."""
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = " ".join(child.cmdline())
            if command.startswith("ray::") and name in command:
                child.kill()
                return
    raise AssertionError(f"no process {name}")


def hold(sweep: Path, number: int, epoch: int) -> Path:
    """Makes a trial wait before it has saved an epoch, whose metrics stand in `epochs.jsonl` by then."""
    file = sweep / f"trials/{number:04d}/weights/epoch-{epoch:04d}.pt.held"
    file.parent.mkdir(parents=True)
    file.touch()
    return file


def release(held: Path) -> None:
    """Lets a trial that waits go on."""
    held.unlink()


def epochs(folder: Path, number: int) -> int:
    file = folder / f"trials/{number:04d}/epochs.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def table(sweep: Path) -> pd.DataFrame:
    return Sweep.open(sweep).table().drop(columns="seconds")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    result = tmp_path_factory.mktemp("work")
    write_dataset(result / "shards")
    (result / "space.yaml").write_text(SPACE)
    (result / "site").mkdir()
    (result / "site/sitecustomize.py").write_text(SITE.format(file=str(result / "clock")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{result / 'site'}:{os.environ.get('PYTHONPATH', '')}")
        yield result


@pytest.fixture(scope="module")
def undisturbed(work: Path) -> Path:
    ended(start(work, "tune", "space.yaml", "--name", "undisturbed"))
    return work / "sweeps/undisturbed"


@pytest.mark.slow
def test_only_the_best_trials_keep_their_checkpoint(undisturbed: Path) -> None:
    trials = Sweep.open(undisturbed).trials()
    kept = {trial.number for trial in trials if list((undisturbed / f"trials/{trial.number:04d}").glob("*.pt"))}
    best = sorted(trials, key=lambda trial: (-trial.reached, trial.rows[-1]["val/fused/loss"]))[:2]
    assert kept == {trial.number for trial in best}
    assert all(len(trial.rows) == EPOCHS for trial in trials)


@pytest.mark.slow
def test_kills_a_hang_a_full_disk_a_broken_checkpoint_and_another_clock_change_nothing(
    work: Path, undisturbed: Path
) -> None:
    sweep = work / "sweeps/disturbed"
    common = ["--concurrency", "1", "--epoch-time-limit", "5s"]
    first = start(work, "tune", "space.yaml", "--name", "disturbed", *common)
    wait_for((sweep / "sweep.yaml").exists, first)
    held = [hold(sweep, number, EPOCHS) for number in (0, 1)]
    wait_for(lambda: epochs(sweep, 0) == EPOCHS, first)
    kill(first, "ImplicitFunc")
    release(held[0])
    wait_for(lambda: epochs(sweep, 1) == EPOCHS, first)
    rest = psutil.Process(first.pid).children(recursive=True)
    os.killpg(first.pid, signal.SIGKILL)
    for child in rest:  # so that none of them saves what is held
        with contextlib.suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(rest, timeout=30)
    first.communicate()
    release(held[1])
    with (sweep / "study.journal").open("a") as journal:
        journal.write('{"op_code": 5, "worker')  # as a kill in the middle of a write leaves it
    broken = sweep / "trials/0001/checkpoint.pt"
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    hanging, full = hold(sweep, 3, 2), hold(sweep, 4, 2)
    full = full.rename(full.with_suffix(".full"))

    clock = work / "clock"
    again = start(work, "tune", "--resume", "disturbed", *common, TZ="Pacific/Kiritimati")
    hung, written = sweep / "trials/0003/hung.txt", sweep / "trials/0004/epochs.jsonl"

    def repair() -> None:
        wait_for(lambda: hung.exists() and hung.stat().st_size > 0, again)
        hanging.unlink()
        clock.touch()
        wait_for(lambda: epochs(sweep, 4) == 2, again)
        tried = written.stat().st_mtime_ns
        wait_for(lambda: written.stat().st_mtime_ns > tried, again)  # what failed after it is tried again
        full.unlink()

    repairing = threading.Thread(target=repair)
    repairing.start()
    said = ended(again)
    repairing.join()
    clock.unlink()
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
    assert "overcome: trial 0, trial 3: its process died; it went on from its last saved epoch\n" in said
    assert "in save" in hung.read_text()
    assert len(list(work.glob("clock-*"))) > 1  # the driver and processes of Ray have seen it set back


@pytest.mark.slow
def test_each_trial_that_cannot_go_on_is_recorded_with_its_reason(work: Path) -> None:
    (work / "failing.yaml").write_text(
        "run: {epochs: 30, data: {path: shards, batch_size: 16}, optimizer: {name: sgd, schedule: constant,"
        " momentum: 0.99, gradient_clip: null}, model: {embedding_size: 8, fusion: concat}}\n"
        "search: {optimizer.learning_rate: {loguniform: [0.001, 10]}, model.width: {choice: [4, 3000000]}}\n"
        "points:\n  nan: {optimizer.learning_rate: 10, model.width: 4}\n"
        "  memory: {optimizer.learning_rate: 0.001, model.width: 3000000}\n"
        "  well: {optimizer.learning_rate: 0.001, model.width: 4}\n"
    )
    process = start(work, "tune", "failing.yaml", "--name", "failing", "--trials", "3")
    said = ended(process)
    trials: list[Trial] = Sweep.open(work / "sweeps/failing").trials()
    assert [trial.state for trial in trials] == ["failed", "failed", "finished"]
    assert "the loss became NaN" in trials[0].reason
    assert "memory" in trials[1].reason
    assert all(trial.reason[:60] in said for trial in trials[:2])


@pytest.mark.slow
def test_a_node_that_leaves_and_one_that_joins_which_alone_has_a_gpu(
    work: Path, undisturbed: Path, cluster: object
) -> None:
    leaving = cluster.add_node(num_cpus=1)
    process = start(work, "tune", "space.yaml", "--name", "nodes", "--address", cluster.address)
    sweep = work / "sweeps/nodes"
    wait_for((sweep / "sweep.yaml").exists, process)
    held = [hold(sweep, number, EPOCHS) for number in (0, 1)]
    wait_for(lambda: epochs(sweep, 0) == epochs(sweep, 1) == EPOCHS, process)
    cluster.remove_node(leaving, allow_graceful=False)
    cluster.add_node(num_cpus=1, num_gpus=1)
    for file in held:
        release(file)
    ended(process)
    pd.testing.assert_frame_equal(table(sweep), table(undisturbed))
    notices = [read_notices(sweep / f"trials/{number:04d}") for number in (0, 1)]
    assert sum(any("its process died" in notice for notice in of_one) for of_one in notices) == 1
    mixed = ["--address", cluster.address, "--trials-per-gpu", "2", "--trials", "2"]
    ended(start(work, "tune", "space.yaml", "--name", "gpu", *mixed))
    assert [trial.state for trial in Sweep.open(work / "sweeps/gpu").trials()] == ["finished"] * 2


@pytest.mark.long
def test_a_worker_of_two_that_is_killed_in_a_sweep(work: Path) -> None:
    (work / "pair.yaml").write_text(
        "run: {data: {path: shards, batch_size: 16}, model: {width: 4, embedding_size: 8}, epochs: 3, alpha: {strategy:"
        " heuristic}, checkpoint: {keep_every: 3}}\nsearch: {optimizer.learning_rate: {loguniform: [0.001, 0.03]}}\n"
    )
    sweep = work / "sweeps/pair"
    process = start(work, "tune", "pair.yaml", "--name", "pair", "--trials", "1", "--workers-per-trial", "2")
    wait_for((sweep / "sweep.yaml").exists, process)
    held = hold(sweep, 0, 3)
    wait_for(lambda: epochs(sweep, 0) == 3, process)
    kill(process, "RayTrainWorker")
    release(held)
    assert "overcome: trial 0: its process died; it went on from its last saved epoch\n" in ended(process)
    (trial,) = Sweep.open(sweep).trials()
    one: list[dict[str, float]] = []
    run_in_process(Launch(trial.config, DataSource(Shards(work / "shards"), {}), work / "one"), one.append)
    assert [row["epoch"] for row in trial.rows] == [1, 2, 3]
    losses = [[row["train/loss"] for row in rows] for rows in (trial.rows, one)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)
