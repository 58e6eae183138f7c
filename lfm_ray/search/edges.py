"""What to do when the best trials of a sweep crowd at one end of a search range: better ones may lie beyond it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lfm_ray.errors import UserError
from lfm_ray.search.selection import ranked
from lfm_ray.search.spaces.distributions import Distribution
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Trial

BEST, CROWD = 5, 4  # trials: how many of the best are looked at, and how many of those make a crowd
EDGE = 0.15  # share of the range; by chance, four of five trials lie at the same end in 0.4 % of sweeps
WIDER = 0.25  # share of the range by which it is widened


class Crowd(NamedTuple):
    """`near` of the `looked_at` best trials lie at the lower or upper end of the range of a setting."""

    name: str
    distribution: Distribution
    upper: bool
    near: int
    looked_at: int

    @property
    def line(self) -> str:
        """In words."""
        return (
            f"{self.name}: {self.near} of the {self.looked_at} best trials lie at the"
            f" {'upper' if self.upper else 'lower'} end of {self.distribution}; a wider range may hold better ones"
        )


def at_the_edge(space: Space, trials: Sequence[Trial]) -> list[str]:
    """One line for each crowd among the trials of a sweep."""
    return [crowd.line for crowd in crowds(space, [space.searched_values(trial.config) for trial in ranked(trials)])]


def crowds(space: Space, best_first: Sequence[Mapping[str, Any]]) -> Iterator[Crowd]:
    """The searched numbers for which nearly all of the best finished trials lie at one end of the range.

    best_first: the searched settings of the finished trials. Ends beyond which a run allows no value are
    left out. loguniform ranges are measured on a log scale.
    """
    for name, distribution in space.search.items():
        if distribution.choice is not None or distribution.same_as is not None or distribution.length:
            continue
        values = [settings[name] for settings in best_first if name in settings][:BEST]
        for upper in (False, True):
            end = distribution.bounds[upper]
            near = sum(abs(_scaled(value, distribution) - _scaled(end, distribution)) <= EDGE for value in values)
            if near >= CROWD and _allows(space, name, distribution, _beyond(distribution, upper, EDGE)):
                yield Crowd(name, distribution, upper, near, len(values))


def widened(space: Space, best_first: Sequence[Mapping[str, Any]]) -> Space:
    """The space with every range widened at whose end the best trials crowd, as far as a run allows; else as it was."""
    search, first = dict(space.search), dict(space.widened)
    for crowd in crowds(space, best_first):
        bounds = list(search[crowd.name].bounds)
        bounds[crowd.upper] = _beyond(crowd.distribution, crowd.upper, WIDER)
        if _allows(space, crowd.name, crowd.distribution, bounds[crowd.upper]):
            kind = next(kind for kind in ("uniform", "loguniform", "integer") if getattr(crowd.distribution, kind))
            search[crowd.name] = crowd.distribution.model_copy(update={kind: bounds})
            first.setdefault(crowd.name, str(crowd.distribution))
    if search == space.search:
        return space
    return Space.model_validate({**space.model_dump(), "search": search, "widened": first})


def _scaled(value: float, distribution: Distribution) -> float:
    """The value scaled to 0 at the lower bound and 1 at the upper."""
    low, high = distribution.bounds
    if distribution.loguniform is not None:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _beyond(distribution: Distribution, upper: bool, share: float) -> float:
    """A value beyond an end of the range, by this share of it; of whole numbers, by at least 1."""
    end, other = distribution.bounds[upper], distribution.bounds[not upper]
    if distribution.loguniform is not None:
        return float(f"{end * (end / other) ** share:.2g}")
    if distribution.integer is not None:
        return round(end + math.copysign(max(1.0, share * abs(end - other)), end - other))
    return float(f"{end + share * (end - other):.3g}")


def _allows(space: Space, name: str, distribution: Distribution, value: float) -> bool:
    """Whether a run accepts a value of this setting."""
    try:
        space.config({**space.conditions(distribution), name: value})
    except UserError:
        return False
    return True
