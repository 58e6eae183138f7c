"""The models of benchmarks/learning_curves.py, whose figures docs/spaces.md quotes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def curves() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks/learning_curves.py"
    spec = importlib.util.spec_from_file_location("learning_curves", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_power_law_is_found_again_and_a_falling_curve_is_taken_as_level(curves: ModuleType) -> None:
    t = np.arange(1, 7.0)
    c = curves.EXPONENTS[12]
    rising = 0.9 - 0.6 * t**-c
    falling = np.linspace(0.6, 0.4, 6)
    found = curves.power_law(np.array([rising, falling]), 24)
    assert found == pytest.approx([0.9 - 0.6 * 24**-c, 0.5])


def test_features_know_of_a_learned_alpha_only_what_has_been(curves: ModuleType) -> None:
    curve = np.array([[0.1, 0.2, 0.4, 0.8], [0.5, 0.5, 0.5, 0.5]])
    alphas = np.array([[1.0, 0.8, 0.4, 0.0], [1.0, 0.8, 0.4, 0.0]])
    found = curves.features([curve], alphas, np.array([False, True]), np.array([1.0, np.e]), 2)
    assert found == pytest.approx(np.array([[0.2, 0.1, 0.2, 0.8, 0.0], [0.5, 0.0, 0.8, 0.8, 1.0]]))


def test_a_regression_ranks_by_the_measure_until_enough_trials_tell_otherwise(curves: ModuleType) -> None:
    random = np.random.default_rng(0)
    measure, setting = random.normal(size=(2, 80))
    final = 0.7 + 0.03 * measure - 0.06 * setting  # the measure tells little of it
    known = np.column_stack([measure, setting])

    def correlation(ended: int) -> float:
        predicted = curves.regression(known, measure, range(ended), final[:ended])
        return float(np.corrcoef(predicted[60:], final[60:])[0, 1])

    plain = np.corrcoef(measure[60:], final[60:])[0, 1]
    assert np.argmax(curves.regression(known, measure, [0], final[:1])) == np.argmax(measure)
    assert correlation(60) > 0.9 > plain + 0.1
