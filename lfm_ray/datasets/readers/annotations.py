"""What readers share: lists of clips, media found by name, a validation split where there is none."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lfm_ray.errors import UserError

VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".flv")


def fields(path: Path, count: int, separator: str = ",") -> list[list[str]]:
    """The lines of a CSV or TSV file without a header.

    Raises:
        UserError: the file is missing, or a line has fewer than `count` fields.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; --root must be laid out as the dataset's card in data/ says")
    with path.open(encoding="utf-8-sig", newline="") as file:
        if separator == "\t":  # tweets hold quotation marks that quote nothing
            rows = [row for row in csv.reader(file, delimiter=separator, quoting=csv.QUOTE_NONE) if row]
        else:
            rows = [row for row in csv.reader(file, delimiter=separator) if row]
    for number, row in enumerate(rows, start=1):
        if len(row) < count:
            raise UserError(f"{path}, line {number}: has {len(row)} fields, not {count}")
    return rows


def by_stem(root: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Every file below `root` that ends in one of `suffixes`, by its name without the ending."""
    return {path.stem: path for path in sorted(root.rglob("*")) if path.suffix.lower() in suffixes}


def with_validation(table: pd.DataFrame, share: float = 0.1) -> pd.DataFrame:
    """Where a dataset has no validation split, that share of each class of train becomes it; always the same rows."""
    if (table["split"] == "val").any():
        return table
    random = np.random.default_rng(0)
    for _, rows in table[table["split"] == "train"].groupby("label", sort=True):
        drawn = random.permutation(rows.index.to_numpy())[: max(1, round(share * len(rows)))]
        table.loc[drawn, "split"] = "val"
    return table
