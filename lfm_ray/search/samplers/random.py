"""Independent draws: the baseline of every comparison."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler

from lfm_ray.search.spaces.space import Space


def sampler(seed: int, space: Space) -> BaseSampler:
    """The sampler of one trial, with this seed."""
    return RandomSampler(seed=seed)
