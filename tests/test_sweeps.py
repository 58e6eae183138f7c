"""`lfm-ray sweeps`: what a folder holds, and what of it is deleted, so that the rest goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import without_workers
from commands import SMALL_FLAGS, Completed, run
from made_sweep import make_sweep

from lfm_ray import files
from lfm_ray.datasets.shards import Shards
from lfm_ray.runtime import checkpoint
from lfm_ray.search import removal
from lfm_ray.search.selection import best_of
from lfm_ray.search.sweep import Sweep, trial_folder

MODELS = ("checkpoint.pt", "checkpoint.previous.pt", "best.pt", "weights/epoch-0001.pt")


def words(done: Completed, status: int = 0) -> str:
    assert done.returncode == status, done.stdout + done.stderr
    return " ".join((done.stderr if status else done.stdout).split())


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Two sweeps, `mine` with files in place of models, and `other`, which was stopped; and what is not ours."""
    sweep = make_sweep(tmp_path / "sweeps/mine", trials=6)
    make_sweep(tmp_path / "sweeps/other", trials=3, planned=9, ends=("pruned",)).let_go()
    sweep.let_go()
    for trial in range(6):
        for name in MODELS:
            file = trial_folder(sweep.folder, trial) / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(bytes(1000))
    (tmp_path / "sweeps/mine/tensorboard/001-heuristic").mkdir(parents=True)
    (tmp_path / "sweeps/mine/tensorboard/001-heuristic/events").write_bytes(bytes(10))
    (tmp_path / "sweeps/no-sweep").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/checkpoint.pt").write_bytes(b"keep")
    return tmp_path


def files_of(folder: Path) -> Iterator[str]:
    return (str(file.relative_to(folder)) for file in sorted(folder.rglob("*")) if file.is_file())


def test_sweeps_are_listed_with_data_state_best_and_size(work: Path) -> None:
    (work / "sweeps/torn").mkdir()
    (work / "sweeps/torn/sweep.yaml").write_text("space: {trials: -1}\n")
    before = list(files_of(work))
    done = run(work, "sweeps")
    said = words(done)
    best = best_of(Sweep.open(work / "sweeps/mine").trials())
    assert best is not None
    (mine,) = [line for line in done.stdout.splitlines() if "mine" in line]
    for part in ("shards/demo", "finished, 6", f"{best.reached:.3f}", f"(trial {best.number})"):
        assert part in said
    assert "kB" in mine
    assert "stopped, 3 of 9" in said
    assert "torn: " in said and "cannot be opened" in said
    assert "no-sweep" not in said
    assert list(files_of(work)) == before
    held = Sweep.open(work / "sweeps/other")
    held.hold()
    assert "running, 3 of 9" in words(run(work, "sweeps", "list"))
    held.let_go()
    assert words(run(work, "sweeps", "--storage", "none")) == "none: there are no sweeps here"


def test_a_sweep_is_deleted_whole_and_no_other(work: Path) -> None:
    others = [name for name in files_of(work / "sweeps") if not name.startswith("mine/")]
    (work / "sweeps/mine/linked").symlink_to(work / "elsewhere")
    assert words(run(work, "sweeps", "remove", "mine")).startswith("removed sweeps/mine, ")
    assert list(files_of(work / "sweeps")) == others
    assert (work / "elsewhere/checkpoint.pt").read_bytes() == b"keep"
    assert "there is no sweep here" in words(run(work, "sweeps", "remove", "mine"), 2)


def test_a_damaged_sweep_can_be_deleted(work: Path) -> None:
    (work / "sweeps/mine/sweep.yaml").write_text("[")
    (work / "sweeps/mine/study.journal").write_text("x\n")
    run(work, "sweeps", "remove", "mine")
    assert not (work / "sweeps/mine").exists()


