"""Warns when the best trials of a sweep crowd at one end of a search range: better ones may lie beyond it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lfm_ray.errors import UserError
from lfm_ray.search.selection import ranked
from lfm_ray.search.spaces.distributions import Distribution
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Trial

BEST, CROWD = 5, 4  # trials: how many of the best are looked at, and how many of those make a crowd
EDGE = 0.15  # share of the range; by chance, four of five trials lie at the same end in 0.4 % of sweeps


def at_the_edge(space: Space, trials: Sequence[Trial]) -> list[str]:
    """One line per searched number for which nearly all of the best finished trials lie at one end of its range.

    Ends beyond which a run allows no value are left out. loguniform ranges are measured on a log scale.
    """
    drawn = [space.searched_values(trial.config) for trial in ranked(trials)]
    said = []
    for name, distribution in space.search.items():
        if distribution.choice is not None or distribution.same_as is not None or distribution.length:
            continue
        values = [settings[name] for settings in drawn if name in settings][:BEST]
        low, high = distribution.bounds
        for end, other, side in ((low, high, "lower"), (high, low, "upper")):
            near = sum(abs(_scaled(value, distribution) - _scaled(end, distribution)) <= EDGE for value in values)
            if near >= CROWD and _allowed_beyond(space, name, distribution, end, other):
                said.append(
                    f"{name}: {near} of the {len(values)} best trials lie at the {side} end of {distribution};"
                    " a wider range may hold better ones"
                )
    return said


def _scaled(value: float, distribution: Distribution) -> float:
    """The value scaled to 0 at the lower bound and 1 at the upper."""
    low, high = distribution.bounds
    if distribution.loguniform is not None:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _allowed_beyond(space: Space, name: str, distribution: Distribution, end: float, other: float) -> bool:
    """Whether a run accepts a value slightly beyond an end."""
    if distribution.loguniform is not None:
        beyond = end * (end / other) ** EDGE
    elif distribution.integer is not None:
        beyond = end + math.copysign(1, end - other)
    else:
        beyond = end + EDGE * (end - other)
    try:
        space.config({**space.conditions(distribution), name: beyond})
    except UserError:
        return False
    return True
