"""Which metric targets of each kind are told by, and which metrics are better when they are lower."""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

from lfm_ray.datasets.kinds import TargetKind

Direction = Literal["maximize", "minimize"]
LOWER_IS_BETTER = ("loss", "gap", "mae", "error")

LEADING: dict[TargetKind, str] = {"classes": "accuracy", "multilabel": "map", "regression": "correlation"}
"""Kind of target -> the metric that tables show, higher being better, and whose gap between modalities is measured.

Of numbers it is the correlation, since what a modality adds to a sum has no scale of its own.
"""


def leading(names: Container[str], split: str = "val") -> str:
    """The leading metric of a run, from the names of its metrics; accuracy where there are none."""
    return next((metric for metric in LEADING.values() if f"{split}/fused/{metric}" in names), LEADING["classes"])


def natural_direction(metric: str) -> Direction:
    """`minimize` for losses, gaps and errors, else `maximize`."""
    return "minimize" if metric.endswith(LOWER_IS_BETTER) else "maximize"
