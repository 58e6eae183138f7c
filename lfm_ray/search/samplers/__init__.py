"""Samplers, which draw the settings of a trial: one in each module, `sampler(seed of one trial, the space)`.

Trial n is drawn by a sampler of its own, seeded with (seed of the sweep, n) (`lfm_ray.search.study.samplers`).
"""
