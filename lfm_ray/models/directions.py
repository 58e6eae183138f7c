"""Which metrics are better when they are lower."""

from __future__ import annotations

from typing import Literal

Direction = Literal["maximize", "minimize"]
LOWER_IS_BETTER = ("loss", "gap", "error")


def natural_direction(metric: str) -> Direction:
    """`minimize` for losses, gaps and errors, else `maximize`."""
    return "minimize" if metric.endswith(LOWER_IS_BETTER) else "maximize"
