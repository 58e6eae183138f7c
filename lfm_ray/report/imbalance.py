"""Tables of what is unbalanced: contributions, preferences, missing modalities, utilisation, calibration.

They are made from frames of runs, whose columns are the metrics of `lfm_ray.models.metrics` and
`lfm_ray.models.contribution` as `SPLIT/NAME/METRIC`; earlier runs lack some. `Groups` are the runs of each line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from rich.table import Table

from lfm_ray.report.cells import measured
from lfm_ray.report.numbers import decimal

Groups = Sequence[tuple[Mapping[str, str], pd.DataFrame]]
"""For each line of a table the cells that name it, such as {"method": "MLA"}, and its runs, one for each seed."""

UNIMODAL = "unimodal"  # the strategy and method by which each modality is trained alone
IMBALANCE = (
    "gap: of the modalities' accuracies; Shapley: what each contributes to the fused accuracy, in points; preferred:"
    " the share of samples, in %, to whose class it contributes the most; without: the fused accuracy, in %, where its"
    " embedding is missing; utilisation: its accuracy in joint training minus alone, in points."
)
CALIBRATION = (
    "NLL: negative log-likelihood; ECE: expected calibration error, in %, 15 bins; of the fusion and, after it, of each"
    " modality alone."
)


def groups_of(frame: pd.DataFrame, identity: Sequence[str], names: Sequence[str] | None = None) -> Groups:
    """The runs that have the same `identity`, columns of the frame, in its order; names: what the cells are called."""
    named = list(names or identity)
    return [
        (dict(zip(named, map(str, key), strict=True)), group)
        for key, group in frame.groupby(list(identity), sort=False, dropna=False)
    ]


def modalities_of(groups: Groups, split: str) -> list[str]:
    """The modalities that any of the runs was measured on, in their order."""
    found = dict.fromkeys(name for _, runs in groups for name in measured(runs, split))
    return [
        name
        for name in found
        if name != "fused" and not all(math.isnan(_mean(runs, split, name, "accuracy")) for _, runs in groups)
    ]


def utilisation(groups: Groups, split: str) -> dict[str, float]:
    """Modality -> its accuracy where it is trained alone, the mean over seeds; those without such runs are left out.

    Alone are runs on one modality, and those of the method `unimodal`; of several, the best on the validation split.
    """
    best: dict[str, tuple[float, float]] = {}
    names = modalities_of(groups, split)
    for identity, runs in groups:
        reached = {name: _mean(runs, split, name, "accuracy") for name in names}
        present = {name: value for name, value in reached.items() if not math.isnan(value)}
        if len(present) == 1 or UNIMODAL in identity.values():
            for name, value in present.items():
                on_validation = _mean(runs, "val", name, "accuracy")
                best[name] = max(best.get(name, (-math.inf, value)), (on_validation, value))
    return {name: value for name, (_, value) in best.items()}


def imbalance_cells(groups: Groups, split: str) -> pd.DataFrame:
    """A line for each group: what `IMBALANCE` explains, the modalities in the order of `modalities_of`."""
    names, alone = modalities_of(groups, split), utilisation(groups, split)
    lines = []
    for identity, runs in groups:
        accuracy = {name: _mean(runs, split, name, "accuracy") for name in names}
        single = sum(not math.isnan(value) for value in accuracy.values()) == 1 or UNIMODAL in identity.values()
        gains = [math.nan if single else accuracy[name] - alone.get(name, math.nan) for name in names]
        gap = runs[f"{split}/accuracy_gap"].mean() if f"{split}/accuracy_gap" in runs else math.nan
        lines.append(
            {**identity, "gap": decimal(100 * gap, 1)}
            | {"Shapley": _joined([100 * _mean(runs, split, name, "shapley") for name in names])}
            | {"preferred": _joined([100 * _mean(runs, split, name, "preferred") for name in names], 0)}
            | {"without": _joined([100 * _mean(runs, split, name, "missing_accuracy") for name in names])}
            | ({"utilisation": _joined([100 * gain for gain in gains], sign="+")} if alone else {})
        )
    return pd.DataFrame(lines)


def calibration_cells(groups: Groups, split: str) -> pd.DataFrame:
    """A line for each group: what `CALIBRATION` explains."""
    names = modalities_of(groups, split)
    return pd.DataFrame(
        [
            {**identity, "NLL": decimal(_mean(runs, split, "fused", "loss"))}
            | {"alone": _joined([_mean(runs, split, name, "loss") for name in names], 3)}
            | {"ECE": decimal(100 * _mean(runs, split, "fused", "calibration_error"), 1)}
            | {"ECE alone": _joined([100 * _mean(runs, split, name, "calibration_error") for name in names])}
            for identity, runs in groups
        ]
    )


def contribution_table(row: Mapping[str, float], modalities: Sequence[str], split: str = "val") -> Table | None:
    """The contributions of an epoch for the terminal; None of an earlier version's run."""
    if f"{split}/shapley_gap" not in row:
        return None
    table = Table(title=f"what each modality contributes, split {split}", title_justify="left")
    table.add_column("")
    for title in ("Shapley value", "preferred", "accuracy without it"):
        table.add_column(title, justify="right")
    for name in modalities:
        keys = ("shapley", "preferred", "missing_accuracy")
        table.add_row(name, *(f"{row[f'{split}/{name}/{key}']:.3f}" for key in keys))
    return table


def _mean(runs: pd.DataFrame, split: str, name: str, metric: str) -> float:
    column = f"{split}/{name}/{metric}"
    return float(runs[column].mean()) if column in runs else math.nan


def _joined(values: Sequence[float], digits: int = 1, sign: str = "") -> str:
    """`12.3 / 45.1`, one value for each modality."""
    if all(math.isnan(value) for value in values):
        return "-"
    return " / ".join("-" if math.isnan(value) else f"{value:{sign}.{digits}f}" for value in values)
