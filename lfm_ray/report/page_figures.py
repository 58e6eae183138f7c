"""The figures of the report's page, which notebooks use as well."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from lfm_ray.models.directions import leading
from lfm_ray.report.plots import Axis, Bars, Curve, Plot, save_panels
from lfm_ray.report.sweep_view import SweepView, shared_objective
from lfm_ray.report.tables import BASELINES, modalities_of
from lfm_ray.search.selection import by_strategy
from lfm_ray.search.spaces.objective import Direction, metric_name
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Trial
from lfm_ray.training.trainer import Row

ENOUGH = 10  # finished trials; with fewer, importances are noise
MOST_AXES = 14  # in parallel coordinates


class Figures:
    """The figures of one or more sweeps. Colours stand for strategies, or for sweeps if there are several."""

    def __init__(self, views: Sequence[SweepView]) -> None:
        self.views, self.several = views, len(views) > 1
        self.bold = {
            (view.name, trial.number)
            for view in views
            for trial in ([view.best] if self.several and view.best else by_strategy(view.trials).values())
        }

    @cached_property
    def groups(self) -> list[str]:
        """The strategies or sweeps that have a colour, in the order of the legend."""
        if self.several:
            return [view.name for view in self.views]
        return strategies_in(self.views[0].trials)

    @cached_property
    def plots(self) -> list[Plot]:
        """All figures that have data."""
        modalities = dict.fromkeys(name for view in self.views for name in view.modalities)
        scores = [self._of_epochs(f"val/{name}/{self.lead}", name) for name in ("fused", *modalities)]
        found = [self.alpha(), *scores, self.best_so_far(), self.still_training()]
        if not self.several:
            found.append(self.parallel_coordinates(self.views[0]))
        return [plot for plot in found if plot is not None and plot.curves]

    @cached_property
    def charts(self) -> list[Bars]:
        """The importance of each setting, if there are enough trials."""
        if not self.importances:
            return []
        note = (
            "PED-ANOVA (Watanabe et al., IJCAI 2023) of the finished trials: how much a setting matters for being among"
            " the best tenth. Uncertain for few trials, and for settings that few trials have."
        )
        return [Bars("importance", "Importance of the settings", "share of the importance", self.importances, note)]

    @cached_property
    def importances(self) -> dict[str, float]:
        """The importance of each setting of a single sweep; empty for several."""
        return {} if self.several else importances(self.views[0].trials, *self.objective)

    @cached_property
    def objective(self) -> tuple[str, Direction]:
        """The metric that trials are compared by, and its direction."""
        return shared_objective(self.views)

    @property
    def lead(self) -> str:
        """The metric that leads."""
        return self.views[0].lead

    def alpha(self) -> Plot:
        """alpha(t) against the share of the epochs, as in paper Figure 3."""
        curves = [
            self._curve(view, trial, [row["epoch"] / T for row in rows], [row["alpha"] for row in rows])
            for view, trial in self._trials()
            for T in [trial.config.epochs]
            if (rows := _rows(trial, "alpha"))
        ]
        note = f"All trials; thick: the best finished trial of each {'sweep' if self.several else 'strategy'}."
        return Plot("alpha", "alpha(t)", "share of the epochs", "alpha", curves, note, y_range=(0, 1))

    def _of_epochs(self, key: str, name: str) -> Plot:
        what = metric_name(self.lead)
        title = f"Fused {what}" if name == "fused" else f"{what[0].upper()}{what[1:]} of {name} alone"
        curves = [
            self._curve(view, trial, [row["epoch"] for row in rows], [row[key] for row in rows])
            for view, trial in self._trials()
            if (rows := _rows(trial, key))
        ]
        return Plot(f"{self.lead}-{_file(name)}", title, "epoch", f"validation {what}", curves)

    def best_so_far(self) -> Plot:
        """The best value of the objective against the total epochs of all trials that had ended."""
        metric, direction = self.objective
        better, worst = (max, -math.inf) if direction == "maximize" else (min, math.inf)
        curves: list[Curve] = []
        for view in self.views:
            spent, best = 0, worst
            steps: list[tuple[int, float]] = []
            ended = [trial for trial in view.trials if trial.frozen.datetime_complete]
            for trial in sorted(ended, key=lambda trial: str(trial.frozen.datetime_complete)):
                spent += len(trial.rows)
                if trial.state == "finished":
                    best = better(best, trial.rows[-1][metric])
                    curves.append(self._curve(view, trial, [spent], [trial.rows[-1][metric]], bold=False))
                if math.isfinite(best):
                    steps.append((spent, best))
            if len(steps) > 1:
                label = view.name if self.several else ""
                x, y = zip(*steps, strict=True)
                curves.append(Curve(f"best so far{f', {label}' if label else ''}", label, x, y, bold=True))
        note = "Total epochs of the trials that had ended. Dots: finished trials."
        return Plot("best-so-far", "Best so far", "epochs spent", metric_name(metric), curves, note, steps=True)

    def still_training(self) -> Plot | None:
        """The share of each group's trials that had not been pruned after each epoch."""
        curves = []
        ended = [(view, trial) for view, trial in self._trials() if trial.state in ("finished", "pruned")]
        for group in self.groups:
            mine = [trial for view, trial in ended if self._group(view, trial) == group]
            stops = Counter(len(trial.rows) for trial in mine if trial.state == "pruned")
            if not mine:
                continue
            longest = max(trial.config.epochs for trial in mine)
            x = [0, *sorted(stops), longest]
            gone = [sum(n for epoch, n in stops.items() if epoch <= at) for at in x]
            y = [1 - n / len(mine) for n in gone]
            curves.append(Curve(f"{group}: {len(mine)} trials, {gone[-1]} pruned", group, x, y, bold=True))
        if all(trial.state != "pruned" for _, trial in ended):
            return None
        note = "A step down: trials pruned at this epoch. The known points of the baselines are never pruned."
        return Plot(
            "still-training", "Pruning", "epoch", "share still training", curves, note, steps=True, y_range=(0, 1)
        )

    def parallel_coordinates(self, view: SweepView) -> Plot | None:
        """The settings of the finished trials, and the accuracy or objective they reached."""
        finished = [trial for trial in view.trials if trial.state == "finished"]
        if len(finished) < 2:
            return None
        settings = [trial.space.searched_values(trial.config) for trial in finished]
        columns = {name: [one.get(name) for one in settings] for name in dict.fromkeys(n for s in settings for n in s)}
        varied = [name for name, values in columns.items() if len(set(map(str, values))) > 1]
        weight = self.importances
        shown = sorted(varied, key=lambda name: -weight.get(name, 0))[:MOST_AXES]
        varied.sort(key=lambda name: columns[name].count(None))  # settings that every trial has come first
        scales = [Scale.of(name, columns[name], view.sweep.space) for name in varied if name in shown]
        metric = self.objective[0]
        label = metric_name(self.lead if metric == f"val/fused/{self.lead}" else metric)
        reached = [trial.rows[-1][metric] for trial in finished]
        low, high = min(reached), max(reached)
        span = high - low or 1.0
        axes = [*(Axis(scale.name, scale.ticks()) for scale in scales)]
        axes.append(Axis(label, {f"{low:.3f}": 0.0, f"{high:.3f}": 1.0}))

        def heights(i: int) -> list[float]:
            return [*(scale.height(columns[scale.name][i]) for scale in scales), (reached[i] - low) / span]

        curves = [self._curve(view, trial, range(len(axes)), heights(i)) for i, trial in enumerate(finished)]
        note = "Finished trials; thick: the best of each strategy. none: the trial does not have this setting."
        if len(varied) > len(shown):
            note += f" Shows the {len(shown)} most important of {len(varied)} settings; the CSV has all."
        data = pd.DataFrame(
            [
                {"trial": trial.number, "strategy": trial.strategy, **values, label: value}
                for trial, values, value in zip(finished, settings, reached, strict=True)
            ]
        )
        title = f"Settings and {label}"
        return Plot("settings", title, "setting", "value", curves, note, axes=tuple(axes), data=data)

    def _trials(self) -> list[tuple[SweepView, Trial]]:
        return [(view, trial) for view in self.views for trial in view.trials]

    def _group(self, view: SweepView, trial: Trial) -> str:
        return view.name if self.several else trial.strategy

    def _curve(
        self, view: SweepView, trial: Trial, x: Sequence[float], y: Sequence[float], bold: bool | None = None
    ) -> Curve:
        where = f"{view.name}, " if self.several else ""
        how = "" if trial.state == "finished" else f" ({trial.state})"
        name = f"{where}trial {trial.number}, {trial.strategy}, {trial.reached:.3f}{how}"
        thick = (view.name, trial.number) in self.bold if bold is None else bold
        return Curve(name, self._group(view, trial), x, y, thick)


