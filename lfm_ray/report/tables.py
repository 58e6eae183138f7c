"""Tables in the terminal, at most 100 columns wide."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from rich.table import Table

from lfm_ray.launch import read_epochs
from lfm_ray.run import Row
from lfm_ray.search.selection import best_of, by_strategy
from lfm_ray.search.sweep import Sweep, Trial
from lfm_ray.settings import flatten

BASELINES = ("alpha = 0", "heuristic", "learned")


def strategy_table(trials: list[Trial], metric: str = "accuracy") -> Table:
    """alpha = 0, heuristic, learned, the other strategies, and the best found, on the validation split.

    A row is the best finished trial of its strategy.
    """
    best = by_strategy(trials)
    modalities = modalities_of(next(iter(best.values())).rows[-1]) if best else []
    table = Table(title=f"best trial of each strategy, validation {metric}", title_justify="left")
    table.add_column("strategy", no_wrap=True)
    table.add_column("trials", justify="right")
    for name in ("fused", *modalities, "gap"):
        table.add_column(name, justify="right")
    table.add_column("trial", justify="right")
    for name in [*BASELINES, *(name for name in best if name not in BASELINES)]:
        count = sum(trial.strategy == name for trial in trials)
        table.add_row(name, str(count), *_numbers(best.get(name), modalities, metric))
    table.add_section()
    found = best_of(trials)
    label = f"best found: {found.strategy}" if found else "best found"
    table.add_row(label, str(len(trials)), *_numbers(found, modalities, metric), style="bold")
    return table


def settings_table(trial: Trial, searched: list[str]) -> Table:
    """The searched settings of a trial."""
    values = flatten(trial.config.model_dump(mode="json"))
    table = Table(title=f"settings of trial {trial.number}", title_justify="left", show_header=False)
    for name in searched:
        table.add_row(name, _short(values[name]))
    return table


def _numbers(trial: Trial | None, modalities: list[str], metric: str) -> list[str]:
    if trial is None:
        return ["-"] * (len(modalities) + 3)
    row = trial.rows[-1]
    values = [row[f"val/{name}/{metric}"] for name in ("fused", *modalities)]
    return [f"{value:.3f}" for value in [*values, max(values[1:]) - min(values[1:])]] + [str(trial.number)]


def modalities_of(row: Row) -> list[str]:
    """The names of the modalities that a row of metrics tells of."""
    names = [key.split("/")[1] for key in row if key.startswith("val/") and key.endswith("/accuracy")]
    return [name for name in names if name != "fused"]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(_short(entry) for entry in value) + "]"
    return str(value)


def metrics_table(row: Row, split: str = "val") -> Table:
    """The metrics of one run's last epoch: accuracy, MAP and macro F1 of the fusion and each modality."""
    table = Table(title=f"epoch {row['epoch']}, split {split}", title_justify="left")
    table.add_column("")
    for metric in ("accuracy", "MAP", "macro F1"):
        table.add_column(metric, justify="right")
    for name in ("fused", *modalities_of(row)):
        table.add_row(name, *(f"{row[f'{split}/{name}/{metric}']:.3f}" for metric in ("accuracy", "map", "macro_f1")))
    table.add_section()
    table.add_row("accuracy gap", f"{row[f'{split}/accuracy_gap']:.3f}", "", "")
    return table


def confirm_frame(groups: list[tuple[Sweep, Trial, list[Path]]], seeds: list[int]) -> pd.DataFrame:
    """One row for each confirming run: sweep, trial, strategy, validation accuracy, seed, metrics.

    groups: a trial with the folders of its runs, one for each seed.
    """
    return pd.DataFrame(
        [
            {
                "sweep": sweep.folder.name,
                "trial": trial.number,
                "strategy": trial.strategy,
                "selected_by": trial.accuracy,
            }
            | {"seed": seed}
            | read_epochs(folder)[-1]
            for sweep, trial, folders in groups
            for seed, folder in zip(seeds, folders, strict=True)
        ]
    )


def confirm_table(frame: pd.DataFrame, split: str = "test") -> Table:
    """Mean and standard deviation over seeds on a split, best validation accuracy last.

    All in per cent. The last column is the mean over seeds of the difference in fused accuracy from
    the best alpha = 0, with its standard deviation.
    """
    modalities = [key.split("/")[1] for key in frame if key.startswith(f"{split}/") and key.endswith("/accuracy")]
    table = Table(title=f"{split} accuracy in %, mean ± std over {frame['seed'].nunique()} seeds", title_justify="left")
    table.add_column("sweep", overflow="fold")
    table.add_column("trial", justify="right")
    table.add_column("strategy", no_wrap=True)
    for name in (*modalities, "gap", "beats alpha = 0 by"):
        table.add_column(name, justify="right", no_wrap=name in modalities)
    groups = sorted(frame.groupby(["sweep", "trial"]), key=lambda item: item[1]["selected_by"].iloc[0])
    joint = [group for _, group in groups if group["strategy"].iloc[0] == "alpha = 0"]
    for _, group in groups:
        values = [_spread(group[f"{split}/{name}/accuracy"]) for name in modalities]
        gap = f"{100 * group[f'{split}/accuracy_gap'].mean():.1f}"
        difference = "-"
        if joint and group is not joint[-1]:
            ours, theirs = (one.set_index("seed")[f"{split}/fused/accuracy"] for one in (group, joint[-1]))
            difference = _spread(ours - theirs, "+")
        first = group.iloc[0]
        table.add_row(str(first["sweep"]), str(first["trial"]), str(first["strategy"]), *values, gap, difference)
    return table


def _spread(values: pd.Series[float], sign: str = "") -> str:
    return f"{100 * values.mean():{sign}.1f} ± {100 * values.std():.1f}"
