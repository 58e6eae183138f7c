"""The manifest: a CSV or Parquet table that says which files and texts make up a dataset."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lfm_ray.config import Kind
from lfm_ray.errors import UserError
from lfm_ray.settings import nearest

SPLITS = ("train", "val", "test")
RESERVED = ("id", "label", "split", "start", "end")


@dataclass(frozen=True)
class Row:
    """One sample.

    label: index into the classes; values: modality -> path of the file, or the text itself;
    start, end: the clip within an audio or video file, in seconds, None: from its beginning, to its end.
    """

    id: str
    label: int
    values: dict[str, str]
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: modality -> kind, the classes in order, and the rows of each split in order.

    fingerprint: sha256 of everything the manifest says and of the sizes of the media files.
    """

    path: Path
    kinds: dict[str, Kind]
    classes: list[str]
    splits: dict[str, list[Row]]
    fingerprint: str


def read_manifest(
    path: str | Path,
    kinds: Mapping[str, Kind],
    *,
    limit: Mapping[str, int] | None = None,
    seed: int = 0,
    allow_missing_files: bool = False,
) -> Manifest:
    """Reads and checks a manifest.

    A modality is named like its column. Other columns: `label`; optionally `split` (train, val,
    test; without it each class is split 80/10/10 by the seed), `id` (else the row number, from 0),
    `start` and `end` in seconds. A relative path starts at the manifest's folder.

    Args:
        path: a .csv or .parquet file.
        kinds: modality -> kind.
        limit: split -> highest number of rows, drawn by the seed and kept in the manifest's order.
        seed: decides the split and the limit.
        allow_missing_files: leave files that do not exist to the decoder to report.

    Raises:
        UserError: in one line, the first thing that is wrong.
    """
    path = Path(path)
    if not kinds:
        raise UserError("no modality given; name at least one column, such as --audio COLUMN or --image COLUMN")
    for name in set(kinds) & set(RESERVED):
        raise UserError(f"--{kinds[name]} {name}: this column has a meaning of its own; give the modality another name")
    table = _read_table(path)
    return check_manifest(path, table, kinds, limit=limit, seed=seed, allow_missing_files=allow_missing_files)


def check_manifest(
    path: Path,
    table: pd.DataFrame,
    kinds: Mapping[str, Kind],
    *,
    limit: Mapping[str, int] | None = None,
    seed: int = 0,
    allow_missing_files: bool = False,
) -> Manifest:
    """`read_manifest` for a table that is there already; `path` stands in messages, and paths start at its folder."""
    table = _as_text(path, table, list(kinds))
    if "split" not in table:
        table["split"] = _stratified_split(table["label"], seed)
    _check_rows(path, table)
    table = _keep(table, limit or {}, seed)
    classes = _check_labels(path, table)
    folder = path.absolute().parent
    paths = {
        name: [value if kind == "text" else str(folder / value) for value in table[name]]
        for name, kind in kinds.items()
    }
    sizes = {name: [_size(file) for file in paths[name]] for name, kind in kinds.items() if kind != "text"}
    if not allow_missing_files:
        _check_files(path, paths, sizes)
    start, end = _clip_times(path, table)
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS if (table["split"] == split).any()}
    index = {name: number for number, name in enumerate(classes)}
    for i, (row_id, label, split) in enumerate(zip(table["id"], table["label"], table["split"], strict=True)):
        values = {name: values[i] for name, values in paths.items()}
        splits[split].append(Row(row_id, index[label], values, start[i], end[i]))
    content = json.dumps([dict(kinds), table.to_dict("list"), sizes], sort_keys=True)
    return Manifest(path, dict(kinds), classes, splits, hashlib.sha256(content.encode()).hexdigest())


def _read_table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        raise UserError(f"{path}: a manifest is a .csv or .parquet file")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: the manifest is empty") from None
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None


def _as_text(path: Path, table: pd.DataFrame, modalities: list[str]) -> pd.DataFrame:
    """The columns that matter, all as text; what is empty or null is an empty text."""
    for name in [*modalities, "label"]:
        if name not in table:
            raise UserError(f"{path}: has no column {name!r}{nearest(name, [str(column) for column in table])}")
    if table.empty:
        raise UserError(f"{path}: the manifest has no rows")
    table = table[[name for name in (*RESERVED, *modalities) if name in table]].reset_index(drop=True)
    if "id" not in table:
        table["id"] = [str(number) for number in range(len(table))]
    return pd.DataFrame({str(name): [_text(value) for value in table[name]] for name in table})


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # integers beside a null are floats in Parquet
    return "" if value is None or value is pd.NA or value != value else str(value).strip()


