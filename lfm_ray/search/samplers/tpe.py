"""A tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011): the default.

Multivariate within each group of settings that occur together, so that it handles conditional spaces.
Running trials count as bad ("constant liar"), so that new ones are drawn elsewhere. The only sampler
that learns from pruned trials.
"""

from __future__ import annotations

from optuna.samplers import BaseSampler, TPESampler

from lfm_ray.search.spaces.space import Space


def sampler(seed: int, space: Space) -> BaseSampler:
    """The sampler of one trial, with this seed."""
    return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
