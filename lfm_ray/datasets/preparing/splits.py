"""Splits for data that have none: 80, 10 and 10 % for train, val and test, always the same for a seed.

And those that names of files and folders state.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from lfm_ray.errors import UserError

Strata = Callable[[pd.Series], list[str]] | None

PARTS = 10  # of which val and test get one each
# Those of huggingface/datasets, src/datasets/data_files.py (SPLIT_KEYWORDS, NON_WORDS_CHARS).
WORDS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def named(name: str) -> str | None:
    """The split that a folder or file is named after, such as `val` for `validation`; None: none."""
    return next((split for split, words in WORDS.items() if name.lower() in words), None)


def named_in(path: str) -> str | None:
    """The split that the last part of a path states which states one: `data/train-00000-of-00002.parquet`."""
    for part in reversed(path.split("/")):
        for word in re.split(r"[-._ 0-9]+", part):
            if split := named(word):
                return split
    return None


def completed(table: pd.DataFrame, strata: Strata = None) -> pd.DataFrame:
    """A table whose splits come from names: without any where they are all one, and with a tenth of train as val.

    strata: see `with_validation`.
    """
    if "split" not in table:
        return table
    found = set(table["split"])
    if len(found) == 1:
        return table.drop(columns="split")
    return with_validation(table, strata=strata) if "train" in found else table


def with_validation(table: pd.DataFrame, share: float = 0.1, strata: Strata = None) -> pd.DataFrame:
    """If there is no validation split, makes it from this share of each class of train; always the same rows.

    A class with one row keeps it in train. strata: labels -> what takes the place of the classes.
    """
    if (table["split"] == "val").any():
        return table
    random = np.random.default_rng(0)
    train = table[table["split"] == "train"]
    classes = train["label"] if strata is None else pd.Series(strata(train["label"]), index=train.index, dtype=object)
    for _, rows in train.groupby(classes, sort=True):
        most = min(max(1, round(share * len(rows))), len(rows) - 1)
        drawn = random.permutation(rows.index.to_numpy())[:most]
        table.loc[drawn, "split"] = "val"
    return table


def stratified(labels: Sequence[str], seed: int) -> list[str]:
    """80/10/10 within each class; a class of one or two rows is all in train."""
    split = np.full(len(labels), "train", dtype=object)
    random = np.random.default_rng(seed)
    for label, count in sorted(Counter(labels).items()):
        rows = random.permutation(np.flatnonzero(np.asarray(labels) == label))
        tenth = max(1, round(count / PARTS)) if count >= 3 else 0
        split[rows[:tenth]], split[rows[tenth : 2 * tenth]] = "val", "test"
    return list(split)


def grouped(labels: Sequence[str], groups: Sequence[str], seed: int) -> list[str]:
    """80/10/10 as near as may be, with the classes' shares, where rows of one group share their split.

    Raises:
        UserError: there are fewer than three groups.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if (count := len(set(groups))) < 3:
        raise UserError(f"--group: there are {count} groups; train, val and test need one each")
    folds = StratifiedGroupKFold(min(PARTS, count), shuffle=True, random_state=seed)
    split = np.full(len(labels), "train", dtype=object)
    parts = folds.split(np.zeros(len(labels)), list(labels), list(groups))
    for name, (_, rows) in zip(("val", "test"), parts, strict=False):
        split[rows] = name
    return list(split)
