"""Training methods: one file each, on the hooks of `lfm_ray.methods.base.Method`.

A file is named as its method, which is all that makes it known. docs/methods.md, made from them, says
what each changes, and lists their settings and sources.
"""

from lfm_ray.methods.base import METHODS, Losses, Method, State, scale_encoders
from lfm_ray.methods.lfm import LFM

__all__ = ["LFM", "METHODS", "Losses", "Method", "State", "scale_encoders"]
