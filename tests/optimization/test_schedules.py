from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.optimization.schedules import (
    AlphaGradient,
    Constant,
    Heuristic,
    Learned,
    Official,
    OfficialQuintic,
    PaperCubic,
    Polynomial,
    Power,
    Stepwise,
    Table,
    _information,
    formula,
    to_bernstein,
    to_power,
)
from lfm_ray.settings import load

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


def test_the_papers_cubic_against_numbers_worked_out_by_hand() -> None:
    cubic = PaperCubic(strategy="paper_cubic")
    # t = 10: 1 + 0.32 - 0.65 + 0.15; t = 20: 1 + 0.64 - 2.6 + 1.2; t = 26: 1 + 0.832 - 4.394 + 2.6364; ...
    by_hand = {0: 1.0, 10: 0.82, 20: 0.24, 26: 0.0744, 30: 0.16}
    assert {t: cubic.alpha(t, 30) for t in by_hand} == pytest.approx(by_hand, abs=1e-12)
    assert cubic.alpha(1, 60) == 1.0  # 1.02565, clipped
    assert cubic.alpha(60, 60) == 1.0


def test_a_rescaled_cubic_passes_through_the_same_values() -> None:
    cubic = PaperCubic(strategy="paper_cubic", of_epochs=26)
    assert cubic.alpha(51, 51) == pytest.approx(0.0744)
    assert cubic.alpha(19, 51) == pytest.approx(0.82)  # 1 + 18 * 25 / 50 = 10
    assert cubic.alpha(1, 51) == 1.0


def test_the_official_quintic_against_numbers_worked_out_by_hand() -> None:
    quintic = OfficialQuintic(strategy="official_quintic")
    # Its t is from 0. The weight of L_CLS at t = 100:
    # 0.204623704 + 0.335472727 + 1.22989557 - 2.92947416 + 2.23835486 - 0.539717505
    assert quintic.alpha(101, 200) == pytest.approx(1 - 0.539155196, abs=1e-9)
    assert quintic.alpha(1, 200) == pytest.approx(1 - 0.204623704, abs=1e-12)
    assert quintic.alpha(20, 20) == quintic.alpha(200, 200)  # rescaled
    assert quintic.alpha(1, 1) == quintic.alpha(1, 200)  # of a run of one epoch
    as_it_is = OfficialQuintic(strategy="official_quintic", of_epochs=None)
    assert as_it_is.alpha(101, 300) == quintic.alpha(101, 200)  # the same epoch, however long the run is
    assert as_it_is.alpha(2, 2) == quintic.alpha(2, 200)
    free = OfficialQuintic(strategy="official_quintic", clip=False)
    outside = [t for t in range(1, 201) if not 0 <= free.alpha(t, 200) <= 1]
    assert outside == list(range(178, 190))
    assert {quintic.alpha(t, 200) for t in outside} == {0.0}


def test_power_basis_is_clipped() -> None:
    line = Power(strategy="power", coefficients=[-0.5, 0.5])
    assert [line.alpha(t, 5) for t in range(1, 6)] == [0, 0.5, 1, 1, 1]


@given(COEFFICIENTS, st.integers(2, 300))
def test_conversion_to_power_basis_and_back_is_the_identity(coefficients: list[float], T: int) -> None:
    assert to_bernstein(to_power(coefficients, T), T) == pytest.approx(coefficients, abs=1e-7)


def test_conversion_of_a_quadratic_worked_out_by_hand() -> None:
    # T = 3: t = 1 + 2s; t^2 = 1 + 4s + 4s^2, whose Bernstein coefficients are 1, 1 + 4/2, 1 + 4 + 4
    assert to_bernstein([0, 0, 1], 3) == [1, 3, 9]
    assert to_power([1, 3, 9], 3) == [0, 0, 1]


@given(COEFFICIENTS, st.integers(2, 60), st.sampled_from(["decreasing", "increasing"]))
def test_monotone_polynomials_are_monotone_whatever_the_coefficients(values: list[float], T: int, way: str) -> None:
    schedule = Polynomial(strategy="polynomial", coefficients=values, monotone=way)
    alphas = [schedule.alpha(t, T) for t in range(1, T + 1)]
    sign = 1 if way == "increasing" else -1
    assert all(sign * (later - earlier) >= -1e-12 for earlier, later in pairwise(alphas))
    assert all(-1e-12 <= alpha <= 1 + 1e-12 for alpha in alphas)


def test_monotone_coefficients_by_hand() -> None:
    falling = Polynomial(strategy="polynomial", coefficients=[0.8, 0.5, 0.5], monotone="decreasing")
    assert falling.bernstein == pytest.approx([0.8, 0.4, 0.2])
    rising = Polynomial(strategy="polynomial", coefficients=[0.2, 0.5, 0.5], monotone="increasing")
    assert rising.bernstein == pytest.approx([0.2, 0.6, 0.8])


