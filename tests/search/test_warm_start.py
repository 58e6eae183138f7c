"""Searches that start from what is known: a learned run, the trials of other sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import SMALL_FLAGS, run

from lfm_ray.datasets.shards import Shards
from lfm_ray.optimization.schedules import Polynomial
from lfm_ray.search.ray_tune.adapters import TimeBudget
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Sweep
from lfm_ray.search.warm_start import prior_trials_from
from lfm_ray.training.run_folder import read_epochs

SEARCH = {
    "alpha.strategy": {"choice": ["constant", "heuristic"]},
    "alpha.value": {"uniform": [0, 1], "when": {"alpha.strategy": "constant"}},
    "loss.tau": {"loguniform": [0.1, 1]},
}


class Killed(Exception):
    """What a test raises where a command is to be interrupted."""


@pytest.mark.slow
def test_the_loop_from_a_learned_run_to_polynomials_around_its_fit_survives_the_end_of_its_time_and_a_kill(
    ray_local: None, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> Space:
        raise Killed

    folder = tmp_path / "sweeps/loop"
    with monkeypatch.context() as patch:
        patch.setattr(TimeBudget, "stop_all", lambda self: bool(read_epochs(folder / "learned")))
        done = run(tmp_path, "tune", "search_spaces/cubic.yaml", "--from-learned", "--data", shards.path, "--name",
                   "loop", "--epochs", "3", "--epoch-budget", "16", "--time-budget", "1h", *SMALL_FLAGS)  # fmt: skip
    assert done.returncode == 1
    assert "of the 3 epochs of the learned run; go on with --resume loop" in done.stderr
    assert 0 < len(read_epochs(folder / "learned")) < 3
    with monkeypatch.context() as patch:
        patch.setattr(Sweep, "start_around", killed)
        with pytest.raises(Killed):
            run(tmp_path, "tune", "--resume", "loop")
    checkpoint = folder / "learned" / "checkpoint.pt"
    trained = checkpoint.stat().st_mtime_ns
    assert not (folder / "study.journal").exists()

    done = run(tmp_path, "tune", "--resume", "loop")
    assert done.returncode == 0, done.stderr
    assert checkpoint.stat().st_mtime_ns == trained
    trials = Sweep.open(folder).trials()
    labels = ["fit of learned", "near it, 1", "near it, 2", "near it, 3", "the paper's cubic"]
    assert [trial.label for trial in trials][:5] == labels  # 5 trials of 3 epochs; more fit if some are stopped early
    assert "the epoch budget of 16 is used: 1" in done.stdout  # 13 or more: not one more would fit
    rows = read_epochs(folder / "learned")
    assert len({row["alpha"] for row in rows}) == 3
    fit, _ = Polynomial.fit([row["alpha"] for row in rows], 3)
    assert trials[0].config.alpha.bernstein == pytest.approx(fit.coefficients)
    for near in trials[1:4]:
        distances = [abs(a - b) for a, b in zip(near.config.alpha.bernstein, fit.coefficients, strict=True)]
        assert 0 < max(distances) < 0.6
    assert trials[0].config.optimizer.learning_rate == trials[0].space.base.optimizer.learning_rate


def made_sweep(folder: Path, run: dict[str, object], fingerprint: str = "same", trials: int = 8) -> Sweep:
    """A sweep whose trials were never trained: the best have an alpha of 0.7."""
    space = Space.model_validate({"run": run, "search": SEARCH, "pruning": {"by": "none"}, "trials": trials})
    sweep = Sweep.create(folder, space, 0, fingerprint)
    for _ in range(trials):
        number, settings = sweep.study.ask()
        accuracy = 1 - abs(settings.get("alpha.value", 0.2) - 0.7)
        row = {"epoch": 20, "val/fused/accuracy": accuracy, "val/fused/loss": 1.0}
        trial = folder / "trials" / f"{number:04d}"
        trial.mkdir(parents=True)
        (trial / "epochs.jsonl").write_text(str(row).replace("'", '"') + "\n")
        sweep.study.finish(number, row)
    return sweep


def test_which_earlier_trials_become_prior_trials(tmp_path: Path) -> None:
    here = Space.model_validate({"search": SEARCH})
    same = prior_trials_from(made_sweep(tmp_path / "same", {}), here, "same")
    assert len(same) == 8
    assert {one.group for one in same} == {""}
    assert all(set(one.params) <= set(here.parameters) for one in same)
    # Other data, and another model, are ranked among themselves.
    assert {one.group for one in prior_trials_from(made_sweep(tmp_path / "data", {}), here, "other")} == {
        str(tmp_path / "data")
    }
    larger = made_sweep(tmp_path / "larger", {"model": {"width": 32}})
    assert {one.group for one in prior_trials_from(larger, here, "same")} == {str(tmp_path / "larger")}
    # The seed makes no difference; the matching loss, which this space holds fixed, makes another problem.
    assert {one.group for one in prior_trials_from(made_sweep(tmp_path / "seed", {"seed": 5}), here, "same")} == {""}
    assert prior_trials_from(made_sweep(tmp_path / "js", {"loss": {"matching": "js"}}), here, "same") == []
    # What is drawn from elsewhere does not fit: only the trials of the heuristic have no alpha.value.
    narrow = Space.model_validate({"search": {**SEARCH, "alpha.value": {"uniform": [2e-3, 3e-3]}}})
    strategies = {
        one.params["alpha.strategy"] for one in prior_trials_from(Sweep.open(tmp_path / "same"), narrow, "same")
    }
    assert strategies <= {"heuristic"}
    # Earlier trials that lack a metric of the objective are left out.
    other = Space.model_validate({"search": SEARCH, "objective": "val/fused/map"})
    assert prior_trials_from(Sweep.open(tmp_path / "same"), other, "same") == []
