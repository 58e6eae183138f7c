"""Optuna's samplers, which draw the settings of a trial.

tpe     the default: a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), multivariate
        within each group of settings that occur together, so that it handles conditional spaces.
        Running trials count as bad ("constant liar"), so that new ones are drawn elsewhere. The only
        sampler that learns from pruned trials.
gp      a Gaussian process with log expected improvement. Best for few, slow trials.
cmaes   CMA-ES (Hansen and Ostermeier, Evolutionary Computation 2001), from the package cmaes. Only
        for numbers and many trials: it starts to adapt after a generation of 4 + 3 ln(n) trials.
random  independent draws: the baseline of every comparison.

gp and cmaes only model settings that every trial has, and cmaes only numbers; `drawn_at_random` lists
the rest. Trial n is drawn by a sampler of its own, seeded with (seed of the sweep, n).
"""

from __future__ import annotations

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from lfm_ray.errors import UserError
from lfm_ray.search.spaces.space import SAMPLERS, Space


def sampler_for(space: Space, seed: int, number: int) -> BaseSampler:
    """The sampler of trial `number` of a sweep."""
    own = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return SAMPLERS[space.sampler](own, space)


def tpe(seed: int, space: Space) -> BaseSampler:
    """See above."""
    return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def gp(seed: int, space: Space) -> BaseSampler:
    """See above."""
    return GPSampler(seed=seed, warn_independent_sampling=False)


def cmaes(seed: int, space: Space) -> BaseSampler:
    """See above."""
    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


def random(seed: int, space: Space) -> BaseSampler:
    """See above."""
    return RandomSampler(seed=seed)


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