def test_the_degree_of_a_fit_is_chosen_by_what_the_curve_needs() -> None:
    noise = np.random.default_rng(0).normal(scale=0.002, size=30)
    parabola = Polynomial(strategy="polynomial", coefficients=[0.9, 0.1, 0.6])
    curve = [parabola.alpha(t, 30) + noise[t - 1] for t in range(1, 31)]
    fitted, residual = Polynomial.fit(curve, degree=None)
    assert fitted.degree == 2
    assert residual < 0.003


def test_an_update_of_alpha_descends_with_a_rate_that_halves_and_is_clipped() -> None:
    learned = Learned(strategy="learned", update="plain", eta_alpha=0.1, halve_every=10, low=0.2, high=0.9)
    up, down = AlphaGradient(-1.0), AlphaGradient(1.0)
    assert learned.updated(0.5, down, t=1) == pytest.approx(0.4)
    assert learned.updated(0.5, down, t=10) == pytest.approx(0.4)
    assert learned.updated(0.5, up, t=11) == pytest.approx(0.55)
    assert learned.updated(0.5, down, t=21) == pytest.approx(0.475)
    assert learned.updated(0.5, AlphaGradient(100), t=1) == 0.2
    assert learned.updated(0.5, AlphaGradient(-100), t=1) == 0.9
    often = Learned(strategy="learned", inner_iters=5)
    assert [step for step in range(1, 11) if often.due(step, 10)] == [5, 10]
    for steps, every in ((10, 1), (99, 1), (100, 2), (260, 5), (10_500, 210)):  # about fifty updates of a run
        assert [step for step in range(1, 2 * every + 1) if learned.due(step, steps)] == [every, 2 * every]
    assert not any(Official(strategy="official").due(step, 30) for step in range(1, 11))  # but before every epoch


def test_a_table_is_spread_evenly_over_the_epochs() -> None:
    table = Table(strategy="table", values=[0.9, 0.5, 0.1])
    assert [table.alpha(t, 3) for t in (1, 2, 3)] == [0.9, 0.5, 0.1]
    assert [table.alpha(t, 6) for t in range(1, 7)] == [0.9, 0.9, 0.5, 0.5, 0.1, 0.1]
    assert [table.alpha(t, 2) for t in (1, 2)] == [0.9, 0.5]


def test_a_run_of_one_epoch_has_the_first_value() -> None:
    assert Polynomial(strategy="polynomial", coefficients=[0.9, 0.1]).alpha(1, 1) == pytest.approx(0.9)
    assert Power(strategy="power", coefficients=[0.2, 0.3], of_epochs=9).alpha(1, 1) == pytest.approx(0.5)
    assert to_power([0.7, 0.2, 0.4], 1) == [0.7, 0, 0]


def test_a_run_of_two_epochs_has_the_first_and_the_last_value() -> None:
    line = Polynomial(strategy="polynomial", coefficients=[0.9, 0.1])
    assert [line.alpha(t, 2) for t in (1, 2)] == pytest.approx([0.9, 0.1])
    power = Power(strategy="power", coefficients=[0, 0.1], of_epochs=9)
    assert [power.alpha(t, 2) for t in (1, 2)] == pytest.approx([0.1, 0.9])


def test_conversion_of_a_cubic_worked_out_by_hand() -> None:
    # T = 2: s = t - 1; (2 - t)^3 = B_{0,3}, 3 (t - 1) (2 - t)^2 = B_{1,3}
    assert to_power([1, 0, 0, 0], 2) == [8, -12, 6, -1]
    assert to_power([0, 1, 0, 0], 2) == [-12, 24, -15, 3]


def test_a_fit_is_a_cubic_if_nothing_else_is_said() -> None:
    assert Polynomial.fit([0.9, 0.8, 0.4, 0.3, 0.1])[0].degree == 3


def test_the_information_criterion_worked_out_by_hand() -> None:
    # 10 ln 0.1^2 + 3 ln 10 = -17 ln 10; a residual below 1e-6 counts as 1e-6: 4 ln 1e-12 + 2 ln 4
    assert _information(10, 2, 0.1) == pytest.approx(-17 * math.log(10))
    assert _information(4, 1, 0.0) == _information(4, 1, 1e-6) == pytest.approx(-48 * math.log(10) + 4 * math.log(2))


