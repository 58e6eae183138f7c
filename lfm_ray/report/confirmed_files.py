"""What `lfm_ray.confirm` has written into the folder of a sweep, read back: the runs are the record, not the table."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from lfm_ray.errors import UserError
from lfm_ray.models.directions import leading
from lfm_ray.report.confirmation import read_runs
from lfm_ray.search.sweep import Sweep
from lfm_ray.storage import shown
from lfm_ray.training.run_folder import read_epochs

TABLES = {"test": ("confirm.csv", "confirm"), "val": ("confirm-val.csv", "confirm-val")}
"""Split -> the table of its runs, and the folder in which they lie."""
ANEW = "lfm_ray.confirm writes it anew"


def confirmed_runs(sweep: Sweep) -> tuple[list[tuple[str, pd.DataFrame]], list[str]]:
    """Each split with a frame of one row per run, and what is wrong with the tables that are left out."""
    found, troubles = [], []
    for split, (name, runs) in TABLES.items():
        file = sweep.folder / name
        if not file.is_file():
            continue
        try:
            frame = read_runs(file)
            wrong = _wrong(frame, split, sweep.folder / runs)
        except UserError as error:
            wrong = str(error).removeprefix(f"{file}: ")
        if wrong:
            troubles.append(f"{shown(file)}: {wrong}; it is left out, and {ANEW}")
        else:
            found.append((split, frame))
    return found, troubles


def _wrong(frame: pd.DataFrame, split: str, runs: Path) -> str:
    """In what a table is none of runs on a split, or differs from what their folders say; empty if in nothing."""
    lead = f"{split}/fused/{leading(frame, split)}"
    if missing := [name for name in ("sweep", "trial", "strategy", "seed", lead) if name not in frame]:
        return f"has no column {missing[0]}"
    metrics = [name for name in frame if str(name).startswith(f"{split}/")]
    if odd := [name for name in ("trial", "seed", *metrics) if not is_numeric_dtype(frame[name])]:
        return f"its column {odd[0]} holds more than numbers"
    if not len(frame):
        return "is empty"
    for record in frame.to_dict("records"):
        trial, seed = record["trial"], record["seed"]
        if pd.isna(trial) or pd.isna(seed):
            return "has a row without trial or seed"
        folder = runs / f"{int(trial):04d}-seed{int(seed)}"
        rows = read_epochs(folder) if record["sweep"] == runs.parent.absolute().name else []
        for name in metrics:
            if rows and name in rows[-1] and not math.isclose(rows[-1][name], record[name], rel_tol=1e-9):
                return f"says {name} = {record[name]} of trial {trial}, seed {seed}, and {folder.name} {rows[-1][name]}"
    return ""
