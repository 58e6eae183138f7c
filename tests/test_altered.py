"""Folders of strangers, and of friends whose disks err: nothing outside is read or written, no code runs, and no
number differs from those that were written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from commands import run
from made_sweep import make_sweep
from synthetic import write_dataset
from tiny_run import SMALL
from whole_folders import facts_of_arrays

import lfm_ray
from lfm_ray import trust
from lfm_ray.config import RunConfig
from lfm_ray.datasets.preparing.staging import StagingFolder, check_replaceable
from lfm_ray.datasets.shards import CARD, Shards, read_card
from lfm_ray.errors import UserError
from lfm_ray.export import from_run
from lfm_ray.files import UNFINISHED, appending, write_atomically, written_anew
from lfm_ray.search.samplers.cmaes import SafeCmaEsSampler
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.study.samplers import sampler_for
from lfm_ray.search.sweep import Sweep
from lfm_ray.settings import load
from lfm_ray.storage import exclusive
from lfm_ray.training.execution import Launch, run_in_process
from lfm_ray.training.source import DataSource


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards, a sweep, a run on the shards, and its export: `shards`, `sweep`, `run`, `model`."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder / "shards")
    write_atomically(folder / "shards" / CARD, read_card(folder / "shards").to_json())
    make_sweep(folder / "sweep", trials=4, epochs=3, ends=("finished", "finished", "pruned"))
    flags = [*SMALL, "epochs=2", f"data.path={folder / 'shards'}", "alpha.strategy=learned"]
    config = load(RunConfig, None, flags)
    source = DataSource(Shards(folder / "shards"), {})
    run_in_process(Launch(config, source, folder / "run"), lambda row: None)
    from_run.export(folder / "run", folder / "model")
    return folder


COMMANDS: dict[str, list[tuple[str, ...]]] = {
    "shards": [("prepare", "--inspect", "shards")],
    "sweep": [("report", "sweep"), ("export", "sweep", "--out", "new"), ("tune", "--resume", "sweep", "--storage", "."),
              ("confirm", "sweep")],
    "run": [("report", "--gradcam", "run"), ("report", "--predictions", "run"), ("export", "run", "--out", "new"),
            ("train", "best.yaml", "--name", "run", "--storage", "."), ("tune", "cubic", "--start-from", "run")],
}  # fmt: skip


@pytest.mark.parametrize("kind", list(COMMANDS))
def test_no_command_follows_a_link_out_of_a_folder(made: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(made / "run", outside / "run")
    work = tmp_path / "work"
    shutil.copytree(made, work)
    (work / "best.yaml").write_text("epochs: 2\n", encoding="utf-8")
    there = sorted(file.relative_to(work) for file in (work / kind).rglob("*") if file.is_file())
    guessed = [".lock", "report.html", "report.html.writing", "trials.csv.writing", "contact_sheet.png", "report",
               "contact_sheet.writing.png", "notices.txt", "hung.txt", "test_reads.log", "ray"]  # fmt: skip
    for name in [*there, *(Path(kind) / name for name in guessed)]:
        if (work / name).exists() and not (work / name).is_file():
            continue
        kept = (work / name).read_bytes() if (work / name).exists() else None
        target = outside / "target"
        target.write_bytes(b"kept" if kept is None else kept)
        (work / name).unlink(missing_ok=True)
        (work / name).symlink_to(target)
        for command in COMMANDS[kind]:
            done = run(work, *command)
            assert done.returncode == 2, (name, command, done)
            lines = done.stderr.splitlines()
            assert len(lines) == 1, (name, command, done)
            assert "is a link out of" in lines[0], (name, command, lines)
            assert str(name) in lines[0], (name, command, lines)
        assert target.read_bytes() == (b"kept" if kept is None else kept)
        (work / name).unlink()
        if kept is not None:
            (work / name).write_bytes(kept)


def test_a_model_with_a_link_or_a_path_out_of_its_folder_is_not_loaded(made: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name
        shutil.copytree(made / "model", folder)
        shutil.move(folder / name, tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match="is a link out of"):
            lfm_ray.load(folder)
    folder = tmp_path / "paths"
    shutil.copytree(made / "model", folder)
    card = json.loads((folder / "config.json").read_text())
    for path in ("../config.json", "/etc/hostname", "encoders/../../x"):
        changed = card | {"files": card["files"] | {path: "0" * 64}, "checksum": None}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match="a file outside of the exported model"):
            lfm_ray.load(folder)


def test_a_run_or_a_dataset_to_be_replaced_with_a_link_out_of_it_is_not_read(made: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    for name in ("run", "shards"):
        shutil.copytree(made / name, tmp_path / name)
        (tmp_path / name / "contact_sheet.png").symlink_to(outside)
    with pytest.raises(UserError, match="is a link out of"):
        lfm_ray.load_run(tmp_path / "run")
    with pytest.raises(UserError, match="is a link out of"):
        check_replaceable(tmp_path / "shards")
    staging = StagingFolder(tmp_path / "new", "of a job")
    staging.folder.mkdir()
    (staging.folder / "fingerprint").symlink_to(outside)
    with pytest.raises(UserError, match="is a link out of"), staging.opened():
        raise AssertionError("it begins")
    assert outside.read_text() == "kept"


def test_with_trust_links_are_followed(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_asked", {trust.EVERYTHING})
    folder = tmp_path / "shards"
    shutil.copytree(made / "shards", folder)
    shutil.move(folder / CARD, tmp_path / "elsewhere")
    (folder / CARD).symlink_to(tmp_path / "elsewhere")
    assert facts_of_arrays(folder) == facts_of_arrays(made / "shards")


def test_a_pipe_in_a_folder_is_named_and_not_waited_for(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(made / "sweep", folder)
    os.mkfifo(folder / "trials.csv")
    with pytest.raises(UserError, match=r"trials\.csv: is neither a file nor a folder"):
        Sweep.open(folder)


def test_files_are_written_beside_links_and_not_through_them(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "folder" / "file"
    target.write_text("kept")
    link.parent.mkdir()
    link.symlink_to(target)
    with pytest.raises(UserError, match="is a link"):
        appending(link)
    with pytest.raises(ZeroDivisionError), written_anew(link) as file:
        file.write(bytes([1 // 0]))
    assert link.is_symlink()
    write_atomically(link, "new")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("kept", "new", False)
    (link.parent / f".file.0123{UNFINISHED}").write_text("left by a killed process")
    with written_anew(link, tidy=True) as file:
        file.write(b"newer")
    assert [item.name for item in link.parent.iterdir()] == ["file"]
    assert oct(link.stat().st_mode & 0o777) == oct(0o666 & ~_umask())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Harmful:
    """What a stranger might put into a journal."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch harmed",)


