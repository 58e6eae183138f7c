"""LFM: classification and modality matching, weighted by alpha (the paper's own method)."""

from __future__ import annotations

from typing import ClassVar, Literal

from lfm_ray.methods.base import Method


class LFM(Method):
    """L_Total = (1 - alpha) L_CLS + alpha L_MM, eq. (1). alpha = 0 is plain joint training.

    It overrides no hook: LFM is the default that other methods extend.
    """

    name: Literal["lfm"] = "lfm"
    source: ClassVar[str] = "NeurIPS 2024"
    takes_missing: ClassVar[bool] = True
