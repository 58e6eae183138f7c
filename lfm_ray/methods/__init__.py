"""Training methods: one small file each, on the hooks of `lfm_ray.methods.base.Method`."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter

from lfm_ray.config import RunConfig
from lfm_ray.methods.agm import AGM
from lfm_ray.methods.base import Losses, Method, State, scale_encoders
from lfm_ray.methods.domfn import DOMFN
from lfm_ray.methods.etmc import ETMC
from lfm_ray.methods.g_blend import GBlend
from lfm_ray.methods.greedy import Greedy
from lfm_ray.methods.lfm import LFM
from lfm_ray.methods.mla import MLA
from lfm_ray.methods.mmpareto import MMPareto
from lfm_ray.methods.mses import MSES
from lfm_ray.methods.mslr import MSLR
from lfm_ray.methods.official import Official
from lfm_ray.methods.ogm_ge import OGMGE
from lfm_ray.methods.pmr import PMR
from lfm_ray.methods.qmf import QMF
from lfm_ray.methods.recon_boost import ReconBoost
from lfm_ray.methods.umt import UMT
from lfm_ray.methods.unimodal import Unimodal

AnyMethod = Annotated[
    LFM
    | Official
    | Unimodal
    | MSES
    | GBlend
    | OGMGE
    | Greedy
    | DOMFN
    | MSLR
    | PMR
    | AGM
    | ETMC
    | MLA
    | MMPareto
    | QMF
    | ReconBoost
    | UMT,
    Field(discriminator="name"),
]

METHODS: dict[str, type[Method]] = {one.model_fields["name"].default: one for one in get_args(get_args(AnyMethod)[0])}

CHOICE: TypeAdapter[Method] = TypeAdapter(AnyMethod)
"""Checks a method's settings, a mapping with its `name`."""


def method_of(config: RunConfig) -> Method:
    """The method of a run."""
    assert isinstance(config.method, Method)
    return config.method


def head_of(value: Any) -> str | None:
    """The fusion head that a method needs, given as in a YAML file, or None."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", value)
    heads = METHODS[name].heads if isinstance(name, str) and name in METHODS else ()
    return heads[0] if heads else None


__all__ = ["CHOICE", "LFM", "METHODS", "Losses", "Method", "State", "head_of", "method_of", "scale_encoders"]
