from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_ray.schedules import Constant, Heuristic, Polynomial, Stepwise, formula

COEFFICIENTS = st.lists(st.floats(0, 1), min_size=2, max_size=6)


def paper_cubic(t: float) -> float:
    return 1.5e-4 * t**3 - 6.5e-3 * t**2 + 3.2e-2 * t + 1


def test_constant_is_the_same_at_every_epoch() -> None:
    assert [Constant(value=0.3).alpha(t, 10) for t in (1, 5, 10)] == [0.3, 0.3, 0.3]


@pytest.mark.parametrize(("T", "first_half"), [(10, 5), (11, 5), (2, 1)])
def test_stepwise_changes_after_half_of_the_epochs(T: int, first_half: int) -> None:
    values = [Stepwise(strategy="stepwise", p=0.95).alpha(t, T) for t in range(1, T + 1)]
    assert values == [0.95] * first_half + [pytest.approx(0.05)] * (T - first_half)


def test_heuristic_against_numbers_worked_out_by_hand() -> None:
    omega = Heuristic(strategy="heuristic")
    # 1 - e^-1, 1 - e^-1/2, 1 - e^-1/10
    assert omega.alpha(1, 100) == pytest.approx(0.6321205588, abs=1e-9)
    assert omega.alpha(2, 100) == pytest.approx(0.3934693403, abs=1e-9)
    assert omega.alpha(10, 100) == pytest.approx(0.0951625820, abs=1e-9)


def test_linear_bernstein_polynomial_is_a_straight_line() -> None:
    line = Polynomial(strategy="polynomial", coefficients=[1, 0])
    assert [line.alpha(t, 5) for t in range(1, 6)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_cubic_bernstein_polynomial_at_its_middle() -> None:
    # B_{i,3}(1/2) = 1/8, 3/8, 3/8, 1/8
    cubic = Polynomial(strategy="polynomial", coefficients=[1, 0.8, 0.4, 0.2])
    assert cubic.alpha(6, 11) == pytest.approx(1 / 8 + 0.8 * 3 / 8 + 0.4 * 3 / 8 + 0.2 / 8)


@given(COEFFICIENTS, st.integers(2, 60))
def test_alpha_stays_between_its_smallest_and_largest_coefficient(coefficients: list[float], T: int) -> None:
    schedule = Polynomial(strategy="polynomial", coefficients=coefficients)
    values = [schedule.alpha(t, T) for t in range(1, T + 1)]
    assert min(coefficients) - 1e-12 <= min(values)
    assert max(values) <= max(coefficients) + 1e-12


@given(COEFFICIENTS, st.integers(2, 60))
def test_decreasing_coefficients_give_a_decreasing_schedule(coefficients: list[float], T: int) -> None:
    schedule = Polynomial(strategy="polynomial", coefficients=sorted(coefficients, reverse=True))
    values = [schedule.alpha(t, T) for t in range(1, T + 1)]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(values))


@given(COEFFICIENTS, st.integers(2, 60))
def test_power_basis_is_the_same_function_of_t(coefficients: list[float], T: int) -> None:
    schedule = Polynomial(strategy="polynomial", coefficients=coefficients)
    powers = schedule.power_basis(T)
    for t in (1, (1 + T) // 2, T):
        assert sum(a * t**i for i, a in enumerate(powers)) == pytest.approx(schedule.alpha(t, T), abs=1e-7)


def test_fit_recovers_a_polynomial_exactly() -> None:
    truth = Polynomial(strategy="polynomial", coefficients=[0.9, 0.7, 0.2, 0.1])
    fitted, residual = Polynomial.fit([truth.alpha(t, 15) for t in range(1, 16)], degree=3)
    assert fitted.coefficients == pytest.approx(truth.coefficients, abs=1e-6)
    assert residual < 1e-6


def test_fit_of_a_curve_that_no_cubic_follows_says_how_far_off_it_is() -> None:
    curve = [1.0] * 10 + [0.0] * 10
    fitted, residual = Polynomial.fit(curve, degree=3)
    errors = [fitted.alpha(t, 20) - value for t, value in enumerate(curve, start=1)]
    assert residual == pytest.approx(math.sqrt(np.mean(np.square(errors))))
    assert residual > 0.1
    assert all(0 <= c <= 1 for c in fitted.coefficients)


def test_the_default_polynomial_is_the_papers_cubic_up_to_its_minimum() -> None:
    schedule = Polynomial(strategy="polynomial")
    for t in (1, 10, 20, 26):
        assert schedule.alpha(t, 26) == pytest.approx(min(1.0, paper_cubic(t)), abs=0.06)


def test_formula_is_written_as_the_paper_writes_it() -> None:
    assert formula([1, 3.2e-2, -6.5e-3, 1.5e-4]) == "omega_hat(t) = 0.00015 t^3 - 0.0065 t^2 + 0.032 t + 1"
    assert formula([0.5, -0.25]) == "omega_hat(t) = -0.25 t + 0.5"
