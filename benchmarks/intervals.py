"""Confidence intervals of medians, which assume nothing about how a machine's speed varies. No library is needed."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Order statistics between which the median lies with at least 95 % confidence; the extremes of fewer than six.

    That at most k of n values lie below the median has the probability of at most k heads of n coins.
    """
    count, below = len(values), 0
    while sum(comb(count, heads) for heads in range(below + 2)) <= 0.025 * 2**count:
        below += 1
    ordered = sorted(values)
    return ordered[below], ordered[count - 1 - below]
