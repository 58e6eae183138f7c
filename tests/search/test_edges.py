from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_sweep import make_sweep

from lfm_ray.search.edges import at_the_edge, widened
from lfm_ray.search.spaces.distributions import Distribution
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Trial


@pytest.fixture
def made(tmp_path: Path) -> tuple[Space, list[Trial]]:
    sweep = make_sweep(tmp_path / "one", 60, ends=("finished",))
    return sweep.space, sweep.trials()


def judged_by(trials: list[Trial], path: str, sign: int) -> list[Trial]:
    """The trials with an accuracy that rises (sign 1) or falls with one of their settings."""
    result = []
    for trial in trials:
        value: object = trial.config
        for part in path.split("."):
            value = getattr(value, part, None)
        accuracy = sign * value if isinstance(value, float) else -10.0
        result.append(replace(trial, rows=[{**trial.rows[-1], "val/fused/accuracy": accuracy}]))
    return result


@pytest.mark.parametrize(("sign", "side"), [(1, "upper"), (-1, "lower")])
def test_a_range_at_whose_end_the_best_trials_lie_is_named(
    made: tuple[Space, list[Trial]], sign: int, side: str
) -> None:
    space, trials = made
    (line,) = at_the_edge(space, judged_by(trials, "optimizer.learning_rate", sign))
    assert f"optimizer.learning_rate: 5 of the 5 best trials lie at the {side} end of loguniform 0.001 ... 0.03" in line


@pytest.mark.parametrize(("value", "narrow"), [(0.05, [0.04, 0.3]), (0.95, [0.7, 0.96])])
def test_a_setting_that_could_not_be_wider_is_not_named(
    made: tuple[Space, list[Trial]], value: float, narrow: list[float]
) -> None:
    space, trials = made
    rates = (0.002, 0.004, 0.006, 0.008, 0.01)
    constant = {"alpha.strategy": "constant", "alpha.value": value}
    configs = [space.config({**constant, "optimizer.learning_rate": rate}) for rate in rates]
    crowd = [replace(trial, config=config) for trial, config in zip(trials, configs, strict=False)]
    assert not at_the_edge(space, crowd)
    narrower = space.model_copy(update={"search": {"alpha.value": Distribution(uniform=narrow)}})
    assert len(at_the_edge(narrower, crowd)) == 1  # there it could


def test_the_limit_of_a_setting_on_a_logarithmic_scale(made: tuple[Space, list[Trial]]) -> None:
    space, trials = made
    crowd = [replace(trial, config=space.config({"loss.tau": 8.0})) for trial in trials[:5]]
    for bounds, lines in (([0.1, 10], 0), ([2, 8.1], 1)):  # a run takes 10 at most; 8.1 (8.1 / 2) ** 0.15 is just below
        searched = {"loss.tau": Distribution(loguniform=bounds)}
        assert len(at_the_edge(space.model_copy(update={"search": searched}), crowd)) == lines


def test_neither_stopped_trials_nor_three_of_five_nor_the_middle_say_anything(made: tuple[Space, list[Trial]]) -> None:
    space, trials = made
    judged = sorted(judged_by(trials, "optimizer.learning_rate", 1), key=lambda trial: trial.score)
    assert not at_the_edge(space, [replace(trial, state="pruned") for trial in judged])
    middle = [trial for trial in judged if 0.004 < trial.config.optimizer.learning_rate < 0.01]
    assert not [line for line in at_the_edge(space, middle) if "learning_rate" in line]
    above = max(trial.rows[-1]["val/fused/accuracy"] for trial in judged)
    better = [replace(trial, rows=[{**trial.rows[-1], "val/fused/accuracy": above + 1}]) for trial in middle[:2]]
    assert not [line for line in at_the_edge(space, [*judged, *better]) if "learning_rate" in line]
    assert [line for line in at_the_edge(space, [*judged, better[0]]) if "4 of the 5" in line]


def crowded(**values: object) -> list[dict[str, object]]:
    return [dict(values) for _ in range(5)]


def test_a_crowded_range_is_widened_by_a_quarter_and_says_what_it_was(made: tuple[Space, list[Trial]]) -> None:
    space, _ = made
    wider = widened(space, crowded(**{"optimizer.learning_rate": 0.03}))
    # 0.03 (0.03 / 0.001) ** 0.25 = 0.0702
    assert wider.search["optimizer.learning_rate"].loguniform == [0.001, 0.07]
    assert wider.widened == {"optimizer.learning_rate": "loguniform 0.001 ... 0.03"}
    assert wider.parameters["optimizer.learning_rate"].high == 0.07  # type: ignore[attr-defined]
    again = widened(wider, crowded(**{"optimizer.learning_rate": 0.07}))
    assert again.search["optimizer.learning_rate"].bounds[1] == pytest.approx(0.2, rel=0.02)
    assert again.widened == wider.widened  # the first one
    assert widened(space, crowded(**{"optimizer.learning_rate": 0.01})) is space


def test_no_range_is_widened_beyond_what_a_run_takes(made: tuple[Space, list[Trial]]) -> None:
    space, _ = made
    assert widened(space, crowded(**{"alpha.value": 1.0})) is space
    whole = Space.model_validate({"search": {"alpha.inner_iters": {"integer": [1, 4]}}, "run": {"alpha": "learned"}})
    assert widened(whole, crowded(**{"alpha.inner_iters": 1})) is whole
    assert widened(whole, crowded(**{"alpha.inner_iters": 4})).search["alpha.inner_iters"].integer == [1, 5]
