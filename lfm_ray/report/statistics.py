"""Statistics over seeds: confidence intervals of means, paired tests, and a correction for multiple tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Paired:
    """Two configurations compared over the same seeds: ours minus theirs.

    difference: its mean over seeds; std: its sample standard deviation; low, high: the 95 %
    interval of the mean; p_t, p_wilcoxon: two-sided p-values of the paired t-test and of Wilcoxon's
    signed-rank test. With n seeds the latter cannot fall below 2 / 2^n: 0.25 with 3, 0.0625 with 5.
    """

    difference: float
    std: float
    low: float
    high: float
    p_t: float
    p_wilcoxon: float


def interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The two-sided confidence interval of a mean, by Student's t with n - 1 degrees of freedom.

    Both bounds are nan for a single value, whose spread is unknown.
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    reach = stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)


def paired(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> Paired:
    """Compares results with the same seeds, given in the same order.

    If the differences allow no test (a single seed, or no spread at all), p = 1.
    """
    from scipy import stats

    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    testable = len(differences) > 1 and np.ptp(differences) > 1e-12
    p_t = float(stats.ttest_1samp(differences, 0).pvalue) if testable else 1.0
    p_wilcoxon = float(stats.wilcoxon(differences).pvalue) if testable else 1.0
    std = float(np.std(differences, ddof=1)) if len(differences) > 1 else float("nan")
    return Paired(float(differences.mean()), std, *interval(differences), p_t, p_wilcoxon)


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects the p-values of several tests, so that the chance of any false positive stays below the level.

    The i-th smallest of m is multiplied by m - i + 1, made no smaller than those before it, and capped at 1
    (Holm, "A simple sequentially rejective multiple test procedure", Scandinavian J. Statistics 1979).
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