def test_the_state_of_cma_es_is_read_and_a_strangers_pickle_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def value(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1) ** 2 + trial.suggest_float("y", 0, 1)

    safe = optuna.create_study(sampler=SafeCmaEsSampler(seed=1))
    plain = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(seed=1))
    for study in (safe, plain):
        study.optimize(value, 20)
    assert [trial.params for trial in safe.trials] == [trial.params for trial in plain.trials]
    trials = [trial for trial in safe.trials if any("optimizer" in key for key in trial.system_attrs)]
    assert trials
    last = trials[-1]
    for key in [key for key in last.system_attrs if "optimizer" in key]:
        last.system_attrs[key] = ""
    last.system_attrs["cma:optimizer:0"] = pickle.dumps(Harmful()).hex()
    with pytest.raises(UserError, match="could run code; it is not read"):
        SafeCmaEsSampler(seed=1)._restore_optimizer([last])
    assert not (tmp_path / "harmed").exists()
    searched = {"optimizer.learning_rate": {"loguniform": [0.001, 0.1]}}
    space = load_space({"run": {}, "search": searched, "sampler": "cmaes"})
    assert isinstance(sampler_for(space, 0, 0), SafeCmaEsSampler)


def test_two_processes_do_not_train_in_one_folder_nor_write_one_report(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "work")
    (tmp_path / "work/sweep/report").mkdir()
    with exclusive(tmp_path / "work/sweep/report", "busy"):
        done = run(tmp_path / "work", "report", "sweep")
    assert (done.returncode, "another process writes this report" in done.stderr) == (2, True)


