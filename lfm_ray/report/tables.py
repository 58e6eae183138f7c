"""Tables in the terminal, at most 100 columns wide."""

from __future__ import annotations

from rich.table import Table

from lfm_ray.loop import Row
from lfm_ray.search.sweep import Trial, best_of, by_strategy
from lfm_ray.settings import flatten

BASELINES = ("alpha = 0", "heuristic", "learned")


def strategy_table(trials: list[Trial], metric: str = "accuracy") -> Table:
    """alpha = 0, heuristic, learned, the other strategies, and the best found, on the validation split.

    A row is the best finished trial of its strategy.
    """
    best = by_strategy(trials)
    modalities = _modalities(next(iter(best.values())).rows[-1]) if best else []
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
        if name in values:
            table.add_row(name, _short(values[name]))
    return table


def _numbers(trial: Trial | None, modalities: list[str], metric: str) -> list[str]:
    if trial is None:
        return ["-"] * (len(modalities) + 3)
    row = trial.rows[-1]
    values = [row[f"val/{name}/{metric}"] for name in ("fused", *modalities)]
    return [f"{value:.3f}" for value in [*values, max(values[1:]) - min(values[1:])]] + [str(trial.number)]


def _modalities(row: Row) -> list[str]:
    names = [key.split("/")[1] for key in row if key.startswith("val/") and key.endswith("/accuracy")]
    return [name for name in names if name != "fused"]


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + ", ".join(_short(entry) for entry in value) + "]"
    return str(value)
