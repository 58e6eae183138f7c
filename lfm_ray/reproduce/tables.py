"""The paper's tables for any dataset: statistics over seeds, ranks and significance of equally tuned methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.report.cells import measured
from lfm_ray.report.cost_cells import cost_columns
from lfm_ray.report.numbers import p_value, setting, spread
from lfm_ray.report.statistics import holm, paired
from lfm_ray.reproduce.plan import CONCAT
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.sweep import Trial
from lfm_ray.settings import flatten
from lfm_ray.training.run_folder import read_epochs


def paper_frame(best: Mapping[str, Trial], folders: Mapping[str, Sequence[Path]], seeds: Sequence[int]) -> pd.DataFrame:
    """A row per confirmation run: the table's row, trial, validation accuracy, seed, seconds, metrics, costs."""
    return pd.DataFrame(
        [
            {"row": row, "trial": best[row].number, "selected_by": best[row].reached, "seed": seed}
            | {"seconds_an_epoch": float(np.median([epoch["seconds"] for epoch in epochs]))}
            | {key: value for key, value in epochs[-1].items() if "/" in key}
            | cost_columns(run)
            for row, runs in folders.items()
            for seed, run in zip(seeds, runs, strict=True)
            for epochs in [read_epochs(run)]
        ]
    )


def summary(frame: pd.DataFrame, split: str, second: str, baseline: str = CONCAT) -> pd.DataFrame:
    """One line per row of the table, in its order; values over seeds, in per cent.

    accuracy, std, `second` (map or macro_f1), each modality's accuracy, gap, rank (by accuracy, mean over
    seeds; 1 is best), minus concat (mean difference from the baseline, paired by seed; named after the
    baseline), p (two-sided paired t-test against it, Holm-corrected over all rows), and seconds per epoch.
    """
    accuracy = frame.pivot(index="seed", columns="row", values=f"{split}/fused/accuracy")
    ranks = accuracy.rank(axis=1, ascending=False).mean()
    others = [row for row in frame["row"].unique() if row != baseline] if baseline in accuracy else []
    tests = {row: paired(accuracy[row].to_numpy(), accuracy[baseline].to_numpy()) for row in others}
    p = dict(zip(others, holm([test.p_t for test in tests.values()]), strict=True))
    lines = []
    for row, group in frame.groupby("row", sort=False):
        values = 100 * group[f"{split}/fused/accuracy"]
        line = {"row": row, "accuracy": values.mean(), "std": values.std()}
        line[second] = 100 * group[f"{split}/fused/{second}"].mean()
        line |= {name: 100 * group[f"{split}/{name}/accuracy"].mean() for name in modalities_in(frame, split)}
        line |= {"gap": 100 * group[f"{split}/accuracy_gap"].mean(), "rank": ranks[row]}
        minus = 100 * tests[row].difference if row in tests else np.nan
        line |= {f"minus {baseline.lower()}": minus, "p": p.get(row, np.nan)}
        line["seconds"] = group["seconds_an_epoch"].median()
        lines.append(line)
    return pd.DataFrame(lines)


def friedman(frame: pd.DataFrame, split: str) -> float:
    """The p-value of Friedman's test that all rows are equal, with seeds as blocks; nan below 3 rows or 2 seeds."""
    from scipy import stats

    accuracy = frame.pivot(index="seed", columns="row", values=f"{split}/fused/accuracy")
    if accuracy.shape[0] < 2 or accuracy.shape[1] < 3:
        return float("nan")
    return float(stats.friedmanchisquare(*(accuracy[row].to_numpy() for row in accuracy)).pvalue)


def cells(figures: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The summary as text, with a line of dashes for each row of `order` that was left out."""
    shown = figures.set_index("row")
    lines = []
    for row in order:
        line = {"method": row} | {_label(name): "-" for name in shown.columns if name != "std"}
        if row in shown.index:
            values = shown.loc[row]
            line |= {_label(name): _text(name, values[name]) for name in shown.columns if name != "std"}
            line["ACC"] = spread(values["accuracy"], values["std"])
        lines.append(line)
    return pd.DataFrame(lines)


def paper_table(title: str, shown: pd.DataFrame) -> Table:
    """A table for the terminal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        wraps = name == "method" or shown[name].str.contains(" / ").any()
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=not wraps)
    for line in shown.itertuples(index=False):
        table.add_row(*line)
    return table


def settings_cells(best: Mapping[str, Trial], spaces: Mapping[str, Space]) -> pd.DataFrame:
    """The searched settings of each row's best trial."""
    lines = []
    for row, trial in best.items():
        values = flatten(trial.config.model_dump(mode="json"))
        searched = [name for name in spaces[row].searched_in(trial.config) if name in values]
        settings = ", ".join(f"{name}={setting(values[name], digits=3)}" for name in searched)
        lines.append({"method": row, "trial": str(trial.number), "settings": settings})
    return pd.DataFrame(lines)


def second_metric(card: DatasetCard, frame: pd.DataFrame, split: str) -> str:
    """MAP on data with sound, where the paper reports MAP; else macro F1. frame: of `paper_frame`."""
    kinds = [card.modalities[name].kind for name in modalities_in(frame, split)]
    return "map" if "audio" in kinds else "macro_f1"


def modalities_in(frame: pd.DataFrame, split: str) -> list[str]:
    """The modalities whose accuracies on a split are in a frame of runs."""
    return [name for name in measured(frame, split) if name != "fused"]


def _label(name: str) -> str:
    if name.startswith("minus "):
        return f"- {name.removeprefix('minus ')}"
    return {"accuracy": "ACC", "map": "MAP", "macro_f1": "F1", "p": "p Holm"}.get(name, name)


def _text(name: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    if name == "p":
        return p_value(value)
    return f"{value:+.1f}" if name.startswith("minus ") else f"{value:.2f}" if name == "seconds" else f"{value:.1f}"
