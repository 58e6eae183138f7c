"""Each command in a process of its own, as a user starts it; most other tests call them in the process of the tests.

`prepare` and `tune` are started by `.ci/wheel`, and where tests kill or interrupt them.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from commands import SMALL_FLAGS, completed, ended, run, start
from synthetic import write_dataset

import lfm_ray


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("confirm", ["absent", "--select", "1"], "--select 1: must be above 1, the number of trials that are taken"),
        ("export", ["absent", "--out", "x"], "absent: holds neither a run (checkpoint.pt) nor a sweep (sweep.yaml)"),
        (
            "prepare",
            [],
            "give a manifest, --folders ROOT or --dataset NAME, and --out FOLDER; or --inspect FOLDER; --help shows"
            " examples",
        ),
        ("report", [], "give the folders of sweeps, or --gradcam with runs, or --predictions with one"),
        ("train", ["absent.yaml"], "absent.yaml: there is no such file"),
    ],
)
def test_an_error_is_one_line_and_status_2(tmp_path: Path, name: str, arguments: list[str], said: str) -> None:
    done = completed(start(tmp_path, name, *arguments))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {said}\n")


@pytest.mark.slow
def test_from_a_sweep_to_an_exported_model(tmp_path: Path, without_workers: None) -> None:
    write_dataset(tmp_path / "shards")
    run(tmp_path, "tune", "--data", "shards", "--name", "one", "--trials", "2", "--epochs", "2", *SMALL_FLAGS)
    ended(start(tmp_path, "train", "sweeps/one/best.yaml", "--name", "best"))
    ended(start(tmp_path, "confirm", "sweeps/one", "--seeds", "2"))
    ended(start(tmp_path, "report", "sweeps/one"))
    ended(start(tmp_path, "export", "runs/best", "--out", "model"))
    assert set(pd.read_csv(tmp_path / "sweeps/one/confirm.csv")["seed"]) == {1, 2}
    assert lfm_ray.load(tmp_path / "model").classes == ["0", "1", "2"]
