"""Folders that an earlier version wrote are read by this one.

`stored/9ab4c28.tar.xz` holds what commit 9ab4c28 wrote: the shards of `synthetic.py`, 24 rows to train on, a sweep of
them (`tune --trials 5 --epochs 3`) and a run of the sweep's best.yaml, without their TensorBoard files and reports.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import run
from stored_folders import unpack

import lfm_ray
from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.optimization.schedules import Learned
from lfm_ray.runtime import checkpoint
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.sweep import Sweep, SweepFile
from lfm_ray.settings import build, load, read_yaml
from lfm_ray.training.execution import Launch, Workers, execute
from lfm_ray.training.run_folder import CHECKPOINT
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    unpack(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_trials_are_those_that_were_written_and_the_report_shows_them(work: Path) -> None:
    trials = Sweep.open(work / "sweeps/old").trials()
    assert [trial.state for trial in trials] == ["finished"] * 4 + ["pruned"]
    assert [trial.strategy for trial in trials] == ["alpha = 0", "heuristic", "learned", "polynomial", "polynomial"]
    learned = trials[2].config.alpha
    assert (learned.update, learned.eta_alpha, learned.initial) == ("plain", 0.01, 0.95)  # that version knew no other
    loaded = lfm_ray.load_sweep("sweeps/old")
    assert loaded.best is not None and loaded.best.alpha.value == 0
    assert len(loaded.alpha_updates(2)) > 0
    assert run(work, "report", "sweeps/old").returncode == 0
    page = (work / "sweeps/old/report.html").read_text(encoding="utf-8")
    assert "heuristic" in page and "polynomial" in page


@pytest.mark.parametrize("folder", ["sweeps/old", "runs/run"])
def test_its_model_is_exported_and_predicts(work: Path, folder: str) -> None:
    done = run(work, "export", folder, "--out", "model")
    assert done.returncode == 0, done.stderr
    assert sorted(lfm_ray.load("model", device="cpu").modalities) == ["audio", "image"]


@pytest.mark.parametrize("folder", ["runs/run", "sweeps/old/trials/0001", "sweeps/old/trials/0002"])
def test_a_checkpoint_has_the_losses_that_were_measured_then(work: Path, folder: str) -> None:
    shards = Shards(work / "shards/tiny")
    state = checkpoint.load(work / folder / CHECKPOINT)
    config = build(RunConfig, state["config"])
    assert config.alpha.strategy != "learned" or config.alpha.update == "plain"
    model = Trainer(config, shards.card)
    model.load_state_dict(state)
    metrics = model.evaluate(DataSource(shards, {}).evaluation("val", model.config))
    written = json.loads((work / folder / "epochs.jsonl").read_text().splitlines()[-1])
    for name in ("fused", "audio", "image"):
        assert metrics[f"{name}/loss"] == pytest.approx(written[f"val/{name}/loss"], rel=1e-5)


def test_its_encoders_are_those_that_it_began_with(work: Path) -> None:
    """What `model.encoder` meant where it is open was another encoder for text then."""
    values = read_yaml(work / "sweeps/old/sweep.yaml")
    assert SweepFile.model_validate(values).space.base.model.encoder == "small"
    new = SweepFile.model_validate(values | {"open_encoder": "by kind"})
    assert new.space.base.model.encoder is None
    assert "open_encoder: by kind" in new.to_yaml()


def test_a_learned_alpha_starts_where_it_did_and_moves_as_it_did(work: Path) -> None:
    """First there was only the plain update, then the sign's from 0.95, then a balanced start, all on held-out rows."""
    values = read_yaml(work / "sweeps/old/sweep.yaml")

    def alpha(**space: object) -> tuple[object, ...]:
        drawn = SweepFile.model_validate(values | {"space": values["space"] | space}).space
        found = drawn.config({"alpha.strategy": "learned"}).alpha
        assert isinstance(found, Learned)
        return found.update, found.eta_alpha, found.initial, found.outer, found.inner_iters

    assert alpha() == ("plain", 0.01, 0.95, "held_out", 5)
    assert alpha(learned_update="sign") == ("sign", 0.03, 0.95, "held_out", 5)
    assert alpha(learned_as_before={}) == ("sign", 0.015, "balanced", "held_out", 5)
    again = {"update": "sign", "initial": 0.95, "eta_alpha": 0.03}
    assert alpha(learned_as_before=again) == ("sign", 0.03, 0.95, "held_out", 5)
    assert alpha(learned={"eta_alpha": 0.02}) == ("sign", 0.02, "balanced", "inner", None)


def test_a_sweep_writes_down_what_a_learned_alpha_is(work: Path) -> None:
    """So that other defaults, in a later version, change nothing of it."""
    space = load_space({"search": {"alpha.strategy": {"choice": ["learned"]}}})
    written = Space.model_validate(space.model_dump())
    assert written.learned == Learned(strategy="learned").model_dump(exclude={"strategy"})
    drawn = Space.model_validate(space.model_dump() | {"learned": {"eta_alpha": 0.5, "outer": "val"}})
    assert drawn.config({"alpha.strategy": "learned"}).alpha == Learned(strategy="learned", eta_alpha=0.5, outer="val")


def test_a_run_goes_on_with_the_encoders_that_it_began_with(work: Path) -> None:
    config = load(RunConfig, work / "runs/run/config.yaml", ["model.encoder=null"])
    launch = Launch(config, DataSource(Shards(work / "shards/tiny"), {}), work / "runs/run", Workers())
    assert len(execute(launch, lambda row: None)) == config.epochs


def test_a_sweep_goes_on(work: Path, without_workers: None) -> None:
    done = run(work, "tune", "--resume", "old", "--trials", "6")
    assert done.returncode == 0, done.stderr
    trials = Sweep.open(work / "sweeps/old").trials()
    assert len(trials) == 6 and trials[5].state in ("finished", "pruned")
