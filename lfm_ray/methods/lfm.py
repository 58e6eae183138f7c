"""LFM: classification and modality matching, weighed by alpha (the paper's own method)."""

from __future__ import annotations

from typing import Literal

from lfm_ray.methods.base import Method


class LFM(Method):
    """L_Total = (1 - alpha) L_CLS + alpha L_MM, eq. (1). alpha = 0 is plain joint training.

    Every hook is `Method`'s own, for the other methods extend this one.
    """

    name: Literal["lfm"] = "lfm"
