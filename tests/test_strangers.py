"""Folders from somebody else: nothing outside of them is read or written, and names lead nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import run
from stored_folders import unpack
from synthetic import write_dataset

import lfm_ray
from lfm_ray.errors import UserError
from lfm_ray.files import check_within, write_atomically
from lfm_ray.storage import exclusive


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("stored"))


COMMANDS = {
    "report": ("report", "sweeps/old"),
    "resume": ("tune", "--resume", "old", "--trials", "6"),
    "confirm": ("confirm", "sweeps/old"),
    "export": ("export", "sweeps/old", "--out", "model"),
    "export a run": ("export", "runs/run", "--out", "model"),
}
LINKS = (".lock", "report.html.writing", "trials.csv.writing", "report.html", "report", "study.journal", "trials",
         "trials/0001", "trials/0001/checkpoint.pt", "best.yaml")  # fmt: skip


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_follows_a_link_out_of_the_folder(stored: Path, tmp_path: Path, command: str, link: str) -> None:
    shutil.copytree(stored, tmp_path / "work")
    folder = tmp_path / "work" / ("runs/run" if command == "export a run" else "sweeps/old")
    path, outside = folder / link, tmp_path / "outside"
    if path.is_dir() or link in ("report", "trials"):
        outside.mkdir()
        (outside / "mine.txt").write_text("mine")
        shutil.rmtree(path, ignore_errors=True)
    else:
        outside.write_text("mine")
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside)
    done = run(tmp_path / "work", *COMMANDS[command])
    assert done.returncode == 2
    assert "is a link out of this folder" in done.stderr
    assert (
        [file.name for file in outside.iterdir()] == ["mine.txt"] if outside.is_dir() else outside.read_text() == "mine"
    )


def test_links_within_a_folder_and_links_to_it_are_followed(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored / "sweeps/old", tmp_path / "big disk")
    (tmp_path / "old").symlink_to(tmp_path / "big disk")
    (tmp_path / "big disk" / "latest").symlink_to(tmp_path / "big disk" / "trials" / "0001")
    check_within(tmp_path / "old")
    assert len(lfm_ray.load_sweep(tmp_path / "old").trials) == 5


def test_what_is_written_anew_does_not_follow_a_link_in_its_place(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt.writing").symlink_to(outside)
    write_atomically(tmp_path / "folder" / "a.txt", "ours")
    assert (outside.read_text(), (tmp_path / "folder" / "a.txt").read_text()) == ("mine", "ours")


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "/tmp/x", "x" * 300])
def test_a_name_is_not_a_path(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="must be the name of one folder, of at most 200 bytes, not a path"):
        lfm_ray.tune({"search": {"alpha.value": {"uniform": [0, 1]}}}, data="shards/x", name=name)
    with pytest.raises(UserError, match="must be the name of one folder, of at most 200 bytes, not a path"):
        lfm_ray.train({}, data="shards/x", name=name)


def test_settings_of_which_nothing_is_left_are_not_those_of_a_default_run(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_bytes(b"")
    with pytest.raises(UserError, match=r"best\.yaml: is empty; to train with the default settings, write {}"):
        lfm_ray.train(tmp_path / "best.yaml", data=tmp_path / "none", storage=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("data", [["one"], ["one", "other"]])
def test_the_name_of_a_comparison_is_not_a_path(
    tmp_path: Path, data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfm_ray.ray_session._start", lambda *_: pytest.fail("it begins"))
    for name in data:
        write_dataset(tmp_path / "work" / name)
    done = run(
        tmp_path / "work",
        "reproduce",
        "table1",
        *(word for name in data for word in ("--data", name)),
        "--trials",
        "1",
        "--name",
        "../x",
    )
    assert done.returncode == 2
    assert "error: --name '../x': must be the name of one folder, of at most 200 bytes, not a path" in done.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["work"]
    assert sorted(item.name for item in (tmp_path / "work").iterdir()) == data


def test_an_exported_model_is_altered_or_names_files_elsewhere(stored: Path, tmp_path: Path) -> None:
    lfm_ray.export(stored / "runs/run", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    whole = json.loads(file.read_text())
    swapped = whole["dataset"] | {"classes": whole["dataset"]["classes"][::-1]}
    elsewhere = whole["files"] | {"../outside": "0" * 64}
    for altered, said in (
        (whole | {"dataset": swapped}, "its checksum differs"),
        (whole | {"checksum": "", "files": elsewhere}, "a file outside of the exported"),
    ):
        file.write_text(json.dumps(altered))
        with pytest.raises(UserError, match=said):
            lfm_ray.load(tmp_path / "model")


def test_one_process_at_a_time_has_a_run(tmp_path: Path) -> None:
    other = exclusive(tmp_path / "run", "another process")
    with exclusive(tmp_path / "run", "another process"), pytest.raises(UserError, match="another process"), other:
        pass
    with exclusive(tmp_path / "run", "another process"):
        pass
