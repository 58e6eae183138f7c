"""CMA-ES (Hansen and Ostermeier, Evolutionary Computation 2001), from the package cmaes.

For numbers that every trial has, and many trials: it starts to adapt after a generation of 4 + 3 ln(n).
"""

from __future__ import annotations

from optuna.samplers import BaseSampler, CmaEsSampler

from lfm_ray.search.spaces.space import Space


def sampler(seed: int, space: Space) -> BaseSampler:
    """See above."""
    return CmaEsSampler(seed=seed, warn_independent_sampling=False)
