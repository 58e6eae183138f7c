from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from made_sweep import make_sweep
from optuna.trial import FrozenTrial

from lfm_ray.search.selection import pools
from lfm_ray.search.sweep import Trial


def test_of_the_best_trials_and_of_each_baseline_the_best_by_more_seeds_are_taken(tmp_path: Path) -> None:
    trials = make_sweep(tmp_path / "one", 24).trials()
    finished = sorted((t for t in trials if t.state == "finished"), key=lambda t: t.score, reverse=True)
    best, *baselines = pools(trials, top=2, among=4)
    assert [trial.number for trial in best.trials] == [trial.number for trial in finished[:4]]
    assert {trial.strategy for pool in baselines for trial in pool.trials} == {"alpha = 0", "heuristic"}
    assert {pool.wanted for pool in baselines} == {1}

    def with_accuracy(trial: Trial, accuracy: float) -> Trial:
        return replace(trial, rows=[{**trial.rows[-1], "val/fused/accuracy": accuracy}])

    # means 0.5, 0.6, 0.7, 0.55: neither the order of the sweep, nor that of a single run
    runs = [(0.1, 0.9), (0.6, 0.6), (0.65, 0.75), (0.3, 0.8)]
    known = {
        trial.number: [with_accuracy(trial, accuracy) for accuracy in both]
        for trial, both in zip(best.trials, runs, strict=True)
    }
    assert best.best(known) == [best.trials[2], best.trials[1]]
    assert best.best({trial.number: [trial] for trial in best.trials}) == finished[:2]


def test_where_strategies_had_equal_shares_the_best_of_each_is_taken(tmp_path: Path) -> None:
    trials = make_sweep(tmp_path / "one", 24).trials()
    armed = [replace(trial, frozen=with_arm(trial)) for trial in trials]
    _, *rest = pools(armed, top=1, among=1)
    finished = {trial.strategy for trial in trials if trial.state == "finished"}
    assert {pool.trials[0].strategy for pool in rest} == finished
    assert len(finished) > 2 and len(rest) == len(finished)


def with_arm(trial: Trial) -> FrozenTrial:
    frozen = copy.deepcopy(trial.frozen)
    frozen.set_user_attr("arm", trial.strategy)
    return frozen
