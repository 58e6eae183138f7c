"""A table of what the runs of each line have cost (`lfm_ray.training.costs`)."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from lfm_ray.report.imbalance import Groups
from lfm_ray.report.numbers import quantity
from lfm_ray.training.costs import read_costs

PREFIX = "costs/"
COSTS = (
    "FLOPs: of one prediction, counted by torch.utils.flop_counter; training: of a training step, for one sample; ms:"
    " of a step, the median over epochs, with as many runs at once as there were; MiB: on a GPU the peak of the run, on"
    " a CPU the tensors of one step, the model and the optimiser's state."
)


def cost_columns(folder: Path) -> dict[str, float]:
    """The costs of the run in a folder as columns of a frame of runs; empty if they are not known."""
    costs = read_costs(folder)
    known = asdict(costs).items() if costs else ()
    return {f"{PREFIX}{key}": value for key, value in known if value is not None}


def cost_cells(groups: Groups) -> pd.DataFrame:
    """A line for each group: the median over its runs. Empty if no run says what it has cost."""
    if not any(f"{PREFIX}parameters" in runs and runs[f"{PREFIX}parameters"].notna().any() for _, runs in groups):
        return pd.DataFrame()
    lines = []
    for identity, runs in groups:
        line = dict(identity) | {
            title: quantity(_median(runs, key))
            for title, key in {"parameters": "parameters", "FLOPs": "flops", "training": "training_flops"}.items()
        }
        seconds, memory = _median(runs, "seconds"), _median(runs, "memory")
        line["ms"] = "-" if math.isnan(seconds) else f"{1000 * seconds:.3g}"
        line["MiB"] = "-" if math.isnan(memory) else f"{memory / 2**20:.3g}"
        lines.append(line)
    return pd.DataFrame(lines)


def _median(runs: pd.DataFrame, key: str) -> float:
    column = f"{PREFIX}{key}"
    return float(runs[column].median()) if column in runs else math.nan
