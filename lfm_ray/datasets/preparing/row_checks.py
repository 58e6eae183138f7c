"""What can be wrong with a row of a manifest, before any of its media are decoded.

Each check goes over a table in which every field is text, and yields the rows that it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lfm_ray.settings import nearest

SPLITS = ("train", "val", "test")
TIMES = ("start", "end")
NO_TEXT = (bytes, dict, list, tuple, set, np.ndarray)

Problem = tuple[int, str, str]  # row number, column, what is wrong there


def not_text(table: pd.DataFrame) -> Iterator[Problem]:
    """Cells that hold what no field can be; columns that Arrow can hold as text have none."""
    for name in [name for name in table if table[name].dtype == object]:
        for number, value in enumerate(table[name]):
            if isinstance(value, NO_TEXT):
                what = "bytes that are not UTF-8" if isinstance(value, bytes) else in_words(value)
                yield number, str(name), f"holds {what} where a path, a text or a number belongs"


def in_words(value: object) -> str:
    """What a cell of `NO_TEXT` holds."""
    return {bytes: "bytes", dict: "a structure", np.ndarray: "an array"}.get(type(value), "a list")


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
