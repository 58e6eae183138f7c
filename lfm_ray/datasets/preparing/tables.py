"""Tables as files: what pandas would read otherwise than it stands there is refused."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pandas as pd

from lfm_ray.errors import UserError


def read_table(path: Path, used: Collection[object]) -> pd.DataFrame:
    """The table in a .csv or .parquet file. used: the columns that will be read.

    Raises:
        UserError: it cannot be read, has one of these twice, or rows with more fields than columns.
    """
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            _refuse_twice(path, pyarrow.parquet.read_schema(path).names)  # of which pandas reads none
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                _refuse_twice(path, next(csv.reader(file), []), used)  # of which pandas renames the second
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
            if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first fields for names of the rows
                raise UserError(f"{path}: its rows have more fields than its first line has names")
            return table
        raise UserError(f"{path}: a manifest is a .csv or .parquet file")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the manifest is empty") from None
    except (ValueError, OSError, csv.Error) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def check_columns(path: Path, table: pd.DataFrame, used: Collection[object]) -> None:
    """Checks the columns of a table that are `used`.

    Raises:
        UserError: one is there twice, or holds what is no text, number or date.
    """
    _refuse_twice(path, table.columns, used)
    for name in [name for name in table if name in used]:
        for value in table[name] if table[name].dtype == object else ():
            if isinstance(value, bytes | bytearray | memoryview):
                what, instead = "bytes", "write each into a file, and its path into the table"
            elif isinstance(value, Mapping):
                keys = ", ".join(map(str, value))[:60]
                what, instead = f"structs ({keys})", "write what they hold into files, and the paths into the table"
            elif isinstance(value, Collection) and not isinstance(value, str):
                what, instead = "lists", "a row has one file, one text or one label there"
            else:
                continue
            raise UserError(f"{path}: its column {name!r} holds {what}; {instead}")


def _refuse_twice(path: Path, names: Iterable[object], used: Collection[object] | None = None) -> None:
    """Refuses columns that are there twice. used: those that matter; None: all."""
    for name, count in Counter(map(str, names)).items():
        if count > 1 and (used is None or name in used):
            raise UserError(f"{path}: has {count} columns named {name!r}; rename or remove all but one")
