from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from lfm_ray.errors import UserError
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.study.arms import Standing, arm_of, arms_of, first_share, left, next_arm, phases
from lfm_ray.search.study.pruning import ARM, FIRST_SHARE, SuccessiveHalving
from lfm_ray.search.study.study import SETTINGS, Study
from lfm_ray.settings import build

SPACE = {
    "run": {"epochs": 4},
    "search": {
        "alpha.strategy": {"choice": ["constant", "heuristic", "stepwise"]},
        "alpha.value": {"uniform": [0, 1], "when": {"alpha.strategy": "constant"}},
        "alpha.p": {"uniform": [0, 1], "when": {"alpha.strategy": "stepwise"}},
        "optimizer.learning_rate": {"loguniform": [0.001, 0.1]},
    },
    "fair": "alpha.strategy",
    "points": {"alpha = 0": {"alpha.strategy": "constant", "alpha.value": 0}},
    "trials": 24,
    "pruning": {"by": "none"},
}
WORTH = {"alpha = 0": 0.6, "constant": 0.9, "heuristic": 0.7, "stepwise": 0.8}


def space_with(**changes: Any) -> Space:
    return Space.model_validate({**SPACE, **changes})


def run_trials(study: Study, count: int) -> list[str]:
    """Runs trials whose value is that of their arm, plus what a learning rate near 0.01 adds; returns the arms."""
    arms = []
    for _ in range(count):
        number, settings = study.ask()
        arm = study.trials()[number].user_attrs[ARM]
        value = WORTH[arm] + 0.01 * (1 - abs(settings["optimizer.learning_rate"] - 0.01))
        study.finish(number, {"val/fused/accuracy": value})
        arms.append(arm)
    return arms


def test_the_phases_are_those_of_successive_rejects() -> None:
    """K = 4, n = 24: log(4) = 1/2 + 1/2 + 1/3 + 1/4 = 19/12, so n_k = ceil(20 / (19/12 (5 - k)))."""
    assert phases(4, 24) == [4, 5, 7]
    assert sum(phases(4, 24)) + phases(4, 24)[-1] <= 24  # the last one is left twice: K - 1 phases, K arms
    assert first_share(4, 24) == 4
    assert phases(6, 3) == [1] * 5  # fewer trials than arms: each has one, in its order


def test_joint_training_is_an_arm_of_its_own_and_a_trial_belongs_to_the_arm_with_the_most_in_common() -> None:
    space = space_with()
    arms = arms_of(space)
    assert list(arms) == ["alpha = 0", "constant", "heuristic", "stepwise"]
    assert arm_of(arms, {"alpha.strategy": "constant", "alpha.value": 0.0}, space) == "alpha = 0"
    assert arm_of(arms, {"alpha.strategy": "constant", "alpha.value": 0.1}, space) == "constant"
    narrow = {**SPACE["search"], "alpha.value": {**SPACE["search"]["alpha.value"], "uniform": [0.1, 1]}}  # type: ignore[dict-item]
    assert "alpha = 0" not in arms_of(space_with(search=narrow, points={}))
    assert arms_of(space_with(fair=None)) == {}


def test_trials_of_an_arm_are_stopped_early_against_all_and_the_first_of_joint_training_against_its_own(
    tmp_path: Path,
) -> None:
    study = Study(tmp_path / "study.journal", space_with(points={}, pruning={"by": "probe_map"}), seed=0)

    def stopped(value: float) -> tuple[str, bool]:
        number, _ = study.ask()
        arm = study.trials()[number].user_attrs[ARM]
        stop = study.report(number, 1, {"val/probe_map": value})
        (study.prune if stop else lambda n: study.finish(n, {"val/fused/accuracy": value}))(number)
        return arm, stop

    assert [stopped(value) for value in (0.5, 0.9, 0.6, 0.55)] == [
        ("alpha = 0", False), ("constant", False), ("heuristic", True), ("stepwise", True),
    ]  # fmt: skip
    assert stopped(0.52) == ("alpha = 0", False)  # better than its first
    assert stopped(0.4)[1]


