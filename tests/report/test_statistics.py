from __future__ import annotations

import math

import pytest

from lfm_ray.report.statistics import holm, interval, paired


def test_the_interval_is_students() -> None:
    # 1, 2, 3: mean 2, std 1, n 3; t of 2 degrees of freedom at 97.5 % is 4.302653 (any printed table)
    assert interval([1, 2, 3]) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)
    assert interval([1, 2, 3], level=0.9) == pytest.approx(
        (2 - 2.919986 / math.sqrt(3), 2 + 2.919986 / math.sqrt(3)), abs=1e-6
    )
    assert all(math.isnan(value) for value in interval([1.0]))


def test_pairs_are_compared_by_their_differences() -> None:
    # differences 1, 2, 3 whatever the level of each seed: t = 2 sqrt(3) with 2 degrees of freedom, whose
    # two-sided p is 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14); all three are positive: 2 / 2^3 by ranks
    found = paired([51, 72, 13], [50, 70, 10])
    assert (found.difference, found.std) == pytest.approx((2, 1))
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert found.p_t == pytest.approx(1 - math.sqrt(12 / 14))
    assert found.p_wilcoxon == pytest.approx(0.25)
    assert paired([50, 70, 10], [51, 72, 13]).difference == pytest.approx(-2)


def test_wilcoxon_sums_the_ranks_of_the_positive_differences() -> None:
    # differences 5, 4, 3, 2, -1: the negative rank is 1; of the 32 signs, 2 give a sum of at most 1 (none; only
    # rank 1), and as many on the other side: 4 / 32
    assert paired([5, 4, 3, 2, 0], [0, 0, 0, 0, 1]).p_wilcoxon == pytest.approx(4 / 32)


@pytest.mark.parametrize("ours", [[3.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
def test_without_any_spread_nothing_is_claimed(ours: list[float]) -> None:
    found = paired(ours, [1.0] * len(ours))
    assert (found.p_t, found.p_wilcoxon) == (1.0, 1.0)


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_keeps_the_order() -> None:
    # 0.01 x 4, 0.015 x 3, 0.02 x 2 = 0.04 but at least 0.045, 0.5 x 1
    assert holm([0.02, 0.01, 0.5, 0.015]) == pytest.approx([0.045, 0.04, 0.5, 0.045])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_two_seeds_worked_out_by_hand() -> None:
    # differences 1 and 3: mean 2, std sqrt(2), t = 2 with 1 degree of freedom, whose distribution is Cauchy's:
    # p = 1 - 2 / pi atan(2), and the 97.5 % point is tan(0.475 pi); both positive: 2 / 2^2 by ranks
    found = paired([2.0, 5.0], [1.0, 2.0])
    reach = math.tan(0.475 * math.pi)
    assert (found.difference, found.std) == pytest.approx((2, math.sqrt(2)))
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach))
    assert (found.p_t, found.p_wilcoxon) == pytest.approx((1 - 2 / math.pi * math.atan(2), 0.5))


def test_small_differences_are_tested_like_large_ones() -> None:
    found = paired([0.511, 0.722, 0.133], [0.51, 0.72, 0.13])
    assert found.p_t == pytest.approx(1 - math.sqrt(12 / 14))
    assert found.p_wilcoxon == pytest.approx(0.25)


def test_one_seed_has_a_difference_and_no_spread() -> None:
    found = paired([3.0], [1.0])
    assert found.difference == 2
    assert all(math.isnan(value) for value in (found.std, found.low, found.high))
