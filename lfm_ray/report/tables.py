"""Tables in the terminal, at most 100 columns wide."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from lfm_ray.report.linear_baselines import LinearBaselines
from lfm_ray.report.numbers import setting
from lfm_ray.runtime.profiling import WARM_UP
from lfm_ray.search.selection import best_of, by_strategy
from lfm_ray.search.spaces.objective import FUSED_ACCURACY, metric_name
from lfm_ray.search.sweep import Trial
from lfm_ray.settings import flatten
from lfm_ray.training.trainer import Row

BASELINES = ("alpha = 0", "heuristic", "learned")


def strategy_table(trials: list[Trial], linear: LinearBaselines | None = None) -> Table:
    """alpha = 0, heuristic, learned, the other strategies, and the best of all, on the validation split.

    linear: what linear models reach, shown below where the metric is accuracy.

    Each row shows the best finished trial of a strategy by the sweep's (first) objective. The metric is
    that of the objective; if modalities do not have it, accuracy is shown in addition to the objective.
    """
    best = by_strategy(trials)
    modalities = modalities_of(next(iter(best.values())).rows[-1]) if best else []
    objective = next(iter(trials[0].space.objective)) if trials else FUSED_ACCURACY
    last = objective.rpartition("/")[2]
    metric = last if last in ("accuracy", "map", "macro_f1") else "accuracy"
    shown = [f"val/{name}/{metric}" for name in ("fused", *modalities)]
    others = [objective] if objective not in (*shown, "val/accuracy_gap") else []
    by = "" if objective == shown[0] else f" by {metric_name(objective)}"
    table = Table(title=f"best trial of each strategy{by}, validation {metric_name(metric)}", title_justify="left")
    table.add_column("strategy", no_wrap=True)
    table.add_column("trials", justify="right")
    for name in ("fused", *modalities, "gap", *(metric_name(name) for name in others)):
        table.add_column(name, justify="right")
    table.add_column("trial", justify="right")
    for name in [*BASELINES, *(name for name in best if name not in BASELINES)]:
        count = sum(trial.strategy == name for trial in trials)
        table.add_row(name, str(count), *_numbers(best.get(name), shown, others))
    table.add_section()
    found = best_of(trials)
    label = f"best found: {found.strategy}" if found else "best found"
    table.add_row(label, str(len(trials)), *_numbers(found, shown, others), style="bold")
    if linear and metric == "accuracy" and modalities:
        known = [linear.unimodal[name] for name in modalities if name in linear.unimodal]
        cells = [f"{linear.unimodal[name]:.3f}" if name in linear.unimodal else "-" for name in modalities]
        gap = f"{max(known) - min(known):.3f}" if known else "-"
        fused = f"{linear.together:.3f}" if len(known) == len(linear.unimodal) else "-"
        table.add_row("linear models", "", fused, *cells, gap, *("-" for _ in others), "-", style="dim")
    return table


def front_table(trials: list[Trial], front: list[int]) -> Table:
    """The Pareto front of a sweep with several objectives: trials `front`, sorted by the first objective."""
    chosen = sorted((trial for trial in trials if trial.number in front), key=lambda trial: trial.score, reverse=True)
    title = "Pareto front, validation split: trials that none beats in one objective without losing in another"
    table = Table(title=title, title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("strategy", no_wrap=True)
    objective = trials[0].space.objective
    for name in objective:
        table.add_column(metric_name(name), justify="right")
    for trial in chosen:
        table.add_row(str(trial.number), trial.strategy, *(f"{trial.rows[-1][name]:.3f}" for name in objective))
    return table


def settings_table(trial: Trial, searched: list[str]) -> Table:
    """The searched settings of a trial."""
    values = flatten(trial.config.model_dump(mode="json"))
    table = Table(title=f"settings of trial {trial.number}", title_justify="left", show_header=False)
    for name in searched:
        table.add_row(name, setting(values[name]))
    return table


def _numbers(trial: Trial | None, shown: list[str], others: list[str]) -> list[str]:
    """The cells of a trial: the metrics `shown` (fused first), the gap between the rest, `others`, its number."""
    if trial is None:
        return ["-"] * (len(shown) + len(others) + 2)
    values = [trial.rows[-1][name] for name in shown]
    values += [max(values[1:]) - min(values[1:]), *(trial.rows[-1][name] for name in others)]
    return [*(f"{value:.3f}" for value in values), str(trial.number)]


def modalities_of(row: Row) -> list[str]:
    """The modalities that a row of metrics has an accuracy for."""
    ends = [key for key in row if key.startswith("val/") and key.endswith("/accuracy")]
    names = [key.removeprefix("val/").removesuffix("/accuracy") for key in ends]
    return [name for name in names if name != "fused"]


def unimodal_accuracies(row: Row) -> dict[str, float]:
    """The validation accuracy of each modality."""
    return {name: row[f"val/{name}/accuracy"] for name in modalities_of(row)}


def metrics_table(row: Row, split: str = "val") -> Table:
    """Accuracy, MAP, macro F1, balanced accuracy, NLL and calibration error of an epoch, fused and by modality."""
    table = Table(title=f"epoch {row['epoch']}, split {split}", title_justify="left")
    table.add_column("")
    shown = {"accuracy": "accuracy", "map": "MAP", "macro_f1": "macro F1", "balanced_accuracy": "balanced accuracy"}
    shown |= {"loss": "NLL", "calibration_error": "ECE"}
    shown = {key: title for key, title in shown.items() if f"{split}/fused/{key}" in row}  # earlier runs lack some
    for title in shown.values():
        table.add_column(title, justify="right")
    for name in ("fused", *modalities_of(row)):
        table.add_row(name, *(f"{row[f'{split}/{name}/{metric}']:.3f}" for metric in shown))
    table.add_section()
    table.add_row("accuracy gap", f"{row[f'{split}/accuracy_gap']:.3f}")
    return table


def profile_table(summary: dict[str, Any]) -> Table:
    """Where the time of a training step goes, from `Profile.summary`."""
    steps, seconds = summary["steps"], summary["seconds"]
    if not steps:
        return Table(
            title=f"no step was profiled: the run ended within the {WARM_UP} warm-up steps",
            title_justify="left",
        )
    speed = f"{1000 * seconds / steps:.3g} ms each, {summary['samples'] / seconds:.3g} samples/s"
    table = Table(title=f"{steps} steps: {speed}", title_justify="left")
    table.add_column("part")
    table.add_column("ms per step", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    for name, its in summary["parts"].items():
        share = its / seconds
        table.add_row(name, f"{1000 * its / steps:.3g}", f"{share:.1%}", "█" * round(30 * share))
    return table
