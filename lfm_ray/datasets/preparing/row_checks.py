"""What can be wrong with a row of a manifest, before any of its media are decoded.

Each check goes over a table in which every field is text, and yields the rows that it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date, time, timedelta
from numbers import Number
from pathlib import PurePath
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd

from lfm_ray.datasets.preparing.embedded import Embedded
from lfm_ray.settings import nearest
from lfm_ray.visible import UNSHOWN

SPLITS = ("train", "val", "test")
TIMES = ("start", "end")
FIELDS = (Number, np.generic, date, time, timedelta, pd.Period, PurePath, UUID, type(pd.NaT), Embedded)
NO_FIELDS = (bytes, complex, np.complexfloating, np.void)
HALVES = re.compile("[\ud800-\udfff]")  # what Python makes of names of files that are not UTF-8

Problem = tuple[int, str, str]  # row number, column, what is wrong there


def not_text(table: pd.DataFrame) -> Iterator[Problem]:
    """Cells that hold what no field can be; columns that can hold texts and numbers only have none."""
    for name in [name for name in table if not _is_plain(table[name].dtype)]:
        for number, value in enumerate(table[name]):
            if what := no_text(value):
                yield number, str(name), f"holds {what} where a path, a text or a number belongs"


def no_text(value: object) -> str | None:
    """What a cell holds, in words, if that is no text, number or time, and does not lie in another file; else None."""
    if isinstance(value, str):
        return "half of a character, which is no text," if HALVES.search(value) else None
    if value is None or value is pd.NA or (isinstance(value, FIELDS) and not isinstance(value, NO_FIELDS)):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes that are not UTF-8"
    if isinstance(value, dict):
        return "a structure"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    return "an array" if isinstance(value, np.ndarray) else f"an object of Python ({type(value).__name__})"


def _is_plain(dtype: Any) -> bool:
    """Whether all values of such a column are texts, numbers or times."""
    if isinstance(dtype, pd.StringDtype | pd.DatetimeTZDtype):
        return True
    return isinstance(dtype, np.dtype) and dtype.kind in "biufmM"


def unshown_ids(table: pd.DataFrame) -> Iterator[Problem]:
    """Ids stand in tables and messages: all their characters can be shown, in one line."""
    for number, row_id in table["id"].items():
        if found := re.search(f"{UNSHOWN.pattern}|[\n\t]", row_id):
            yield number, "id", f"has a character that cannot be shown, {found[0]!a}; remove it"


def empty_fields(table: pd.DataFrame, may_lack: Sequence[str] = ()) -> Iterator[Problem]:
    """No field is empty but times. may_lack: modalities that a row need not have, as long as it has one of them."""
    for number in table.index[(table[list(may_lack)] == "").all(axis=1)] if may_lack else ():
        yield number, may_lack[0], f"is empty, and so is each other modality ({', '.join(may_lack)})"
    for name in [name for name in table if name != "row" and str(name).rpartition(".")[2] not in TIMES]:
        for number in table.index[table[name] == ""] if name not in may_lack else ():
            yield number, name, "is empty"


def wrong_splits(table: pd.DataFrame) -> Iterator[Problem]:
    """Splits are train, val and test."""
    for number, split in table["split"].items():
        if split not in SPLITS:
            yield number, "split", f"unknown split{nearest(split, SPLITS)}"


def repeated_ids(table: pd.DataFrame) -> Iterator[Problem]:
    """Ids are unique, over all splits."""
    split_of: dict[str, str] = {}
    for number, (row_id, split) in enumerate(zip(table["id"], table["split"], strict=True)):
        if row_id in split_of:
            where = "" if split_of[row_id] == split else f" of split {split_of[row_id]}; this row is in {split}"
            yield number, "id", f"repeats that of an earlier row{where}"
        split_of.setdefault(row_id, split)


def wrong_times(table: pd.DataFrame) -> Iterator[Problem]:
    """`start` and `end` must be seconds, 0 or more, and end after start; likewise those of one modality."""
    for name in [*time_columns(table, "start"), *time_columns(table, "end")]:
        for number, text in table[name].items():
            if text and not 0 <= seconds(text) < float("inf"):
                yield number, name, "must be a number of seconds, 0 or more"
    for start, end in [(f"{name[:-3]}start", name) for name in time_columns(table, "end")]:
        for number, text in table[end].items():
            first = seconds(table[start][number]) if start in table else 0.0
            if text and seconds(text) <= first:
                yield number, end, f"must be after start ({first:g} s)"


def time_columns(table: pd.DataFrame, time: str) -> list[str]:
    """The columns of `start` or `end`: of all modalities, and of single ones."""
    return [str(name) for name in table if name == time or str(name).endswith(f".{time}")]


def seconds(text: str) -> float:
    """The number in a field; 0 if it is empty, NaN if it holds anything else."""
    try:
        return float(text or 0)
    except ValueError:
        return float("nan")


def unknown_classes(table: pd.DataFrame, classes: Sequence[str]) -> Iterator[Problem]:
    """Labels are among those that the dataset has."""
    for number, label in table["label"].items():
        if label not in classes:
            yield number, "label", f"unknown class{nearest(label, classes)}"
