"""How the settings of a trial are drawn, by Optuna's samplers.

tpe     the default: a tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), multivariate
        within each group of settings that occur together, so conditional spaces are no obstacle.
        Trials that run beside the new one count as bad ("constant liar"), so that it is not drawn
        in the same place. The only one that learns from trials that were stopped early.
gp      a Gaussian process with log expected improvement. Best with few, slow trials.
cmaes   CMA-ES (Hansen and Ostermeier, Evolutionary Computation 2001), with the package cmaes. For
        numbers only, and for many trials: it begins to adapt after a generation of 4 + 3 ln(n).
random  independent draws: the baseline of every comparison.

gp and cmaes model the settings that every trial has, cmaes only the numbers among them; `drawn_at_random`
names the others. Trial n is drawn by a sampler of its own, seeded by (seed of the sweep, n).
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
    """Refuses a sampler that can do nothing for a space.

    Raises:
        UserError: with what to use instead.
    """
    if space.sampler != "cmaes":
        return
    if len(space.objective) > 1:
        raise UserError("sampler cmaes: raises or lowers one metric; with several objectives use tpe or gp")
    if any(relation.metrics for relation in space.relations):
        raise UserError("sampler cmaes: knows no constraints on metrics; use tpe or gp")
    if len(drawn_at_random(space)) == len([one for one in space.search.values() if one.same_as is None]):
        raise UserError("sampler cmaes: no searched setting is a number that every trial has; use tpe")
