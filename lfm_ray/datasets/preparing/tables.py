"""Manifests as files: CSV, and Parquet whose media may lie in the table itself."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.preparing.arrow_files import ArrowFile
from lfm_ray.errors import UserError
from lfm_ray.files import check_regular
from lfm_ray.visible import look, spelled


def read_table(
    path: Path, kinds: Mapping[str, Kind], others: Collection[str], lists: Collection[str] = ()
) -> pd.DataFrame:
    """A CSV or Parquet file; bytes and arrays in Parquet stay there, as `Embedded`.

    kinds: modality -> kind. others: columns that are read where they are there; the rest of a Parquet file is
    left out, and that of a CSV file comes along. lists: of these, those that may hold lists, in Parquet.

    Raises:
        UserError: the file cannot be read, a column is there twice, or its type is none that it can have.
    """
    check_regular(path)
    try:
        if path.suffix == ".parquet":
            stored = ArrowFile(path)
            refuse_twice(path, stored.schema.names, {*kinds, *others})
            return arrow_table(stored, kinds, others, lists)
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                refuse_twice(path, next(csv.reader(file), []), {*kinds, *others})  # of which pandas renames the second
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
            if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first fields for names of the rows
                raise UserError(f"{path}: its rows have more fields than its first line has names")
            return table
        raise UserError(f"{path}: a manifest is a .csv or .parquet file; datasets can be a .tar, or a folder")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the manifest is empty") from None
    except UnicodeError:
        raise UserError(f"{path}: is not a text in UTF-8; save it as CSV in UTF-8") from None
    except (ValueError, OSError, csv.Error) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path}: cannot be read: {_in_words(error)}") from None


def _in_words(error: Exception) -> str:
    """What pandas or the system says, without what is for programmers."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
    if said.startswith("EOF inside string"):
        return f"a quotation mark is not closed, from row{said.rpartition('row')[2]} on"
    return said


def arrow_table(
    file: ArrowFile, kinds: Mapping[str, Kind], others: Collection[str], lists: Collection[str] = ()
) -> pd.DataFrame:
    """The modalities that a Parquet or Arrow file has, and its other columns of these names; `lists` may hold lists.

    Without any modality the columns are all empty, but known by name.

    Raises:
        UserError: a column's type is none that it can have, or its name occurs twice.
    """
    names = file.schema.names
    if any(name not in names for name in kinds):
        return pd.DataFrame(columns=pd.Index(names))  # its check says what is missing
    file.check_columns([*kinds, *others])
    plain = [name for name in names if name not in kinds and name in others]
    texts = [name for name, kind in kinds.items() if kind == "text"]
    table = file.frame([*plain, *texts], lists)
    for name, kind in kinds.items():
        if kind != "text":
            table[name] = pd.Series(file.media(name, kind), dtype=object, index=table.index if len(table) else None)
    return table


def refuse_twice(path: Path, names: Iterable[object], used: Collection[object]) -> None:
    """Checks that each column that is used is there once, and none whose name only looks the same.

    What is called `Split` would otherwise be passed over in silence, and the rows be split at random.

    Raises:
        UserError: names the column.
    """
    counts = Counter(map(str, names))
    for name, count in counts.items():
        if count > 1 and name in used:
            raise UserError(f"{path}: has {count} columns named {name!r}; rename or remove all but one")
    looks = {look(str(name)): str(name) for name in used if name is not None}
    for name in counts.keys() - {*used, "label"}:  # which is not used only where --label names another
        if meant := looks.get(look(name)):
            raise UserError(
                f"{path}: the column {spelled(name)} is not read, as it is not called {spelled(meant)}; rename it, or"
                " remove it"
            )
