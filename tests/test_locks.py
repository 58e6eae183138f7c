"""One process at a time has a folder: each command that writes there is refused while another one does."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import run
from made_sweep import make_sweep
from synthetic import write_dataset

from lfm_ray.datasets import shards
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.export import model_folder
from lfm_ray.reproduce import plan
from lfm_ray.search.sweep import Sweep
from lfm_ray.storage import exclusive
from lfm_ray.training.source import DataSource
from lfm_ray.workflows import single_run


@pytest.fixture
def work(tmp_path: Path) -> Path:
    make_sweep(tmp_path / "sweeps/one", trials=2, epochs=2, planned=4).let_go()
    (tmp_path / "run.yaml").write_text("epochs: 1\n", encoding="utf-8")
    return tmp_path


BUSY = {
    "tune": (("tune", "--resume", "one"), "sweeps/one", "another process is running this sweep"),
    "tune with more trials": (
        ("tune", "--resume", "one", "--trials", "9"), "sweeps/one", "another process is running this sweep",
    ),
    "confirm": (("confirm", "sweeps/one"), "sweeps/one", "another process is running this sweep"),
    "sweeps remove": (("sweeps", "remove", "one"), "sweeps/one", "another process is running this sweep"),
    "train": (("train", "run.yaml", "--name", "one"), "runs/one", "another process trains this run"),
    "report": (("report", "sweeps/one"), "sweeps/one/report", "another process writes this report"),
}  # fmt: skip


@pytest.mark.parametrize("what", BUSY)
def test_a_command_is_refused_while_another_has_the_folder(
    work: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it has changed anything, and before anything is trained."""
    command, folder, said = BUSY[what]
    data = Shards(write_dataset(work / "shards"))
    monkeypatch.setattr(single_run, "ray_session", lambda address: nullcontext())
    monkeypatch.setattr(single_run, "Resources", lambda *_, **__: SimpleNamespace(trials_at_once=lambda: 1))
    monkeypatch.setattr(single_run.DataSource, "open", lambda config: DataSource(data, {}))
    monkeypatch.setattr(single_run, "run_on_workers", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.setattr("lfm_ray.ray_session._start", lambda *_: pytest.fail("it starts Ray"))
    with exclusive(work / folder, "another one"):
        before = (work / "sweeps/one/sweep.yaml").read_bytes()
        done = run(work, *command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done
        assert f"{folder}: {said}" in done.stderr
        assert (work / "sweeps/one/sweep.yaml").read_bytes() == before


def test_a_row_of_a_comparison_is_refused_while_another_process_has_it(tmp_path: Path) -> None:
    file = SimpleNamespace(fingerprint="made", trials=2, seeds=[1])
    sweep = make_sweep(plan.row_folder(tmp_path, "row"), trials=1, epochs=1)
    with pytest.raises(UserError, match="another process is running this sweep"):
        plan._open(tmp_path, "row", sweep.space, file)  # type: ignore[arg-type]
    sweep.let_go()
    plan._open(tmp_path, "row", sweep.space, file).let_go()  # type: ignore[arg-type]


def test_of_two_exports_to_one_folder_the_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have seen that it is free."""
    from tiny_run import small_config

    from lfm_ray.export import from_run
    from lfm_ray.training.execution import Launch, run_in_process

    source = DataSource(Shards(write_dataset(tmp_path / "shards")), {})
    run_in_process(Launch(small_config("epochs=1"), source, tmp_path / "run"), lambda row: None)
    from_run.export(tmp_path / "run", tmp_path / "out")
    written = (tmp_path / "out/config.json").read_bytes()
    monkeypatch.setattr(model_folder, "check_free", lambda out: None)
    monkeypatch.setattr(from_run, "check_free", lambda out: None)
    with pytest.raises(UserError, match="out: cannot be written: Directory not empty"):
        from_run.export(tmp_path / "run", tmp_path / "out")
    assert (tmp_path / "out/config.json").read_bytes() == written
    assert not list(tmp_path.glob(".out*"))


def test_a_file_of_shards_is_compared_with_its_checksum_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[str] = []
    real = shards.sha256

    def counted(path: Path) -> str:
        summed.append(path.name)
        return real(path)

    write_dataset(tmp_path / "data")
    monkeypatch.setattr(shards, "sha256", counted)
    for _ in range(3):
        Shards(tmp_path / "data").arrays("train")
    assert summed == ["train-00000.arrow"]
    shutil.copyfile(tmp_path / "data/val-00000.arrow", tmp_path / "data/train-00000.arrow")
    with pytest.raises(UserError, match="checksum differs"):
        Shards(tmp_path / "data").arrays("train")


def test_a_sweep_that_was_let_go_can_be_had(work: Path) -> None:
    first, second = Sweep.open(work / "sweeps/one"), Sweep.open(work / "sweeps/one")
    first.hold()
    first.let_go()
    second.hold()
    second.let_go()