def _check_rows(path: Path, table: pd.DataFrame) -> None:
    for number, row_id in enumerate(table["id"]):
        if not row_id:
            raise UserError(f"{path}: row {number} (from 0) has an empty id")
    for row_id in table["id"][table["id"].duplicated()]:
        raise UserError(f"{path}: id {row_id} stands on more than one row")
    for name in [name for name in table if name not in ("start", "end")]:
        for row_id in table["id"][table[name] == ""]:
            raise UserError(f"{path}: row {row_id}: column {name} is empty")
    for row_id, split in zip(table["id"], table["split"], strict=True):
        if split not in SPLITS:
            raise UserError(f"{path}: row {row_id}: unknown split {split!r}{nearest(split, SPLITS)}")


def _check_labels(path: Path, table: pd.DataFrame) -> list[str]:
    """The classes, those of the train split, in order."""
    for split in ("train", "val"):
        if not (table["split"] == split).any():
            raise UserError(f"{path}: no row is of split {split!r}; training needs train and val")
    classes = set(table["label"][table["split"] == "train"])
    for row_id, label, split in zip(table["id"], table["label"], table["split"], strict=True):
        if label not in classes:
            raise UserError(f"{path}: row {row_id}: label {label!r} of split {split} does not occur in train")
    if len(classes) < 2:
        raise UserError(f"{path}: all labels are {classes.pop()!r}; a classifier needs at least two classes")
    try:
        return sorted(classes, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(classes)


def _check_files(path: Path, paths: Mapping[str, list[str]], sizes: Mapping[str, list[int]]) -> None:
    missing = [file for name in sizes for file, size in zip(paths[name], sizes[name], strict=True) if size < 0]
    if missing:
        first = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{path}: {len(missing)} media files do not exist: {first}; correct the paths, or leave their rows out"
            " with --skip-bad"
        )


def _size(file: str) -> int:
    """Bytes of a file or of a folder of frames, or -1 where there is none."""
    found = Path(file)
    if found.is_dir():  # the frames of a clip
        return sum(frame.stat().st_size for frame in found.iterdir())
    return found.stat().st_size if found.is_file() else -1


def _clip_times(path: Path, table: pd.DataFrame) -> tuple[list[float | None], list[float | None]]:
    """`start` and `end` of each row, in seconds."""
    times: dict[str, list[float | None]] = {}
    for name in ("start", "end"):
        times[name] = []
        for row_id, text in zip(table["id"], table.get(name, [""] * len(table)), strict=True):
            try:
                value = float(text) if text else None
            except ValueError:
                value = -1.0
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"{path}: row {row_id}: {name} must be a number of seconds from 0 on, it is {text!r}")
            times[name].append(value)
    for row_id, start, end in zip(table["id"], times["start"], times["end"], strict=True):
        if end is not None and end <= (start or 0):
            raise UserError(f"{path}: row {row_id}: end ({end:g} s) does not lie after start ({start or 0:g} s)")
    return times["start"], times["end"]


def _stratified_split(labels: pd.Series, seed: int) -> list[str]:
    """80/10/10 of each class; a class of one or two rows is all train."""
    split = np.full(len(labels), "train", dtype=object)
    random = np.random.default_rng(seed)
    for label, count in sorted(Counter(labels).items()):
        rows = random.permutation(np.flatnonzero(labels == label))
        tenth = max(1, round(count / 10)) if count >= 3 else 0
        split[rows[:tenth]], split[rows[tenth : 2 * tenth]] = "val", "test"
    return list(split)


def _keep(table: pd.DataFrame, limit: Mapping[str, int], seed: int) -> pd.DataFrame:
    kept = np.ones(len(table), dtype=bool)
    for split, count in limit.items():
        if split not in SPLITS:
            raise UserError(f"limit.{split}: unknown split{nearest(split, SPLITS)}")
        if count < 1:
            raise UserError(f"limit.{split}: must be at least 1 (it is {count})")
        rows = np.flatnonzero(table["split"] == split)
        random = np.random.default_rng((seed, SPLITS.index(split)))
        kept[random.permutation(rows)[count:]] = False
    return table[kept].reset_index(drop=True)
