"""Splits for data that have none: 80, 10 and 10 % for train, val and test, always the same for a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lfm_ray.errors import UserError

PARTS = 10  # of which val and test get one each


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
