"""Which sampler draws a trial, and what it cannot model.

gp and cmaes only model settings that every trial has, and cmaes only numbers; `drawn_at_random` lists
the rest. Trial n is drawn by a sampler of its own, seeded with (seed of the sweep, n).
"""

from __future__ import annotations

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler

from lfm_ray.errors import UserError
from lfm_ray.own_parts import called, returned
from lfm_ray.search.spaces.space import SAMPLERS, Space


def sampler_for(space: Space, seed: int, number: int) -> BaseSampler:
    """The sampler of trial `number` of a sweep."""
    own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    part = f"sampler {space.sampler}"
    sampler: BaseSampler = called(part, SAMPLERS[space.sampler], own, space)
    returned(part, sampler, isinstance(sampler, BaseSampler), "a sampler of Optuna")
    return sampler


def drawn_at_random(space: Space) -> list[str]:
    """The searched settings that the space's sampler cannot model."""
    if space.sampler not in ("gp", "cmaes"):
        return []
    settings = {path: distribution for path, distribution in space.search.items() if distribution.same_as is None}
    return [
        path
        for path, distribution in settings.items()
        if distribution.when
        or (
            space.sampler == "cmaes"
            and isinstance(next(iter(distribution.parameters(path).values())), CategoricalDistribution)
        )
    ]


def check_sampler(space: Space) -> None:
    """Checks that the sampler can search the space.

    Raises:
        UserError: it cannot; the message says what to use instead.
    """
    if space.sampler != "cmaes":
        return
    if len(space.objective) > 1:
        raise UserError("sampler cmaes: cannot search for several objectives; use tpe or gp")
    if any(relation.metrics for relation in space.relations):
        raise UserError("sampler cmaes: supports no constraints on metrics; use tpe or gp")
    if len(drawn_at_random(space)) == len([one for one in space.search.values() if one.same_as is None]):
        raise UserError("sampler cmaes: no searched setting is a number that every trial has; use tpe")
