"""The tables of the report's page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lfm_ray.report import confirmation
from lfm_ray.report.cost_cells import cost_columns
from lfm_ray.report.measure_tables import measure_tables, note_of
from lfm_ray.report.numbers import decimal, setting
from lfm_ray.report.sweep_view import SweepView, shared_objective
from lfm_ray.report.tables import BASELINES
from lfm_ray.search.selection import by_strategy, ranked
from lfm_ray.search.spaces.objective import metric_name, signed
from lfm_ray.search.sweep import Trial, trial_folder
from lfm_ray.settings import flatten
from lfm_ray.training.trainer import Row

ENDED = ("finished", "pruned", "failed")


@dataclass(frozen=True)
class Table:
    """A table of the page, with cells as text. texts: columns that hold no numbers; best: the row to highlight."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    texts: frozenset[str] = frozenset()
    best: int | None = None
    note: str = ""


def strategy_frame(views: Sequence[SweepView]) -> pd.DataFrame:
    """One row per strategy and sweep, sorted by the sweeps' objective, the best last.

    The accuracies, gaps, objective and `best trial` are those of the strategy's best finished trial; mean and
    std are taken over the fused accuracies of all its finished trials.
    """
    metric, direction = shared_objective(views)
    lead = views[0].lead
    rows: list[tuple[tuple[float, ...], dict[str, Any]]] = []
    for view in views:
        best = by_strategy(view.trials)
        names = list(dict.fromkeys([*BASELINES, *(trial.strategy for trial in view.trials)]))
        for name in sorted((n for n in names if any(t.strategy == n for t in view.trials)), key=lambda n: n in best):
            mine = [trial for trial in view.trials if trial.strategy == name]
            states = Counter(trial.state for trial in mine)
            accuracies = pd.Series([trial.reached for trial in mine if trial.state == "finished"], dtype=float)
            last: Row = best[name].rows[-1] if name in best else {}
            shown = (
                f"val/{lead}_gap",
                "val/modality_gap",
                *(f"val/{other}/{lead}" for other in ("fused", *view.modalities)),
            )
            own = {} if metric in shown else {metric_name(metric): last.get(metric, math.nan)}
            merit: tuple[float, ...] = (-math.inf,)
            if metric in last:
                merit = -best[name].violation, *signed({metric: direction}, last), -last["val/fused/loss"]
            row = (
                {"sweep": view.name, "strategy": name, **own}
                | {other: last.get(f"val/{other}/{lead}", math.nan) for other in ("fused", *view.modalities)}
                | {
                    "gap": last.get(f"val/{lead}_gap", math.nan),
                    "modality gap": last.get("val/modality_gap", math.nan),
                }
                | {"mean": accuracies.mean(), "std": accuracies.std()}
                | {"best trial": best[name].number if name in best else None, "trials": len(mine)}
                | {"epochs": sum(trial.trained for trial in mine)}
                | {state: states[state] for state in ENDED}
            )
            rows.append((merit, row))
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda pair: pair[0])])


def strategy_table(frame: pd.DataFrame, views: Sequence[SweepView]) -> Table:
    """`strategy_frame` as a table of the page, the best first; last, what linear models reach on the data."""
    if frame.empty:
        return Table("strategies", "", [], [])
    frame = frame[::-1]
    if frame["sweep"].nunique() == 1:
        frame = frame.drop(columns="sweep")
    if not frame["failed"].any():
        frame = frame.drop(columns="failed")
    decimals = [column for column in frame if frame[column].dtype == float and column != "best trial"]
    rows = [
        [decimal(value) if column in decimals else _cell(value) for column, value in row.items()]
        for _, row in frame.iterrows()
    ]
    if views[0].linear and len({view.sweep.file.fingerprint for view in views}) == 1:
        linear = views[0].linear
        cells = {"strategy": "linear models", "fused": decimal(linear.together)}
        cells |= {name: decimal(accuracy) for name, accuracy in linear.unimodal.items()}
        rows.append([cells.get(column, "-") for column in frame])
    note = (
        f"Validation {metric_name(views[0].lead)} of the best finished trial of each strategy, fused and for each"
        " modality alone. gap: difference between the best and the worst modality; modality gap: distance between the"
        " centroids of their embeddings; mean and std: of the fusion, over all finished trials of the strategy, each"
        " with its own settings. linear models: of simple features (prepare --inspect)."
    )
    best = 0 if frame["fused"].notna().any() else None
    return Table("strategies", "Strategies", list(frame), rows, frozenset({"sweep", "strategy"}), best, note)


def measured_tables(views: Sequence[SweepView]) -> list[Table]:
    """Imbalance, calibration and costs of the best finished trial of each strategy, the best first."""
    groups = [
        (
            {**({"sweep": view.name} if len(views) > 1 else {}), "strategy": name},
            pd.DataFrame([{**trial.rows[-1], **cost_columns(trial_folder(view.sweep.folder, trial.number))}]),
        )
        for view in views
        for name, trial in reversed(by_strategy(view.trials).items())
    ]
    return [
        _measure_table(f"measures-{i}", title, cells)
        for i, (title, cells) in enumerate(measure_tables(groups, "val").items())
    ]


