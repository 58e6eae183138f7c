"""Starts a search from a run that has ended: its alpha(t), fitted, becomes a known point of the space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.launch import CONFIG, read_epochs
from lfm_ray.schedules import Polynomial
from lfm_ray.search.space import Space
from lfm_ray.settings import flatten, load

COEFFICIENTS = "alpha.coefficients"


def with_fitted_point(space: Space, run: Path) -> Space:
    """The space with one more known point: the run's alpha(t) as a polynomial, and its other settings.

    The degree is that of the searched coefficients (paper section 4.4 fits a cubic). Settings of
    the run that the space does not search, or not at that value, are left out.

    Raises:
        UserError: the folder holds no run, or the space searches no Bernstein coefficients.
    """
    searched = space.search.get(COEFFICIENTS)
    monotone = isinstance(space.base.alpha, Polynomial) and space.base.alpha.monotone != "no"
    if searched is None or searched.length is None or monotone:
        raise UserError(f"--start-from {run}: the space does not search {COEFFICIENTS} freely, so the fit has no place")
    rows = read_epochs(run)
    if not (run / CONFIG).exists() or len(rows) < 2:
        raise UserError(f"--start-from {run}: holds no run with at least two epochs ({CONFIG}, epochs.jsonl)")
    fitted, _ = Polynomial.fit([row["alpha"] for row in rows], searched.length - 1)
    low, high = searched.bounds
    point: dict[str, Any] = {COEFFICIENTS: [min(max(c, low), high) for c in fitted.coefficients]}
    if "alpha.strategy" in space.search:
        point |= {"alpha.strategy": "polynomial"}
    others = flatten(load(RunConfig, run / CONFIG).model_dump())
    for name, distribution in space.search.items():
        if not name.startswith("alpha.") and name in others and distribution.allows(others[name]):
            point[name] = others[name]
    return space.model_copy(update={"points": {f"fit of {run.name}": point, **space.points}})