@pytest.mark.parametrize("flag", ["--name", "--resume"])
@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "a\x1b[31m", " ", "x" * 300])
def test_a_name_is_no_path(flag: str, name: str, tmp_path: Path) -> None:
    done = run(tmp_path, "tune", flag, name)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {flag} ")
    assert list(tmp_path.iterdir()) == []


def altered(folder: Path, made: Path, name: str, change: Callable[[list[str]], list[str]]) -> Sweep:
    shutil.copytree(made / "sweep", folder)
    file = folder / name
    file.write_text("".join(change(file.read_text().splitlines(keepends=True))))
    return Sweep.open(folder)


def test_what_a_finished_trial_reached_is_what_the_journal_says(made: Path, tmp_path: Path) -> None:
    whole = Sweep.open(made / "sweep").trials()
    sweep = Sweep.open(made / "sweep")
    assert not sweep.troubles(sweep.trials())
    changes: dict[str, Callable[[list[str]], list[str]]] = {
        "cut": lambda lines: lines[:2],
        "empty": lambda lines: [],
        "edited": lambda lines: [*lines[:2], json.dumps(json.loads(lines[2]) | {"val/fused/accuracy": 1.0}) + "\n"],
        "rewritten": lambda lines: [
            json.dumps({k: v for k, v in json.loads(line).items() if k != "crc32"} | {"val/fused/accuracy": 1.0}) + "\n"
            for line in lines
        ],
    }
    for how, change in changes.items():
        sweep = altered(tmp_path / how, made, "trials/0001/epochs.jsonl", change)
        assert [trial.score for trial in sweep.trials() if trial.state == "finished"] == [
            trial.score for trial in whole if trial.state == "finished"
        ]
        (said,) = sweep.troubles(sweep.trials())
        assert said.startswith("trial 1: "), how
        assert "its epochs.jsonl" in said
        assert said.endswith("the journal is believed")
    assert run(tmp_path, "report", "cut").returncode == 0
    assert "the journal is believed" in (tmp_path / "cut" / "report.html").read_text()


def test_a_damaged_journal_is_one_line_and_a_cut_one_is_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"study\.journal, line 4: is damaged"):
        altered(tmp_path / "a", made, "study.journal", lambda lines: [*lines[:3], "garbage\n", *lines[3:]]).trials()
    with pytest.raises(UserError, match=r"study\.journal, line 5: "):
        altered(tmp_path / "b", made, "study.journal", lambda lines: [*lines[:4], *lines[5:]]).trials()
    for command in ("report",):
        done = run(tmp_path, command, "a")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    sweep = altered(tmp_path / "c", made, "study.journal", lambda lines: lines[:12])
    assert any("study.journal does not know of trials/" in line for line in sweep.troubles(sweep.trials()))


def test_the_table_has_the_epochs_that_were_trained(made: Path) -> None:
    table = Sweep.open(made / "sweep").table().set_index("number")
    assert table.loc[2, "state"] == "pruned"
    assert (table.loc[2, "epochs"], table.loc[2, "T"]) == (1, 3)
    assert (table.loc[0, "epochs"], table.loc[0, "T"]) == (3, 3)


@pytest.mark.parametrize("name", ["fused", "values", "train", "a.b", "..", "label", "x" * 120])
def test_shards_whose_modality_has_a_name_of_ours_are_not_opened(made: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(made / "shards", tmp_path / "shards")
    card = json.loads((tmp_path / "shards" / CARD).read_text())
    card["modalities"][name] = card["modalities"].pop("image")
    (tmp_path / "shards" / CARD).write_text(json.dumps(card | {"checksum": None}))
    with pytest.raises(UserError, match="modalit"):
        Shards(tmp_path / "shards")
