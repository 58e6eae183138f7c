"""Training methods: one small file each, on the hooks of `lfm_ray.methods.base.Method`."""

from lfm_ray.methods.base import Losses, Method
from lfm_ray.methods.lfm import LFM
from lfm_ray.methods.official import Official
from lfm_ray.methods.unimodal import Unimodal

METHODS: dict[str, Method] = {"lfm": LFM(), "official": Official(), "unimodal": Unimodal()}

__all__ = ["LFM", "METHODS", "Losses", "Method", "Official", "Unimodal"]
