"""A sweep as data frames and figures, for notebooks; `lfm_ray.load_sweep` returns it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.report.page_figures import Figures
from lfm_ray.report.page_tables import strategy_frame
from lfm_ray.report.plots import Bars, Plot, figure_of
from lfm_ray.report.sweep_view import SweepView
from lfm_ray.search.sweep import trial_folder
from lfm_ray.settings import nearest
from lfm_ray.training.run_folder import read_alpha_updates


class LoadedSweep:
    """A sweep at the time of reading.

    sweep = lfm_ray.load_sweep("sweeps/mine")
    sweep.trials, sweep.epochs, sweep.strategies        # data frames
    sweep.figure("alpha")                               # a matplotlib figure; sweep.figures lists all names
    sweep.best                                          # the settings of the best trial
    sweep.folder                                        # its folder, which holds report.html

    Raises:
        UserError: the folder holds no sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self._view,) = SweepView.of([folder])

    def __repr__(self) -> str:
        return f"<sweep {self._view.name}: {len(self._view.trials)} trials>"

    def _repr_html_(self) -> str:
        """The table of strategies, which a notebook shows for a sweep."""
        return self.strategies.to_html(index=False, float_format="{:.3f}".format, na_rep="-")

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial: its state, all of its settings, the metrics of its last epoch."""
        return self._view.sweep.table()

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per epoch of each trial: trial, strategy, state, and all metrics of the epoch."""
        return pd.DataFrame(
            [
                {"trial": trial.number, "strategy": trial.strategy, "state": trial.state, **row}
                for trial in self._view.trials
                for row in trial.rows
            ]
        )

    @property
    def strategies(self) -> pd.DataFrame:
        """One row per strategy, the best last: accuracies and gaps of its best trial, mean and std over all trials."""
        return strategy_frame([self._view])

    def alpha_updates(self, trial: int) -> pd.Series[float]:
        """alpha after each of its updates in a trial that learned it, indexed by the training step on theta."""
        updates = read_alpha_updates(trial_folder(self._view.sweep.folder, trial))
        return pd.Series(updates, name="alpha", dtype=float).rename_axis("step")

    @property
    def best(self) -> RunConfig:
        """The settings of the best finished trial.

        Raises:
            UserError: no trial has finished.
        """
        if self._view.best is None:
            raise UserError(f"{self._view.name}: no trial has finished")
        return self._view.best.config

    @property
    def figures(self) -> list[str]:
        """The names that `figure` accepts."""
        return list(self._plots)

    def figure(self, name: str) -> Figure:
        """A figure of the report.

        Raises:
            UserError: there is no figure with this name.
        """
        if name not in self._plots:
            raise UserError(f"{name}: this sweep has no such figure{nearest(name, self.figures)}")
        return figure_of(self._plots[name], self._drawn.groups)

    @cached_property
    def _drawn(self) -> Figures:
        return Figures([self._view])

    @cached_property
    def _plots(self) -> dict[str, Plot | Bars]:
        drawn: list[Plot | Bars] = [*self._drawn.plots, *self._drawn.charts]
        return {plot.name: plot for plot in drawn}
