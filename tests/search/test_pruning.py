from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from lfm_ray.search.study.pruning import PROTECTED, SuccessiveHalving, expected_epochs, goes_on


def test_rungs_are_powers_of_the_reduction_times_the_first() -> None:
    halving = SuccessiveHalving(first_rung=4, reduction=3)
    assert [epoch for epoch in range(1, 120) if halving.is_rung(epoch)] == [4, 12, 36, 108]
    assert [epoch for epoch in range(1, 9) if SuccessiveHalving(1, 2).is_rung(epoch)] == [1, 2, 4, 8]
    assert [epoch for epoch in range(1, 40) if SuccessiveHalving(4, 2).is_rung(epoch)] == [4, 8, 16, 32]


def run_to_rung(study: optuna.Study, value: float, protected: bool = False) -> bool:
    trial = study.ask()
    if protected:
        trial.set_user_attr(PROTECTED, True)
    trial.report(value, 4)
    stop = trial.should_prune()
    study.tell(trial, state=TrialState.PRUNED if stop else TrialState.COMPLETE, values=None if stop else [value])
    return stop


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(direction="maximize", pruner=SuccessiveHalving(4, 3))


def test_one_in_three_goes_on(study: optuna.Study) -> None:
    # among the best ceil(n / 3) of the n seen so far?
    assert [run_to_rung(study, value) for value in (0.1, 0.2)] == [False, False]  # each is the best so far
    assert run_to_rung(study, 0.15)  # 1 of 3 goes on, 0.2 is better
    assert not run_to_rung(study, 0.19)  # 2 of 4 go on: 0.2 and 0.19
    assert run_to_rung(study, 0.18)
    assert not run_to_rung(study, 0.3)


def test_where_the_study_minimises_the_lowest_go_on() -> None:
    study = optuna.create_study(direction="minimize", pruner=SuccessiveHalving(4, 3))
    assert [run_to_rung(study, value) for value in (0.9, 0.8, 0.85, 0.81, 0.7)] == [False, False, True, False, False]


def test_known_points_go_on_but_are_compared_with(study: optuna.Study) -> None:
    for value in (0.9, 0.8, 0.1):
        assert not run_to_rung(study, value, protected=True)
    assert run_to_rung(study, 0.7)  # 2 of 4 go on: 0.9 and 0.8


def test_nothing_is_stopped_between_rungs(study: optuna.Study) -> None:
    for value in (0.9, 0.8, 0.7):
        run_to_rung(study, value)
    trial = study.ask()
    trial.report(0.0, 3)
    assert not trial.should_prune()
    trial.report(0.0, 4)
    assert trial.should_prune()


@pytest.mark.parametrize(
    ("value", "others", "on"),
    [
        (0.1, [], True),  # the first
        (0.1, [0.9], False),  # the best one of two
        (0.9, [0.1], True),
        (0.1, [0.9, 0.8], False),  # the best one of three
        (0.9, [0.9, 0.9], True),  # equal to it
        (0.8, [0.9, 0.7, 0.6], True),  # the best two of four
        (0.7, [0.9, 0.8, 0.6], False),
        (0.8, [0.9, 0.7, 0.6, 0.5, 0.4], True),  # and of six
        (0.7, [0.9, 0.8, 0.6, 0.5, 0.4], False),
        (0.7, [0.9, 0.8, 0.6, 0.5, 0.4, 0.3], True),  # three of seven
    ],
)
def test_the_best_third_goes_on_rounded_up(value: float, others: list[float], on: bool) -> None:
    assert goes_on(value, others, 3) == on


def test_trials_are_compared_only_with_those_that_reached_the_rung(study: optuna.Study) -> None:
    assert not study.ask().should_prune()  # it has reported nothing
    for value in (0.9, 0.8):
        trial = study.ask()
        trial.report(value, 3)
        study.tell(trial, value)
    assert [run_to_rung(study, value) for value in (0.5, 0.6, 0.3)] == [False, False, True]


def test_the_expected_epochs_are_those_of_trials_in_random_order() -> None:
    random, counted = np.random.default_rng(0), []
    halving = SuccessiveHalving(1, 3)
    for _ in range(2000):
        there: dict[int, list[float]] = {}
        epochs = 0
        for value in random.permutation(12):
            for epoch in range(1, 10):
                epochs += 1
                if halving.is_rung(epoch) and epoch < 9:
                    others = there.setdefault(epoch, [])
                    if not goes_on(value, others, 3):
                        others.append(value)
                        break
                    others.append(value)
        counted.append(epochs)
    # who comes late to the second rung had more to beat at the first, so more of them go on than by chance
    assert 0.8 < expected_epochs(12, 9, 1, 3) / np.mean(counted) < 1
    assert expected_epochs(12, 3, 1, 3) == pytest.approx(12 + 2 * sum(math.ceil(i / 3) / i for i in range(1, 13)))
    assert expected_epochs(1, 20, 1, 3) == 20
