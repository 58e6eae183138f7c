from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from lfm_ray.search.space import Space
from lfm_ray.search.study import LABEL, REASON, Study

SPACE = Space.model_validate(
    {
        "run": {"epochs": 4},
        "search": {
            "alpha.value": {"uniform": [0, 1]},
            "loss.tau": {"loguniform": [0.1, 1]},
        },
        "points": {"joint": {"alpha.value": 0}, "all": {"alpha.value": 1}},
        "trials": 14,
        "pruning": {"first_rung": 2, "reduction": 2},
    }
)


def value_of(settings: dict[str, Any]) -> float:
    return 1 - (settings["alpha.value"] - 0.4) ** 2


def run_trials(study: Study, count: int) -> list[dict[str, Any]]:
    drawn = []
    for _ in range(count):
        number, settings = study.ask()
        drawn.append(settings)
        for epoch in range(1, 5):
            row = {"val/unimodal_accuracy": value_of(settings) * epoch}
            if study.report(number, epoch, row):
                study.prune(number)
                break
        else:
            study.finish(number, value_of(settings))
    return drawn


def test_known_points_come_first_and_are_never_pruned(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    drawn = run_trials(study, 4)
    assert [settings["alpha.value"] for settings in drawn[:2]] == [0.0, 1.0]
    assert [trial.user_attrs.get(LABEL) for trial in study.trials()[:2]] == ["joint", "all"]
    assert [trial.state for trial in study.trials()[:2]] == [TrialState.COMPLETE] * 2


def test_an_interrupted_study_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    whole = run_trials(Study(tmp_path / "a" / "study.journal", SPACE, seed=3), 14)
    first = run_trials(Study(tmp_path / "b" / "study.journal", SPACE, seed=3), 12)
    again = Study(tmp_path / "b" / "study.journal", SPACE, seed=3)
    assert again.remaining() == 2
    assert first + run_trials(again, 2) == whole
    assert Study(tmp_path / "b" / "study.journal", SPACE, seed=3).remaining() == 0


def test_a_trial_that_was_running_is_handed_out_again_under_its_number(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    run_trials(study, 2)
    number, settings = study.ask()
    study.report(number, 1, {"val/unimodal_accuracy": 0.5})
    again = Study(tmp_path / "study.journal", SPACE, seed=0)
    assert again.remaining() == 12
    assert again.ask() == (number, settings)
    assert not again.report(number, 1, {"val/unimodal_accuracy": 0.0})  # told before: not counted twice
    assert again.trials()[number].intermediate_values == {1: 0.5}


def test_a_decision_that_a_kill_prevented_is_made_on_resume(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    run_trials(study, 6)
    number, _ = study.ask()
    study.report(number, 1, {"val/unimodal_accuracy": -1})
    assert study.report(number, 2, {"val/unimodal_accuracy": -1})  # and here the driver is killed
    again = Study(tmp_path / "study.journal", SPACE, seed=0)
    assert again.ask()[0] == number
    assert not again.report(number, 1, {"val/unimodal_accuracy": -1})
    assert again.report(number, 2, {"val/unimodal_accuracy": -1})


def test_other_seeds_draw_other_settings(tmp_path: Path) -> None:
    one = run_trials(Study(tmp_path / "a" / "study.journal", SPACE, seed=1), 3)[2]
    two = run_trials(Study(tmp_path / "b" / "study.journal", SPACE, seed=2), 3)[2]
    assert one != two


def test_optuna_is_told_what_became_of_a_trial(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.journal", SPACE, seed=0)
    run_trials(study, 10)
    study.fail(study.ask()[0], "the loss became NaN")
    states = [trial.state for trial in study.trials()[:11]]
    assert TrialState.PRUNED in states
    assert states[-1] == TrialState.FAIL
    assert study.trials()[10].user_attrs[REASON] == "the loss became NaN"
    pruned = next(trial for trial in study.trials() if trial.state == TrialState.PRUNED)
    assert max(pruned.intermediate_values) == 2  # stopped at the first rung, and no final value was made up


@pytest.mark.parametrize("by", ["none"])
def test_without_pruning_every_trial_goes_to_its_end(tmp_path: Path, by: str) -> None:
    space = Space.model_validate({**SPACE.model_dump(), "pruning": {"by": by}})
    study = Study(tmp_path / "study.journal", space, seed=0)
    run_trials(study, 14)
    assert {trial.state for trial in study.trials()} == {TrialState.COMPLETE}
