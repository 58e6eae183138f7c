"""Tables in the terminal, at most 100 columns wide."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from lfm_ray.models.directions import LEADING, leading
from lfm_ray.report.linear_baselines import LinearBaselines
from lfm_ray.report.numbers import setting
from lfm_ray.runtime.profiling import WARM_UP
from lfm_ray.search.selection import best_of, by_strategy
from lfm_ray.search.spaces.objective import FUSED_ACCURACY, metric_name
from lfm_ray.search.study.arms import JOINT
from lfm_ray.search.sweep import Trial
from lfm_ray.settings import flatten
from lfm_ray.training.trainer import Row

BASELINES = (JOINT, "heuristic", "learned")
OF_EACH = ("accuracy", "map", "macro_f1", "micro_f1", "correlation")  # metrics of each modality, higher is better
TITLES = {
    "accuracy": "accuracy", "map": "MAP", "micro_f1": "micro F1", "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy", "correlation": "correlation", "mae": "MAE", "loss": "loss",
    "calibration_error": "ECE",
}  # fmt: skip
FEW = 4  # modalities, up to which a table has a column for each


def strategy_table(trials: list[Trial], linear: LinearBaselines | None = None) -> Table:
    """alpha = 0, heuristic, learned, the other strategies, and the best of all, on the validation split.

    linear: what linear models reach, shown below where the metric is that of theirs.

    Each row shows the best finished trial of a strategy by the sweep's (first) objective. The metric is
    that of the objective; if modalities do not have it, accuracy, or the metric that leads for other targets, is
    shown in addition to the objective.
    """
    best = by_strategy(trials)
    modalities = modalities_of(next(iter(best.values())).rows[-1]) if best else []
    objective = next(iter(trials[0].space.objective)) if trials else FUSED_ACCURACY
    last = objective.rpartition("/")[2]
    lead = leading(next(iter(best.values())).rows[-1]) if best else LEADING["classes"]
    metric = last if last in OF_EACH else lead
    shown = [f"val/{name}/{metric}" for name in ("fused", *modalities)]
    others = [objective] if objective not in (*shown, f"val/{lead}_gap") else []
    by = "" if objective == shown[0] else f" by {metric_name(objective)}"
    table = Table(title=f"best trial of each strategy{by}, validation {metric_name(metric)}", title_justify="left")
    table.add_column("strategy", no_wrap=True)
    few = len(modalities) <= FEW
    columns = [*(modalities if few else ("worst", "best")), "gap", *(metric_name(name) for name in others), "trial"]
    for name in ("trials", "epochs", "fused", *columns):
        table.add_column(name, justify="right", no_wrap=name == "fused")

    def row_of(label: str, mine: list[Trial], trial: Trial | None, style: str | None = None) -> None:
        epochs = sum(one.trained for one in mine)
        table.add_row(label, str(len(mine)), str(epochs), *_numbers(trial, shown, others, few), style=style)

    without = dict.fromkeys(trial.strategy for trial in trials if trial.strategy not in best)  # all were stopped early
    for name in dict.fromkeys([*BASELINES, *without, *best]):
        row_of(name, [trial for trial in trials if trial.strategy == name], best.get(name))
    table.add_section()
    found = best_of(trials)
    row_of(f"best found: {found.strategy}" if found else "best found", trials, found, style="bold")
    if linear and metric == lead and modalities:
        known = [linear.unimodal[name] for name in modalities if name in linear.unimodal]
        cells = [f"{linear.unimodal[name]:.3f}" if name in linear.unimodal else "-" for name in modalities]
        gap = f"{max(known) - min(known):.3f}" if known else "-"
        fused = f"{linear.together:.3f}" if len(known) == len(linear.unimodal) else "-"
        cells = cells if few else _ends({name: linear.unimodal[name] for name in modalities if name in linear.unimodal})
        table.add_row("linear models", "", "", fused, *cells, gap, *("-" for _ in others), "-", style="dim")
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


def _numbers(trial: Trial | None, shown: list[str], others: list[str], few: bool) -> list[str]:
    """The cells of a trial: the metrics `shown` (fused first), the gap between the rest, `others`, its number.

    few: whether all modalities are shown; if not, the worst and the best of them are, with their names.
    """
    if trial is None:
        return ["-"] * ((len(shown) if few else 3) + len(others) + 2)
    row = trial.rows[-1]
    fused, *values = (row[name] for name in shown)
    named = {name.split("/")[1]: value for name, value in zip(shown[1:], values, strict=True)}
    cells = [f"{value:.3f}" for value in values] if few else _ends(named)
    rest = [max(values) - min(values), *(row[name] for name in others)]
    return [f"{fused:.3f}", *cells, *(f"{value:.3f}" for value in rest), str(trial.number)]


def _ends(values: dict[str, float]) -> list[str]:
    """The lowest and the highest value, each with its name."""
    if not values:
        return ["-", "-"]
    ordered = sorted(values, key=lambda name: values[name])
    return [f"{values[name]:.3f} {name}" for name in (ordered[0], ordered[-1])]


def modalities_of(row: Row) -> list[str]:
    """The modalities that a row of metrics is about."""
    end = f"/{leading(row)}"
    names = [key.removeprefix("val/").removesuffix(end) for key in row if key.startswith("val/") and key.endswith(end)]
    return [name for name in names if name != "fused"]


def unimodal_scores(row: Row) -> dict[str, float]:
    """The validation accuracy of each modality, or what leads for other targets."""
    return {name: row[f"val/{name}/{leading(row)}"] for name in modalities_of(row)}


def metrics_table(row: Row, split: str = "val") -> Table:
    """The metrics of an epoch, such as accuracy, MAP, macro F1 and balanced accuracy, fused and for each modality."""
    table = Table(title=f"epoch {row['epoch']}, split {split}", title_justify="left")
    table.add_column("")
    shown = {key: title for key, title in TITLES.items() if f"{split}/fused/{key}" in row}
    for title in shown.values():
        table.add_column(title, justify="right")
    for name in ("fused", *modalities_of(row)):
        table.add_row(name, *(f"{row[f'{split}/{name}/{metric}']:.3f}" for metric in shown))
    table.add_section()
    lead = leading(row, split)
    table.add_row(f"{TITLES[lead]} gap", f"{row[f'{split}/{lead}_gap']:.3f}")
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
