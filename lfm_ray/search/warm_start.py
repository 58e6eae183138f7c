"""Starts a search from earlier results: a learned alpha(t), or the trials of earlier sweeps.

A finished run (`--start-from RUN`), or one trained first (`--from-learned`), contributes a polynomial
fitted to its alpha(t) as a known point. An earlier sweep (`--warm-start SWEEP`) contributes its
finished trials, which the sampler learns from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lfm_ray.errors import UserError
from lfm_ray.files import check_within
from lfm_ray.optimization.schedules import Polynomial
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.prior_trials import PriorTrial
from lfm_ray.search.sweep import Sweep, Trial
from lfm_ray.settings import flatten
from lfm_ray.training.run_folder import CONFIG, checked_epochs, read_config

COEFFICIENTS = "alpha.coefficients"
NEIGHBOURS, SPREAD = 3, 0.15  # extra points around a learned run's fit; standard deviation of their coefficients
# A trial that differs only in these settings still says something about its strategy.
ELSEWHERE = ("data.", "model.", "epochs")
WITHOUT_EFFECT = ("seed", "device", "compute.", "data.path", "data.memory_share", "data.reader_cpus")


def with_fitted_point(space: Space, run: Path, neighbours: int = 0) -> Space:
    """Adds known points from a run to the space: its alpha(t) as a polynomial, with its other settings.

    The polynomial has the degree of the searched coefficients (paper section 4.4 fits a cubic).
    Settings of the run that the space does not search, or whose range excludes the run's value, are
    left out. neighbours: how many extra points to add, with Gaussian noise on the fitted
    coefficients, clipped to their bounds.

    Raises:
        UserError: the folder holds no run, or the space searches no Bernstein coefficients.
    """
    check_takes_fit(space, f"--start-from {run}")
    check_within(run)
    rows = checked_epochs(run)
    if not (run / CONFIG).exists() or len(rows) < 2:
        raise UserError(f"--start-from {run}: holds no run with at least two epochs ({CONFIG}, epochs.jsonl)")
    searched = space.search[COEFFICIENTS]
    fitted, _ = Polynomial.fit([row["alpha"] for row in rows], (searched.length or 0) - 1)
    point: dict[str, Any] = {"alpha.strategy": "polynomial"} if "alpha.strategy" in space.search else {}
    others = flatten(read_config(run).model_dump())
    for name, distribution in space.search.items():
        if not name.startswith("alpha.") and name in others and distribution.allows(others[name]):
            point[name] = others[name]
    centre, random = np.array(fitted.coefficients), np.random.default_rng(0)
    points = {f"fit of {run.name}": centre}
    points |= {f"near it, {i + 1}": centre + random.normal(0, SPREAD, len(centre)) for i in range(neighbours)}
    within = {label: np.clip(values, *searched.bounds).tolist() for label, values in points.items()}
    fits = {label: {COEFFICIENTS: values, **point} for label, values in within.items()}
    return space.model_copy(update={"points": {**fits, **space.points}})


def check_takes_fit(space: Space, flag: str) -> None:
    """Checks that a fitted alpha(t) can be a point of the space; `flag` names the option in the error.

    Raises:
        UserError: the space does not search Bernstein coefficients independently of each other.
    """
    searched = space.search.get(COEFFICIENTS)
    monotone = isinstance(space.base.alpha, Polynomial) and space.base.alpha.monotone != "no"
    if searched is None or searched.length is None or searched.order is not None or monotone:
        raise UserError(f"{flag}: the space does not search {COEFFICIENTS} freely, so it cannot hold the fit")


def prior_trials_from(sweep: Sweep, space: Space, fingerprint: str) -> list[PriorTrial]:
    """The finished trials of an earlier sweep that the space could have drawn.

    fingerprint: of the new sweep's shards. A trial on other data, with another number of epochs or
    another model is ranked within its own sweep. A trial that differs in any other setting that the
    space holds fixed is left out, as is one that lacks a metric of the objective.
    """
    found = []
    for trial in sweep.trials():
        differing = _differences(trial, space) if trial.state == "finished" else None
        if differing is None or not set(space.objective) <= set(trial.rows[-1]):
            continue
        same = sweep.file.fingerprint == fingerprint and not differing
        values = [trial.rows[-1][name] for name in space.objective]
        constraints = space.outcomes(trial.config, trial.rows[-1])
        group = "" if same else str(sweep.folder)
        found.append(PriorTrial(group, space.drawn(flatten(trial.config.model_dump())), values, constraints))
    return found


def _differences(trial: Trial, space: Space) -> list[str] | None:
    """The fixed settings in which a trial differs from a run of the space with the same searched settings.

    Settings that do not affect metrics are ignored. None if the space could not have drawn the trial.
    """
    values = flatten(trial.config.model_dump())
    searched = {}
    for path in space.searched_in(trial.config):
        distribution = space.search[path]
        if path not in values or not distribution.allows(values[path]):
            return None
        if distribution.same_as is not None and values[path] != values.get(distribution.same_as):
            return None
        searched[path] = values[path]
    try:
        ours = flatten(space.config(searched).model_dump())
    except UserError:
        return None
    names = [
        name for name in {**values, **ours} if name not in values or name not in ours or values[name] != ours[name]
    ]
    differing = [name for name in names if not name.startswith(WITHOUT_EFFECT)]
    return differing if all(name.startswith(ELSEWHERE) for name in differing) else None
