"""A Gaussian process with log expected improvement, for few, slow trials.

It only models settings that every trial has; the others are drawn at random.
"""

from __future__ import annotations

from optuna.samplers import BaseSampler, GPSampler

from lfm_ray.search.spaces.space import Space


def sampler(seed: int, space: Space) -> BaseSampler:
    """The sampler of one trial, with this seed."""
    return GPSampler(seed=seed, warn_independent_sampling=False)
