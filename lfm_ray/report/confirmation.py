"""The results of `lfm_ray.confirm`: statistics over seeds, and each configuration compared with the baselines."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from lfm_ray.checksums import sum_of
from lfm_ray.errors import UserError
from lfm_ray.files import write_atomically
from lfm_ray.models.directions import leading
from lfm_ray.report.cells import latex, markdown, measured
from lfm_ray.report.cost_cells import cost_columns
from lfm_ray.report.measure_tables import measure_tables, note_of
from lfm_ray.report.numbers import p_value, spread
from lfm_ray.report.statistics import holm, interval, paired
from lfm_ray.search.spaces.objective import FUSED_ACCURACY, metric_name
from lfm_ray.search.study.arms import COMPARED, JOINT
from lfm_ray.search.sweep import Sweep, Trial
from lfm_ray.training.run_folder import read_confusions, read_epochs

# Metrics shown in per cent.
PER_CENT = (
    "accuracy", "map", "macro_f1", "micro_f1", "balanced_accuracy", "worst_class_accuracy", "accuracy_gap", "map_gap",
    "unimodal_accuracy", "unimodal_map", "probe_map", "shapley", "shapley_gap", "preferred", "missing_accuracy",
    "calibration_error",
)  # fmt: skip
ACCURACY_ALONE = (FUSED_ACCURACY,)
BESIDE = {"accuracy": (), "map": ("fused/micro_f1", "fused/macro_f1"), "correlation": ("fused/mae",)}
"""Leading metric -> others that tables show with it; the balanced accuracy is shown as `balanced`."""


@dataclass(frozen=True)
class Confirmed:
    """A trial that was retrained with other seeds.

    selected_by: its (first) objective on the validation split, larger is better; folders: those of
    its runs, one per seed.
    """

    sweep: Sweep
    trial: Trial
    selected_by: float
    folders: list[Path]


def confirm_frame(confirmed: list[Confirmed], seeds: list[int]) -> pd.DataFrame:
    """One row per confirmation run: sweep, trial, strategy, selected_by, seed, metrics, costs."""
    return pd.DataFrame(
        [
            {"sweep": one.sweep.folder.name, "trial": one.trial.number, "strategy": one.trial.strategy}
            | {"selected_by": one.selected_by, "seed": seed}
            | read_epochs(folder)[-1]
            | cost_columns(folder)
            for one in confirmed
            for seed, folder in zip(seeds, one.folders, strict=True)
        ]
    )


def summary(frame: pd.DataFrame, split: str = "test", objective: Iterable[str] = ACCURACY_ALONE) -> pd.DataFrame:
    """One row per configuration, the best on the validation split last; accuracies in per cent.

    Over seeds: mean, standard deviation and 95 % interval of the fused accuracy; mean and standard
    deviation of each modality's accuracy and of the metrics of the objective; the mean accuracy gap, and the
    mean balanced accuracy of the fusion. Of other targets, MAP or the correlation takes the accuracy's place, beside
    F1 or the MAE.
    """
    rows, lead = [], leading(frame, split)
    for group in _groups(frame):
        row: dict[str, object] = dict(group.iloc[0][["sweep", "trial", "strategy"]])
        for name in measured(frame, split):
            values = _scale(lead) * group[f"{split}/{name}/{lead}"]
            row |= {name: values.mean(), f"{name} std": values.std()}
            if name == "fused":
                row["low"], row["high"] = interval(values.to_numpy())
        row["gap"] = _scale(lead) * group[f"{split}/{lead}_gap"].mean()
        if (balanced := f"{split}/fused/balanced_accuracy") in group:  # earlier runs have none
            row["balanced"] = 100 * group[balanced].mean()
        for metric in _further(lead, objective):
            values = _scale(metric) * group[f"{split}/{metric}"]
            row |= {metric: values.mean(), f"{metric} std": values.std()}
        rows.append(row)
    return pd.DataFrame(rows)


def comparisons(frame: pd.DataFrame, split: str = "test", objective: Iterable[str] = ACCURACY_ALONE) -> pd.DataFrame:
    """Each configuration minus each baseline, paired by seed, in fused accuracy and the metrics of the objective.

    In percentage points, except for losses and the modality gap. The baselines are alpha = 0 and the
    heuristic with the best results on the validation split; the heuristic is itself compared with
    alpha = 0. `p_holm` is the p-value of the t-test, corrected for all comparisons in this table.
    """
    groups = _groups(frame)
    strategies = [str(group["strategy"].iloc[0]) for group in groups]
    best = {name: groups[len(groups) - 1 - strategies[::-1].index(name)] for name in COMPARED if name in strategies}
    rows: list[dict[str, object]] = []
    compared = [
        (metric, name, group)
        for metric in _metrics(leading(frame, split), objective)
        for name in best
        for group, strategy in zip(groups, strategies, strict=True)
        if strategy not in COMPARED or (name == JOINT and group is best.get("heuristic"))
    ]
    for metric, name, group in compared:
        ours, theirs = (_scale(metric) * one.set_index("seed")[f"{split}/{metric}"] for one in (group, best[name]))
        found = paired(ours.to_numpy(), theirs[ours.index].to_numpy())
        rows.append(
            dict(group.iloc[0][["sweep", "trial", "strategy"]]) | {"metric": metric, "minus": name} | vars(found)
        )
    frame = pd.DataFrame(rows)
    if rows:
        frame["p_holm"] = holm([float(p) for p in frame["p_t"]])
    return frame


def tables(
    frame: pd.DataFrame, split: str = "test", objective: Iterable[str] = ACCURACY_ALONE
) -> dict[str, pd.DataFrame]:
    """Title -> cells as text, for the terminal, Markdown and LaTeX; `note_of` explains some of them."""
    figures, differences = summary(frame, split, objective), comparisons(frame, split, objective)
    seeds, lead = frame["seed"].nunique(), leading(frame, split)
    digits = _digits(lead)
    identity = ["sweep", "trial", "strategy"]
    shown = figures[identity].astype(str)
    for name in measured(frame, split):
        shown[name] = [f"{value:.{digits}f}" for value in figures[name]]
        if name == "fused":
            shown[name] = [spread(*pair, digits) for pair in zip(figures[name], figures[f"{name} std"], strict=True)]
            pairs = zip(figures["low"], figures["high"], strict=True)
            shown["95 %"] = [_range(*pair, digits=digits) for pair in pairs]
    for name in [one for one in ("gap", "balanced") if one in figures]:
        shown[name] = [f"{value:.{digits}f}" for value in figures[name]]
    for metric in [one for one in _further(lead, objective) if one != f"{lead}_gap"]:
        pairs = zip(figures[metric], figures[f"{metric} std"], strict=True)
        shown[metric_name(metric)] = [spread(*pair, _digits(metric)) for pair in pairs]
    unit = " in %" if _scale(lead) == 100 else ""
    result = {f"{split} {metric_name(lead)}{unit}, mean ± std over {seeds} seeds": shown}
    for metric, of_metric in differences.groupby("metric", sort=False) if len(differences) else []:
        unit, digits = "points" if _scale(metric) == 100 else "difference", _digits(metric)
        compared = of_metric[[*identity, "minus"]].astype(str)
        compared[unit] = [f"{value:+.{digits}f}" for value in of_metric["difference"]]
        pairs = zip(of_metric["low"], of_metric["high"], strict=True)
        compared["95 %"] = [_range(*pair, "+", digits) for pair in pairs]
        for column, label in (("p_t", "p t"), ("p_holm", "p Holm"), ("p_wilcoxon", "p Wilcoxon")):
            compared[label] = [p_value(value) for value in of_metric[column]]
        in_points = ", in points" if unit == "points" else ""
        result[f"{metric_name(metric)} compared, seed by seed{in_points}"] = compared
    named = [({name: str(group[name].iloc[0]) for name in identity}, group) for group in _groups(frame)]
    return result | measure_tables(named, split)


def rich_table(title: str, cells: pd.DataFrame) -> Table:
    """A table for the terminal, where a single sweep goes without saying."""
    if "sweep" in cells and cells["sweep"].nunique() == 1:
        cells = cells.drop(columns="sweep")
    table = Table(title=title, title_justify="left")
    for name in cells:
        text = name in ("sweep", "strategy", "minus")
        wraps = name == "sweep" or cells[name].str.contains(" / ").any()
        table.add_column(name, justify="left" if text else "right", overflow="fold", no_wrap=not wraps)
    for row in cells.itertuples(index=False):
        table.add_row(*row)
    return table


def class_frame(confirmed: Iterable[Confirmed], split: str) -> pd.DataFrame:
    """What the runs of each configuration took the samples of each class for, all seeds together.

    One row for each configuration, `fused` or modality, class, and class that it was taken for: `samples`, and
    `share` of the class. Where both are the same class, the share is the accuracy of that class.
    """
    rows: list[dict[str, object]] = []
    for one in confirmed:
        found = [known for folder in one.folders if (known := read_confusions(folder, split))]
        for name in found[0][1] if found else []:
            classes, total = found[0][0], np.sum([matrices[name] for _, matrices in found], axis=0)
            rows += [
                {"sweep": one.sweep.folder.name, "trial": one.trial.number, "strategy": one.trial.strategy}
                | {"modality": name, "class": classes[i], "taken for": classes[j], "samples": int(total[i, j])}
                | {"share": total[i, j] / total[i].sum()}
                for i, j in zip(*np.nonzero(total + np.diag(total.sum(axis=1))), strict=True)
            ]
    return pd.DataFrame(rows)


def write_confirmation(
    frame: pd.DataFrame,
    split: str,
    stem: Path,
    objective: Iterable[str] = ACCURACY_ALONE,
    classes: pd.DataFrame | None = None,
) -> list[Path]:
    """Writes all runs and both tables as CSV, and the tables as Markdown and LaTeX. Returns the files.

    Beside the runs there is their checksum, as the report reads them.

    classes: `class_frame`, for a further CSV.
    """
    shown = tables(frame, split, objective)
    texts = {
        "": frame.to_csv(index=False),
        "-summary": summary(frame, split, objective).to_csv(index=False),
        "-comparisons": comparisons(frame, split, objective).to_csv(index=False),
    }
    if classes is not None and len(classes):
        texts["-classes"] = classes.to_csv(index=False)
    files = {stem.with_name(f"{stem.name}{suffix}.csv"): text for suffix, text in texts.items()}
    files[stem.with_suffix(".md")] = "\n".join(
        f"{title}\n\n{markdown(cells)}{note_of(title) and chr(10) + note_of(title) + chr(10)}"
        for title, cells in shown.items()
    )
    files[stem.with_suffix(".tex")] = "\n".join(latex(title, cells) for title, cells in shown.items())
    runs = stem.with_name(f"{stem.name}.csv")
    _sum_beside(runs).unlink(missing_ok=True)  # so that a kill before it is written anew leaves runs without one
    files[_sum_beside(runs)] = sum_of(files[runs].encode(), runs.name)  # the last
    for file, text in files.items():
        write_atomically(file, text)
    return list(files)


def read_runs(file: Path) -> pd.DataFrame:
    """All runs, as `write_confirmation` wrote them; those of an earlier version have no checksum.

    Raises:
        UserError: the file was altered.
    """
    content, beside = file.read_bytes(), _sum_beside(file)
    if beside.exists() and beside.read_bytes() != sum_of(content, file.name).encode():
        raise UserError(
            f"{file}: was altered since it was written (its checksum differs); run confirm again, or, if that was"
            f" meant, remove {beside.name}"
        )
    try:
        return pd.read_csv(io.BytesIO(content))
    except ValueError:  # pandas' own errors are ValueErrors
        raise UserError(f"{file}: is no table; run confirm again, or remove it") from None


def _sum_beside(runs: Path) -> Path:
    """Where the checksum of the runs is."""
    return runs.with_name(f"{runs.name}.sha256")


def _groups(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The runs of each configuration, the best on the validation split last."""
    groups = [group for _, group in frame.groupby(["sweep", "trial"])]
    return sorted(groups, key=lambda group: float(group["selected_by"].iloc[0]))


def _metrics(lead: str, objective: Iterable[str]) -> list[str]:
    """The fused leading metric and the others of the objective, without their split."""
    return list(dict.fromkeys(name.removeprefix("val/") for name in (f"val/fused/{lead}", *_of_kind(lead, objective))))


def _further(lead: str, objective: Iterable[str]) -> list[str]:
    """The metrics of tables beside the leading one: those of the objective, and what is usual for the targets."""
    return list(dict.fromkeys([*_metrics(lead, objective)[1:], *BESIDE[lead]]))


def _of_kind(lead: str, objective: Iterable[str]) -> list[str]:
    """The objective without the accuracy that is its default, where targets have none."""
    return [name for name in objective if lead == "accuracy" or name != FUSED_ACCURACY]


def _scale(metric: str) -> float:
    return 100.0 if metric.rpartition("/")[2] in PER_CENT else 1.0


def _digits(metric: str) -> int:
    return 1 if _scale(metric) == 100 else 3


def _range(low: float, high: float, sign: str = "", digits: int = 1) -> str:
    return "-" if math.isnan(low) else f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"
