from __future__ import annotations

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from lfm_ray.search.spaces.distributions import Distribution

ORDERS = ("decreasing", "increasing")
KINDS = {
    "choice": ({"choice": ["a", None, [1, 2]]}, [1, 2]),
    "uniform": ({"uniform": [0.1, 2]}, 0.7),
    "loguniform": ({"loguniform": [0.01, 1]}, 0.3),
    "integer": ({"integer": [2, 9]}, 5),
    "list": ({"uniform": [-1, 1], "length": 3}, [0.5, -1.0, 1.0]),
    "decreasing": ({"uniform": [-1, 1], "length": 4, "order": "decreasing"}, [1.0, 0.25, 0.25, -0.5]),
    "increasing": ({"uniform": [-1, 1], "length": 4, "order": "increasing"}, [-0.75, 0.25, 0.25, 1.0]),
}


@pytest.mark.parametrize("order", ORDERS)
def test_ordered_lists_are_uniform_over_all_ordered_lists(order: str) -> None:
    # The i-th largest of n uniform numbers has the distribution Beta(n - i + 1, i), with 1 the largest.
    distribution = Distribution.model_validate({"uniform": [2, 4], "length": 3, "order": order})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = np.array([distribution.suggest(study.ask(), "x") for _ in range(1500)])
    steps = np.diff(drawn, axis=1)
    assert (steps <= 0).all() if order == "decreasing" else (steps >= 0).all()
    assert drawn.min() >= 2 and drawn.max() <= 4
    largest_first = (drawn if order == "decreasing" else drawn[:, ::-1]) / 2 - 1
    for i in range(3):
        assert kstest(largest_first[:, i], "beta", args=(3 - i, i + 1)).pvalue > 0.01


@given(
    st.sampled_from(ORDERS),
    st.lists(st.floats(0, 1), min_size=1, max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_an_ordered_list_is_drawn_again_from_its_shares(order: str, values: list[float]) -> None:
    values = sorted(values, reverse=order == "decreasing")
    distribution = Distribution.model_validate({"uniform": [0, 1], "length": len(values), "order": order})
    shares = distribution.drawn("x", values)
    assert all(0 <= share <= 1 for share in shares.values())
    assert distribution.suggest(optuna.trial.FixedTrial(shares), "x") == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_survives_the_way_through_optunas_parameters(kind: str) -> None:
    given, value = KINDS[kind]
    distribution = Distribution.model_validate(given)
    study = optuna.create_study()
    study.enqueue_trial(distribution.drawn("x", value))
    again = distribution.suggest(study.ask(distribution.parameters("x")), "x")
    assert again == (pytest.approx(value) if kind != "choice" else value)
    assert distribution.allows(value)
    frozen = study.trials[0]
    assert frozen.distributions == distribution.parameters("x")


def test_what_a_distribution_allows() -> None:
    decreasing = Distribution.model_validate({"uniform": [0, 1], "length": 2, "order": "decreasing"})
    assert decreasing.allows([0.5, 0.5])
    assert not decreasing.allows([0.4, 0.5])
    assert not decreasing.allows([0.4, 0.3, 0.2])
    assert not decreasing.allows(0.4)
    assert not Distribution.model_validate({"integer": [1, 3]}).allows(4)
    assert not Distribution.model_validate({"choice": ["a"]}).allows("b")
