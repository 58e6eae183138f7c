"""A snapshot of a sweep, running or ended, as the report reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from lfm_ray.models.directions import LEADING, leading
from lfm_ray.report import linear_baselines
from lfm_ray.report.confirmed_files import confirmed_runs
from lfm_ray.report.linear_baselines import LinearBaselines
from lfm_ray.report.tables import modalities_of
from lfm_ray.search.selection import best_of
from lfm_ray.search.spaces.objective import Direction
from lfm_ray.search.sweep import Sweep, Trial


@dataclass(frozen=True)
class SweepView:
    """A sweep and its trials at the time of reading, with the name that the page gives it."""

    sweep: Sweep
    trials: list[Trial]
    name: str

    @staticmethod
    def of(folders: Sequence[Path]) -> list[SweepView]:
        """Reads sweeps; those whose folders share a name are named by their paths.

        Raises:
            UserError: a folder holds no sweep.
        """
        sweeps = [Sweep.open(folder) for folder in folders]
        named = Counter(sweep.folder.absolute().name for sweep in sweeps)
        return [
            SweepView(sweep, sweep.trials(), name if named[name] == 1 else str(sweep.folder))
            for sweep in sweeps
            for name in [sweep.folder.absolute().name]
        ]

    @cached_property
    def best(self) -> Trial | None:
        """The best finished trial."""
        return best_of(self.trials)

    @cached_property
    def modalities(self) -> list[str]:
        """The names of the modalities."""
        return next((modalities_of(trial.rows[-1]) for trial in self.trials if trial.rows), [])

    @cached_property
    def lead(self) -> str:
        """The metric that leads: accuracy, or that of other targets."""
        return next((leading(trial.rows[-1]) for trial in self.trials if trial.rows), LEADING["classes"])

    @cached_property
    def linear(self) -> LinearBaselines | None:
        """What linear models reach on the same data, if `prepare --inspect` fitted them."""
        return linear_baselines.read(self.sweep.space.base.data.path, self.sweep.file.fingerprint)

    @cached_property
    def confirmed(self) -> tuple[list[tuple[str, pd.DataFrame]], list[str]]:
        """The runs of `lfm_ray.confirm`, and what is wrong with its tables (`confirmed_files.confirmed_runs`)."""
        return confirmed_runs(self.sweep)

    @property
    def objective(self) -> str:
        """The metric that decides which trial is best; the first of several objectives."""
        return next(iter(self.sweep.space.objective))

    @property
    def epochs(self) -> int:
        """The total number of epochs trained by all trials."""
        return sum(trial.trained for trial in self.trials)


def shared_objective(views: Sequence[SweepView]) -> tuple[str, Direction]:
    """The metric and direction that sweeps are compared by: their first objective if shared, else what leads."""
    found = {next(iter(view.sweep.space.objective.items())) for view in views}
    return found.pop() if len(found) == 1 else (f"val/fused/{views[0].lead}", "maximize")