@pytest.mark.parametrize("degree", [1, 4, 6])
def test_the_lowest_degree_that_follows_a_curve_is_chosen(degree: int) -> None:
    truth = Polynomial(strategy="polynomial", coefficients=[0.9, *[(i % 2) * 0.8 for i in range(degree)]])
    fitted, residual = Polynomial.fit([truth.alpha(t, 40) for t in range(1, 41)], degree=None)
    assert fitted.degree == degree
    assert fitted.coefficients == pytest.approx(truth.coefficients, abs=1e-4)
    assert residual < 1e-6


def test_the_degree_of_a_fit_is_at_most_six_and_leaves_a_point_to_judge_it_by() -> None:
    truth = Polynomial(strategy="polynomial", coefficients=[1, 0, 1, 0, 1, 0, 1, 0])
    assert Polynomial.fit([truth.alpha(t, 40) for t in range(1, 41)], degree=None)[0].degree <= 6
    assert Polynomial.fit([0.9, 0.5, 0.3], degree=None)[0].degree == 1  # a parabola would pass through any three
    assert Polynomial.fit([0.9, 0.2], degree=None)[0].coefficients == pytest.approx([0.9, 0.2])
    parabola = [1, 4 / 9, 1 / 9, 0]  # (1 - s)^2 at s = 0, 1/3, 2/3, 1
    assert Polynomial.fit(parabola, degree=None)[0].coefficients == pytest.approx([1, 0, 0], abs=1e-6)


def test_a_rate_of_alpha_that_is_not_halved_stays() -> None:
    down = AlphaGradient(1.0)
    assert Learned(strategy="learned", eta_alpha=0.1).updated(0.5, down, t=1000) == pytest.approx(0.4)
    assert Learned(strategy="learned", eta_alpha=0.1, halve_every=1).updated(0.5, down, t=3) == pytest.approx(0.475)


def test_a_cosine_and_a_sign_do_not_depend_on_how_large_the_gradients_are() -> None:
    learned = Learned(strategy="learned", eta_alpha=0.1, update="cosine")
    assert learned.updated(0.5, AlphaGradient(-2.0, 4.0), t=1) == pytest.approx(0.55)
    assert learned.updated(0.5, AlphaGradient(-2e-6, 4e-6), t=1) == pytest.approx(0.55)
    assert learned.updated(0.5, AlphaGradient(0.0, 0.0), t=1) == 0.5  # one of the two gradients is zero
    sign = Learned(strategy="learned", eta_alpha=0.1)
    assert sign.updated(0.5, AlphaGradient(-2e-6, 4.0), t=1) == pytest.approx(0.6)
    assert sign.updated(0.5, AlphaGradient(3.0, 4.0), t=1) == pytest.approx(0.4)
    assert sign.updated(0.5, AlphaGradient(0.0, 0.0), t=1) == 0.5
    plain = Learned(strategy="learned", eta_alpha=0.1, update="plain")
    assert plain.updated(0.5, AlphaGradient(-2.0, 4.0), t=1) == pytest.approx(0.7)


def test_rows_are_held_out_only_where_the_outer_loss_is_measured_on_them() -> None:
    held_out = Learned(strategy="learned", outer="held_out", outer_fraction=0.1)
    assert [held_out.held_out_rows(rows) for rows in (100, 26, 3)] == [10, 3, 1]
    assert [Learned(strategy="learned", outer=outer).held_out_rows(100) for outer in ("val", "inner")] == [0, 0]
    assert held_out.outer_batch_size(32) == 32
    official = Official(strategy="official")
    assert (official.held_out_rows(100), official.outer_batch_size(32)) == (16, 8)


def test_formula_gives_four_digits_and_leads_with_a_sign_only_if_it_is_negative() -> None:
    assert formula([-1, 0.123456, -20000]) == "omega_hat(t) = -2e+04 t^2 + 0.1235 t - 1"
    assert formula([0.25]) == "omega_hat(t) = 0.25"
    assert formula([0, 0]) == "omega_hat(t) = 0 t + 0"


@pytest.mark.parametrize(
    ("matching", "classification", "expected"),
    [(1.0, 1.0, 1 / 5), (0.5, 1.0, 1 / 3), (0.0, 1.0, 0.95), (0.001, 1.0, 0.95), (1.0, 0.0, 0.1), (0.0, 0.0, 0.95)],
)
def test_a_balanced_start_lies_between_its_bounds(matching: float, classification: float, expected: float) -> None:
    learned = Learned(strategy="learned", low=0.1)
    assert learned.balanced(matching, classification) == pytest.approx(expected)
    assert Learned(strategy="learned", high=0.2).balanced(matching, classification) <= 0.2


def test_only_a_learned_alpha_starts_balanced() -> None:
    with pytest.raises(UserError, match=r"alpha\.initial"):
        load(RunConfig, None, ["method=official", "alpha.strategy=official", "alpha.initial=balanced"])
