"""What to do, in one sentence: the strategy that confirmation found best, by how much, and what simpler one is as good.

Chosen on the validation split, by the mean of the confirming seeds, and measured on the split that was confirmed on.
The simplest as good is that of the one-standard-error rule: the simplest strategy whose mean is at most one standard
error of the difference below the best (Breiman, Friedman, Olshen and Stone, "Classification and Regression Trees",
1984, section 3.4.3; here the difference is taken seed by seed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lfm_ray.report.statistics import Paired, paired
from lfm_ray.search.spaces.objective import FUSED_ACCURACY, Direction, metric_name
from lfm_ray.search.study.arms import JOINT

SIMPLICITY = (JOINT, "constant", "heuristic", "stepwise", "polynomial", "learned")  # the simplest first
MOST_SEEDS = 200  # that are looked for, to close an open question


@dataclass(frozen=True)
class Candidate:
    """A strategy's best configuration: its trial, and its values on both splits, one a seed; higher is better."""

    sweep: str
    trial: int
    strategy: str
    chosen_by: np.ndarray
    measured: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """The best candidate, the simplest as good, and the best against tuned joint training, if that was tuned."""

    best: Candidate
    simplest: Candidate
    against_joint: Paired | None
    sentences: list[str]


def verdict(
    frame: pd.DataFrame, split: str, metric: str = FUSED_ACCURACY, direction: Direction = "maximize"
) -> Verdict | None:
    """Reads `lfm_ray.report.confirmation.confirm_frame`; None where the runs have no such metric, or one seed alone."""
    metric = metric.removeprefix("val/")
    if frame["seed"].nunique() < 2 or not {f"val/{metric}", f"{split}/{metric}"} <= set(frame):
        return None
    found = candidates(frame, split, metric, direction)
    best = max(found, key=lambda one: one.chosen_by.mean())
    simplest = min((one for one in found if as_good(one, best)), key=lambda one: simplicity(one.strategy))
    joint = next((one for one in found if one.strategy == JOINT), None)
    against = paired(best.measured, joint.measured) if joint is not None and joint is not best else None
    said = [_of_best(best, joint, against, found, split, metric)]
    if simplest is not best:
        lost = paired(simplest.measured, best.measured)
        said.append(
            f"{simplest.strategy} (trial {simplest.trial}) is simpler and as good within one standard error on the"
            f" validation split ({_difference(lost, metric)} on the {split} split): simplest.yaml"
        )
    if against is not None and against.low <= 0 <= against.high:
        said.append(_seeds_needed(against))
    return Verdict(best, simplest, against, said)


def candidates(frame: pd.DataFrame, split: str, metric: str, direction: Direction) -> list[Candidate]:
    """The configuration of each strategy with the best mean on the validation split."""
    sign = 1 if direction == "maximize" else -1
    found: dict[str, Candidate] = {}
    for (sweep, trial), runs in frame.groupby(["sweep", "trial"], sort=False):
        runs = runs.sort_values("seed")
        chosen_by, measured = (sign * runs[f"{part}/{metric}"].to_numpy(float) for part in ("val", split))
        one = Candidate(str(sweep), int(trial), str(runs["strategy"].iloc[0]), chosen_by, measured)
        if one.strategy not in found or one.chosen_by.mean() > found[one.strategy].chosen_by.mean():
            found[one.strategy] = one
    return list(found.values())


def as_good(one: Candidate, best: Candidate) -> bool:
    """Whether `one` is the best, or at most one standard error of the difference below it on the validation split."""
    differences = best.chosen_by - one.chosen_by
    return bool(differences.mean() <= differences.std(ddof=1) / math.sqrt(len(differences)))


def simplicity(strategy: str) -> int:
    """The place of a strategy in `SIMPLICITY`; another method or schedule comes after all of these."""
    return SIMPLICITY.index(strategy) if strategy in SIMPLICITY else len(SIMPLICITY)


def seeds_needed(found: Paired) -> int | None:
    """How many seeds bring the 95 % interval of this difference down to the difference itself; None: over 200."""
    from scipy import stats

    if not found.std > 0 or found.difference == 0:
        return None
    for n in range(2, MOST_SEEDS + 1):
        if stats.t.ppf(0.975, n - 1) * found.std / math.sqrt(n) < abs(found.difference):
            return n
    return None


def _of_best(
    best: Candidate, joint: Candidate | None, against: Paired | None, found: list[Candidate], split: str, metric: str
) -> str:
    seeds = f"{len(best.measured)} seeds"
    if joint is None:
        return f"best: {best.strategy} (trial {best.trial}); no tuned joint training was confirmed beside it"
    if best is joint:
        others = [one for one in found if one is not joint]
        if not others:
            return f"only joint training ({JOINT}, trial {joint.trial}) was confirmed"
        nearest = max(others, key=lambda one: one.chosen_by.mean())
        difference = _difference(paired(nearest.measured, joint.measured), metric)
        return (
            f"use joint training ({JOINT}, trial {joint.trial}): no strategy is better over {seeds}; the nearest,"
            f" {nearest.strategy}, has {difference} on the {split} split"
        )
    assert against is not None
    difference = f"{_difference(against, metric)} on the {split} split, {seeds}"
    if against.low > 0:
        return f"use {best.strategy} (trial {best.trial}): {difference}, against tuned {JOINT}: best.yaml"
    if against.high < 0:
        return (
            f"use joint training ({JOINT}, trial {joint.trial}): {best.strategy}, the best on the validation split,"
            f" has {difference}, against it"
        )
    return f"open: {best.strategy} (trial {best.trial}) has {difference}, against tuned {JOINT}, which may be chance"


def _seeds_needed(against: Paired) -> str:
    needed = seeds_needed(against)
    if needed is None:
        return f"over {MOST_SEEDS} seeds would be needed to tell so small a difference from none"
    return f"about {needed} seeds would tell a difference of this size from none: --seeds {needed}"


def _difference(found: Paired, metric: str) -> str:
    """`+2.1 points (95 % +0.4 to +3.8)`; other metrics than shares in their own unit."""
    shares = ("accuracy", "map", "macro_f1", "micro_f1", "balanced_accuracy")
    scale, unit, digits = (100, " points", 1) if metric.rpartition("/")[2] in shares else (1, "", 3)
    of = "" if metric == "fused/accuracy" else f" of {metric_name(f'val/{metric}')}"
    low, high = scale * found.low, scale * found.high
    return f"{scale * found.difference:+.{digits}f}{unit}{of} (95 % {low:+.{digits}f} to {high:+.{digits}f})"
