"""Ranks of methods over datasets and seeds, and whether they differ: Friedman, Nemenyi, wins and losses.

A frame has one row per confirmation run: `dataset`, `row` (the method), `seed`, and metrics. A block is one seed on one
dataset, in which the methods are ranked. Only methods that every block has are ranked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lfm_ray.report.statistics import paired

LEVEL = 0.05


@dataclass(frozen=True)
class Ranking:
    """Methods ranked over blocks.

    ranks: method -> its mean rank, the best first; 1 is best, equals share the mean of their ranks. blocks: how
    many; p: of Friedman's test that all methods are equal, nan below three methods or two blocks.
    """

    ranks: dict[str, float]
    blocks: int
    p: float

    @classmethod
    def of(cls, frame: pd.DataFrame, metric: str) -> Ranking:
        """By a metric that is better when it is higher."""
        from scipy import stats

        table = in_blocks(frame, metric)
        ranks = table.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
        p = math.nan
        if len(table) > 1 and len(table.columns) > 2:
            p = float(stats.friedmanchisquare(*(table[row].to_numpy() for row in table)).pvalue)
        return cls({str(row): float(rank) for row, rank in ranks.items()}, len(table), p)

    @property
    def critical_difference(self) -> float:
        """CD of Nemenyi's test: mean ranks that differ by more differ significantly, at the level of 5 %.

        q sqrt(k (k + 1) / (6 N)) for k methods and N blocks, with q the quantile of the studentised range divided
        by the square root of 2 (Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR
        2006). nan below two methods or two blocks.
        """
        from scipy import stats

        k = len(self.ranks)
        if k < 2 or self.blocks < 2:
            return math.nan
        q = stats.studentized_range.ppf(1 - LEVEL, k, np.inf) / math.sqrt(2)
        return float(q * math.sqrt(k * (k + 1) / (6 * self.blocks)))

    @property
    def groups(self) -> list[list[str]]:
        """The largest groups of methods that do not differ significantly, the bars of a critical-difference diagram."""
        names, reach = list(self.ranks), self.critical_difference
        if math.isnan(reach):
            return []
        found: list[list[str]] = []
        for first, name in enumerate(names):
            group = [other for other in names[first:] if self.ranks[other] - self.ranks[name] <= reach]
            if len(group) > 1 and not (found and group[-1] == found[-1][-1]):
                found.append(group)
        return found


def in_blocks(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One line per block, one column per method that every block has."""
    table = frame.pivot(index=["dataset", "seed"], columns="row", values=metric)
    order = [row for row in frame["row"].unique() if row in table]
    return table[order].dropna(axis=1)


@dataclass(frozen=True)
class Score:
    """On how many datasets a method wins, ties and loses against another."""

    wins: int
    ties: int
    losses: int

    def __str__(self) -> str:
        return f"{self.wins}/{self.ties}/{self.losses}"


def score(frame: pd.DataFrame, ours: str, theirs: str, metric: str) -> Score | None:
    """A win on a dataset: the 95 % interval of the difference, paired by seed, lies above 0; None without a dataset.

    With one seed there is no interval, so every dataset is a tie.
    """
    signs = []
    for _, runs in frame.groupby("dataset", sort=False):
        values = runs.pivot(index="seed", columns="row", values=metric)
        if ours in values and theirs in values and values[[ours, theirs]].notna().all(axis=None):
            found = paired(values[ours].to_numpy(), values[theirs].to_numpy())
            signs.append(int(found.low > 0) - int(found.high < 0))
    return Score(signs.count(1), signs.count(0), signs.count(-1)) if signs else None


def scores(frame: pd.DataFrame, metric: str, order: list[str]) -> pd.DataFrame:
    """Every method of `order` against every other as text, a line's wins, ties and losses; `-` without a dataset."""
    cells = {
        theirs: ["-" if ours == theirs else str(score(frame, ours, theirs, metric) or "-") for ours in order]
        for theirs in order
    }
    return pd.DataFrame({"method": order, **cells})