@dataclass(frozen=True)
class Scale:
    """Maps the values of a setting to heights from 0 to 1 on an axis.

    marks: the lowest and highest number, or every value of a setting that is not numerical.
    sometimes: some trials do not have the setting; they lie at 0, below the others.
    """

    name: str
    marks: list[Any]
    numbers: bool
    log: bool
    sometimes: bool

    @classmethod
    def of(cls, name: str, values: Sequence[Any], space: Space) -> Scale:
        """The scale of a setting for the given values; None stands for trials without it."""
        there = [value for value in values if value is not None]
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)
        distribution = space.search.get(name) or space.search.get(name.rpartition(".")[0])
        log = numbers and distribution is not None and distribution.loguniform is not None
        marks = [min(there), max(there)] if numbers else sorted(set(map(str, there)))
        return cls(name, marks, numbers, log, len(there) < len(values))

    def height(self, value: Any) -> float:
        """The height of a value."""
        bottom = 0.14 if self.sometimes else 0.0
        if value is None:
            return 0.0
        if not self.numbers:
            share = self.marks.index(str(value)) / max(1, len(self.marks) - 1)
        else:
            low, high, at = (math.log(v) if self.log else v for v in (*self.marks, value))
            share = (at - low) / (high - low) if high > low else 0.5
        return bottom + (1 - bottom) * share

    def ticks(self) -> dict[str, float]:
        """The tick labels of the axis and their heights."""
        marks = {f"{mark:.3g}" if self.numbers else mark: self.height(mark) for mark in self.marks}
        return {"none": 0.0, **marks} if self.sometimes else marks