@pytest.mark.parametrize("more", [[], ["--trial", "1"], ["--checkpoints"]])
@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", "no-sweep", "linked", "running"])
def test_what_is_no_sweep_of_the_folder_or_runs_is_left_alone(work: Path, name: str, more: list[str]) -> None:
    (work / "sweeps/linked").symlink_to(work / "sweeps/mine")
    (work / "sweeps/other").rename(work / "sweeps/running")
    held = Sweep.open(work / "sweeps/running")
    held.hold()
    before = list(files_of(work))
    said = words(run(work, "sweeps", "remove", name, *more), 2)
    expected = {"linked": "is a link; remove it yourself", "running": "another process is running this sweep",
                "no-sweep": "there is no sweep here"}  # fmt: skip
    assert expected.get(name, "must be the name of one folder") in said
    assert list(files_of(work)) == before
    held.let_go()


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("more", [["--trial", "1"], ["--checkpoints"], ["--checkpoints", "--trial", "1"]])
@pytest.mark.parametrize("link", ["trials", "trials/0001", "trials/0001/weights", "trials/0001/checkpoint.pt"])
def test_nothing_is_deleted_through_a_link(
    work: Path, link: str, more: list[str], trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, target = work / "sweeps/mine" / link, work / "target"
    place.rename(target)
    place.symlink_to(target)
    before = list(files_of(target)) if target.is_dir() else [target.read_bytes()]
    if trusted:
        monkeypatch.setattr(files.trust, "everything", lambda: True)
    run(work, "sweeps", "remove", "mine", *more)
    assert (list(files_of(target)) if target.is_dir() else [target.read_bytes()]) == before


def test_a_deleted_trial_is_said_to_be_and_keeps_its_last_metrics(work: Path) -> None:
    before = Sweep.open(work / "sweeps/mine").trials()
    said = words(run(work, "sweeps", "remove", "mine", "--trial", "1", "--trial", "2"))
    assert said.startswith("removed the files of trials 1, 2 in sweeps/mine, ")
    assert not trial_folder(work / "sweeps/mine", 1).exists()
    assert not list((work / "sweeps/mine/tensorboard").iterdir())
    sweep = Sweep.open(work / "sweeps/mine")
    after = sweep.trials()
    assert [trial.state for trial in after] == [trial.state for trial in before]
    assert after[1].rows == before[1].rows[-1:]
    assert all("its folder was removed on 20" in line for line in sweep.troubles(after))
    assert len(sweep.troubles(after)) == 2
    assert sweep.study.remaining() == 0
    assert run(work, "report", "sweeps/mine").returncode == 0
    assert "removed on" in (work / "sweeps/mine/report.html").read_text()
    assert "has no such trial; it has 0 to 5" in words(run(work, "sweeps", "remove", "mine", "--trial", "6"), 2)


def test_models_are_deleted_without_what_was_measured(work: Path) -> None:
    open_one = Sweep.open(work / "sweeps/other")
    number, _ = open_one.study.ask()
    running = trial_folder(open_one.folder, number)
    running.mkdir()
    for folder in (running, trial_folder(open_one.folder, 0), open_one.folder / "confirm/0000-seed1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.pt").write_bytes(bytes(1000))
    assert words(run(work, "sweeps", "remove", "other", "--checkpoints")).endswith("in sweeps/other, 2.0 kB")
    assert [file.parent for file in (work / "sweeps").rglob("checkpoint.pt") if "other" in str(file)] == [
        work / "sweeps/other" / running.relative_to(open_one.folder)
    ]
    run(work, "sweeps", "remove", "mine", "--checkpoints", "--trial", "1")
    assert not any((trial_folder(work / "sweeps/mine", 1) / name).exists() for name in MODELS)
    assert all((trial_folder(work / "sweeps/mine", 0) / name).exists() for name in MODELS)
    assert not Sweep.open(work / "sweeps/mine").troubles(Sweep.open(work / "sweeps/mine").trials())


def test_a_kill_while_a_folder_is_deleted_leaves_nothing_that_is_taken_for_it(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(removal.shutil, "rmtree", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            removal.remove_sweep(work / "sweeps", "mine")
    assert "mine" not in words(run(work, "sweeps"))
    run(work, "sweeps", "remove", "other")
    assert os.listdir(work / "sweeps") == ["no-sweep"]


@pytest.fixture(scope="module")
def trained(shards: Shards, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep, sweeps/one, of two trials that were trained and kept their models."""
    folder = tmp_path_factory.mktemp("trained")
    search = "search: {optimizer.learning_rate: {loguniform: [0.001, 0.03]}}"
    (folder / "space.yaml").write_text(f"{search}\ntrials: 2\nkeep_checkpoints: 2\npruning: {{by: none}}\n")
    flags = ["--name", "one", "--data", str(shards.path), "--epochs", "1", *SMALL_FLAGS]
    with pytest.MonkeyPatch.context() as patch:
        without_workers.use(patch)
        assert run(folder, "tune", "space.yaml", *flags).returncode == 0
    return folder


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("how", ["removed", "lost"])
def test_the_commands_go_on_without_the_folder_of_the_best_trial(
    trained: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_workers.use(monkeypatch)
    shutil.copytree(trained / "sweeps", tmp_path / "sweeps")
    best = best_of(Sweep.open(tmp_path / "sweeps/one").trials())
    assert best is not None
    if how == "removed":
        assert run(tmp_path, "sweeps", "remove", "one", "--trial", str(best.number)).returncode == 0
    else:
        shutil.rmtree(trial_folder(tmp_path / "sweeps/one", best.number))
    why = "its folder was removed on" if how == "removed" else "checkpoint.pt is missing"

    said = words(run(tmp_path, "export", "sweeps/one", "--out", "model"))
    assert f"trial {best.number}, the best of sweeps/one, has no model ({why}" in said
    assert f"this is trial {1 - best.number}" in said
    assert "lfm-ray train sweeps/one/best.yaml trains it" in said
    if how == "removed":
        assert "has no model" in words(run(tmp_path, "report", "--predictions", "sweeps/one"))
        assert run(tmp_path, "confirm", "sweeps/one", "--seeds", "1").returncode == 0
        confirmed = tmp_path / f"sweeps/one/confirm/{best.number:04d}-seed1/checkpoint.pt"
        assert checkpoint.load(confirmed)["epoch"] == 1
    said = words(run(tmp_path, "tune", "--resume", "one", "--trials", "3"))
    assert f"altered or lost: trial {best.number}: its " in said
    assert "3 finished" in said
    assert run(tmp_path, "sweeps", "remove", "one", "--checkpoints").returncode == 0
    said = words(run(tmp_path, "export", "sweeps/one", "--out", "again"), 2)
    assert "has no model (" in said and "no other trial has one either" in said