def _measure_table(name: str, title: str, cells: pd.DataFrame) -> Table:
    texts = frozenset({"sweep", "strategy", "minus"})
    return Table(name, title, list(cells), cells.to_numpy().tolist(), texts, note=note_of(title))


def confirmed_tables(view: SweepView) -> list[Table]:
    """The results of `lfm_ray.confirm`: statistics over seeds, and comparisons with the baselines."""
    note = "Settings were chosen on the validation split; produced by python -m lfm_ray.confirm."
    return [
        Table(
            f"confirmed-{split}-{i}",
            title[0].upper() + title[1:],
            list(cells),
            cells.to_numpy().tolist(),
            frozenset({"sweep", "strategy", "minus"}),
            note=note if i == 0 else note_of(title),
        )
        for split, frame in view.confirmed[0]
        for i, (title, cells) in enumerate(confirmation.tables(frame, split, view.sweep.space.objective).items())
    ]


def best_trials(view: SweepView, top: int = 10) -> Table:
    """The best finished trials with their searched settings."""
    finished = ranked(view.trials)
    shown = finished[:top]
    values = [trial.space.searched_values(trial.config) for trial in shown]
    settings = [name for name in dict.fromkeys(n for one in values for n in one) if name != "alpha.strategy"]
    settings.sort(key=lambda name: sum(name not in one for one in values))  # settings that every trial has come first
    rows = [
        [str(trial.number), trial.strategy, f"{trial.reached:.3f}", f"{trial.rows[-1][f'val/{view.lead}_gap']:.3f}"]
        + [_setting(one.get(name)) for name in settings]
        for trial, one in zip(shown, values, strict=True)
    ]
    columns = ["trial", "strategy", "fused", "gap", *settings]
    if view.objective not in (f"val/fused/{view.lead}", f"val/{view.lead}_gap"):
        columns.insert(2, metric_name(view.objective))
        for row, trial in zip(rows, shown, strict=True):
            row.insert(2, f"{trial.rows[-1][view.objective]:.3f}")
    return Table("best-trials", "The best trials", columns, rows, frozenset({"strategy"}))


def pruned_table(view: SweepView) -> Table:
    """How many trials of each strategy were pruned at each epoch."""
    pruned = [trial for trial in view.trials if trial.state == "pruned"]
    epochs = sorted({len(trial.rows) for trial in pruned})
    rows = []
    for name in dict.fromkeys(trial.strategy for trial in view.trials):
        mine = [trial for trial in view.trials if trial.strategy == name]
        stops = Counter(len(trial.rows) for trial in mine if trial.state == "pruned")
        rows.append([name, str(len(mine)), str(sum(stops.values())), *(str(stops[epoch]) for epoch in epochs)])
    by = view.sweep.space.pruning.by
    return Table(
        "pruned",
        f"Pruned trials, by {by}",
        ["strategy", "trials", "pruned", *(f"at epoch {epoch}" for epoch in epochs)],
        rows if pruned else [],
        frozenset({"strategy"}),
    )


def failed_table(views: Sequence[SweepView]) -> Table:
    """Why trials failed: one row per sweep and reason, the most frequent first."""
    reasons: dict[tuple[str, str], list[Trial]] = {}
    for view in views:
        for trial in view.trials:
            if trial.state == "failed":
                reasons.setdefault((view.name, trial.reason), []).append(trial)
    rows = []
    for (sweep, reason), trials in sorted(reasons.items(), key=lambda item: -len(item[1])):
        numbers = ", ".join(str(trial.number) for trial in trials[:8]) + (", ..." if len(trials) > 8 else "")
        strategies = ", ".join(dict.fromkeys(trial.strategy for trial in trials))
        rows.append([sweep, str(len(trials)), numbers, strategies, reason][len(views) == 1 :])
    columns = ["sweep", "failed", "trials", "strategies", "reason"][len(views) == 1 :]
    return Table("failed", "Failures", columns, rows, frozenset(columns) - {"failed"})


def differences(views: Sequence[SweepView]) -> Table:
    """The cost and results of several sweeps, and the fixed settings in which they differ."""
    if len(views) < 2:
        return Table("differences", "", [], [])
    bases = [flatten(view.sweep.space.base.model_dump(mode="json")) for view in views]
    rows = [
        ["trials", *(str(len(view.trials)) for view in views)],
        ["epochs spent", *(f"{view.epochs:,}" for view in views)],
        [
            f"best fused {metric_name(views[0].lead)}",
            *(decimal(view.best.reached if view.best else math.nan) for view in views),
        ],
        ["its strategy", *(view.best.strategy if view.best else "-" for view in views)],
        ["seed of the search", *(str(view.sweep.file.seed) for view in views)],
    ]
    for name in dict.fromkeys(name for base in bases for name in base):
        values = [
            "searched" if name in view.sweep.space.search else _setting(base.get(name))
            for view, base in zip(views, bases, strict=True)
        ]
        if len(set(values)) > 1:
            rows.append([name, *values])
    names = [view.name for view in views]
    return Table("differences", "What the sweeps spent, and where they differ", ["", *names], rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else str(int(value))
    return "-" if value is None else str(value)


def _setting(value: Any) -> str:
    return str(value) if isinstance(value, list) else setting(value, none="-")
