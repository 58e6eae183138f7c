"""A sweep with parts that are missing, foreign or cut opens, says so, and goes on: the journal is the record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import run
from stored_folders import unpack

import lfm_ray
from lfm_ray.search.selection import best_of
from lfm_ray.search.sweep import Sweep


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def cut(trial: Path) -> None:
    file = trial / "epochs.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))


def edited(trial: Path) -> None:
    rows = [json.loads(line) for line in (trial / "epochs.jsonl").read_text().splitlines()]
    rows[-1]["val/fused/accuracy"] = 0.999
    (trial / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "deleted": (shutil.rmtree, "is missing or empty, and study.journal says that the trial finished"),
    "emptied": (lambda trial: (trial / "epochs.jsonl").write_text("") and None, "is missing or empty"),
    "cut": (cut, "ends with epoch 2, and study.journal says 3"),
    "edited": (edited, "has val/fused/accuracy = 0.999, and study.journal says 0.333"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_finished_trial_whose_files_say_otherwise_counts_as_failed_and_is_named(work: Path, how: str) -> None:
    spoil, said = SPOILT[how]
    best = best_of(Sweep.open(work / "sweeps/old").trials())
    assert best is not None and best.number == 0
    spoil(work / "sweeps/old/trials/0000")
    trials = Sweep.open(work / "sweeps/old").trials()
    assert trials[0].state == "failed" and f"its epochs.jsonl {said}" in trials[0].reason
    other = best_of(trials)
    assert other is not None and other.number != 0
    found = lfm_ray.load_sweep(work / "sweeps/old").best
    assert found is not None and found == other.config


def test_commands_go_on_without_the_folder_of_the_best_trial_and_say_so(work: Path, without_workers: None) -> None:
    shutil.rmtree(work / "sweeps/old/trials/0000")
    commands = (("export", "sweeps/old", "--out", "model"), ("tune", "--resume", "old", "--trials", "6"))
    for command in commands:
        done = run(work, *command)
        assert done.returncode == 0, done.stderr
    assert "trial 0 failed: its epochs.jsonl is missing or empty" in " ".join(done.stdout.split())