def test_every_arm_has_its_share_and_the_worst_is_dropped_at_the_end_of_each_phase(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", space_with(), seed=0)
    arms = run_trials(study, 24)
    assert Counter(arms[:16]) == dict.fromkeys(WORTH, 4)
    assert arms[0] == "alpha = 0"  # a known point, which counts
    assert Counter(arms) == {"alpha = 0": 4, "heuristic": 5, "stepwise": 7, "constant": 8}
    shares = [trial.user_attrs[FIRST_SHARE] for trial in study.trials()]
    assert shares == [arm == "alpha = 0" for arm in arms[:16]] + [False] * 8


def test_arms_that_are_dropped_come_back_when_a_late_trial_of_theirs_is_better() -> None:
    standings = {"a": Standing(4, 0.5), "b": Standing(4, 0.6), "c": Standing(4, 0.7)}
    assert left(standings, 14) == ["b", "c"]
    assert left(standings | {"a": Standing(4, 0.9)}, 14) == ["a", "c"]
    running = Standing(4, float("inf"))  # of which nothing is known yet
    assert left(standings | {"a": running}, 14) == ["a", "c"]
    assert next_arm({"a": Standing(1, 0.5), "b": Standing(0, float("inf")), "c": Standing(0, float("inf"))}, 14) == "b"


def test_a_sweep_that_time_will_end_has_smaller_shares(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", space_with(trials=1000), seed=0)
    run_trials(study, 12)
    study.expect(0.05)
    assert study.expected == 1000  # too early to tell
    study.expect(0.5)
    assert study.expected == 24
    assert Counter(run_trials(study, 12)) == {"alpha = 0": 1, "heuristic": 2, "stepwise": 4, "constant": 5}


def test_an_interrupted_sweep_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    def drawn(study: Study, count: int) -> list[Any]:
        run_trials(study, count)
        return [trial.user_attrs[SETTINGS] for trial in study.trials()]

    whole = drawn(Study(tmp_path / "a" / "study.journal", space_with(), seed=3), 20)
    drawn(Study(tmp_path / "b" / "study.journal", space_with(), seed=3), 13)
    assert drawn(Study(tmp_path / "b" / "study.journal", space_with(), seed=3), 7) == whole


@pytest.mark.parametrize("sampler", ["random", "gp", "cmaes"])
def test_other_samplers_have_arms_too(tmp_path: Path, sampler: str) -> None:
    study = Study(tmp_path / "study.journal", space_with(sampler=sampler), seed=0)
    assert Counter(run_trials(study, 16)) == dict.fromkeys(WORTH, 4)


def test_the_first_share_of_joint_training_is_compared_within_itself_and_other_trials_with_all() -> None:
    study = optuna.create_study(direction="maximize", pruner=SuccessiveHalving(1, 2))

    def goes_on(arm: str, value: float, first: bool) -> bool:
        trial = study.ask()
        trial.set_user_attr(ARM, arm)
        trial.set_user_attr(FIRST_SHARE, first)
        trial.report(value, 1)
        return not trial.should_prune()

    assert [goes_on("a", value, True) for value in (0.9, 0.8, 0.95)] == [True, False, True]
    assert goes_on("b", 0.5, True)  # the first of its arm, worse than all of the other
    assert not goes_on("b", 0.4, True)
    assert not goes_on("b", 0.6, False)


def test_a_setting_without_choices_or_with_a_condition_cannot_be_fair() -> None:
    for fair, why in (("optimizer.learning_rate", "no choice that is searched"), ("loss.tau", "no choice")):
        with pytest.raises(UserError, match=why):
            build(Space, {**SPACE, "fair": fair})
    search = {**SPACE["search"], "loss.matching": {"choice": ["js", "infonce"], "when": {"alpha.strategy": "stepwise"}}}  # type: ignore[dict-item]
    with pytest.raises(UserError, match=r"exists only with alpha\.strategy"):
        build(Space, {**SPACE, "search": search, "fair": "loss.matching"})


def test_what_is_fixed_or_has_several_objectives_has_no_arms() -> None:
    assert load_space(SPACE).fair == "alpha.strategy"
    assert load_space(SPACE, ["alpha.strategy=heuristic"]).fair is None
    assert load_space(SPACE, objective=["val/fused/accuracy", "val/accuracy_gap"]).fair is None


def test_methods_have_joint_training_as_an_arm_of_its_own() -> None:
    methods = {
        "run": {"alpha": {"strategy": "constant", "value": 0}},
        "search": {
            "method": {"choice": ["lfm", "ogm_ge"]},
            "alpha.strategy": {"choice": ["constant", "heuristic"], "when": {"method": ["lfm", "ogm_ge"]}},
        },
        "fair": "method",
    }
    space = Space.model_validate(methods)
    arms = arms_of(space)
    assert list(arms) == ["alpha = 0", "lfm", "ogm_ge"]
    assert arm_of(arms, {"method.name": "lfm", "alpha.strategy": "constant"}, space) == "alpha = 0"
    assert arm_of(arms, {"method.name": "lfm", "alpha.strategy": "heuristic"}, space) == "lfm"
    assert arm_of(arms, {"method.name": "ogm_ge", "alpha.strategy": "constant"}, space) == "ogm_ge"


def test_an_arm_whose_trials_all_fail_is_the_worst(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", space_with(), seed=0)
    for _ in range(17):
        number, _ = study.ask()
        if (arm := study.trials()[number].user_attrs[ARM]) == "constant":
            study.fail(number, "the loss became NaN")
        else:
            study.finish(number, {"val/fused/accuracy": WORTH[arm]})
    standings = study.standings()
    assert standings["constant"] == Standing(4, float("-inf"))
    assert "constant" not in left(standings, 24)
    assert [trial.state for trial in study.trials()].count(TrialState.FAIL) == 4