def strategies_figure(trials: Sequence[Trial], path: Path) -> None:
    """Writes alpha(t) and the accuracies of the best finished trial of each strategy as a PNG (paper Figure 3)."""
    best = by_strategy(list(trials))
    if not best:
        return
    panels, row = {"alpha": "alpha(t)"}, next(iter(best.values())).rows[-1]
    for name in ("fused", *modalities_of(row)):
        panels[f"val/{name}/{leading(row)}"] = f"{name} {metric_name(leading(row))}, validation"
    # The strategies in the order of the report, so that each has the same colour in both.
    labels = {name: f"{name} (trial {best[name].number})" if name in best else name for name in strategies_in(trials)}
    shares = {name: [row["epoch"] / trial.config.epochs for row in trial.rows] for name, trial in best.items()}
    plots = [
        Plot(
            key,
            title,
            "share of the epochs",
            "",
            [
                Curve(labels[name], labels[name], shares[name], [row[key] for row in trial.rows], bold=True)
                for name, trial in best.items()
            ],
            y_range=None if key.endswith("correlation") else (0, 1),
        )
        for key, title in panels.items()
    ]
    save_panels(plots, list(labels.values()), path)


def strategies_in(trials: Sequence[Trial]) -> list[str]:
    """The strategies of these trials, the baselines first."""
    present = [trial.strategy for trial in trials]
    return [name for name in dict.fromkeys([*BASELINES, *present]) if name in present]


def importances(trials: Sequence[Trial], metric: str, direction: Direction) -> dict[str, float]:
    """Setting -> share of the importance for a metric, the highest first; empty if too few trials have finished."""
    finished = [trial for trial in trials if trial.state == "finished"]
    if len(finished) < ENOUGH or len({trial.rows[-1][metric] for trial in finished}) < 2:
        return {}
    study = optuna.create_study(direction=direction)
    for trial in finished:
        frozen = trial.frozen
        try:
            study.add_trial(
                optuna.create_trial(
                    params=frozen.params, distributions=frozen.distributions, value=trial.rows[-1][metric]
                )
            )
        except ValueError:  # a known point may lie outside the space
            continue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about settings that few trials have; the note mentions it
        found = optuna.importance.get_param_importances(study)
    return {name.removesuffix(".share"): value for name, value in found.items()}


def _rows(trial: Trial, key: str) -> list[Row]:
    return [row for row in trial.rows if math.isfinite(row.get(key, math.nan))]


def _file(name: str) -> str:
    """A modality's name in a form that can be part of a file name."""
    return re.sub(r"[^\w.-]", "_", name)
