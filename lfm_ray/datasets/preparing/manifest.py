"""The manifest: a CSV or Parquet table that lists the files and texts of a dataset."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.names import check_name
from lfm_ray.datasets.preparing import splits
from lfm_ray.datasets.preparing.tables import check_columns, read_table
from lfm_ray.errors import UserError
from lfm_ray.settings import nearest

SPLITS = ("train", "val", "test")
RESERVED = ("id", "label", "split", "start", "end")
TIMES = ("start", "end")

Problem = tuple[int, str, str]  # row number, column, what is wrong there


@dataclass(frozen=True)
class Row:
    """One sample.

    label: index into the classes; values: modality -> path of the file, or the text itself;
    start, end: the clip within an audio or video file, in seconds; None: the file's own start or end.
    clips: modality -> start and end of its own.
    """

    id: str
    label: int
    values: dict[str, str]
    start: float | None = None
    end: float | None = None
    clips: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)

    def clip(self, name: str) -> tuple[float | None, float | None]:
        """Start and end in the file of a modality."""
        return self.clips.get(name, (self.start, self.end))


class BadRow(NamedTuple):
    """A row that cannot be used: its id, the column, the value there, and the reason."""

    id: str
    column: str
    value: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: modality -> kind, the classes in order, and the rows of each split in order.

    bad: the rows that cannot be used and are in no split. fingerprint: sha256 of everything that the
    manifest says about the others, and of the sizes of their media files.
    """

    path: Path
    kinds: dict[str, Kind]
    classes: list[str]
    splits: dict[str, list[Row]]
    bad: list[BadRow]
    fingerprint: str


def read_manifest(
    path: str | Path,
    kinds: Mapping[str, Kind],
    *,
    limit: Mapping[str, int] | None = None,
    seed: int = 0,
    group: str | None = None,
    allow_outside: bool = False,
) -> Manifest:
    """Reads and checks a manifest.

    A modality has the name of its column. Other columns: `label`; optionally `split` (train, val,
    test; without it each class is split 80/10/10 with the seed), `id` (by default the row number, from
    0), `start` and `end` in seconds, also of one modality alone, `COLUMN.start` and `COLUMN.end`. Relative
    paths start at the manifest's folder.

    Args:
        path: a .csv or .parquet file.
        kinds: modality -> kind.
        limit: split -> the most rows to keep, drawn with the seed and left in the manifest's order.
        seed: of the split and the limit.
        group: column of a table without `split` whose equal values, such as a speaker's, stay in one split.
        allow_outside: accept media outside the manifest's folder, which someone else's table should not name.

    Raises:
        UserError: something is wrong with the table as a whole. Bad rows are left out of the splits
            and listed in `bad`.
    """
    path = Path(path)
    check_kinds(kinds)
    table = read_table(path, _used(kinds, group))
    return check_manifest(path, table, kinds, limit=limit, seed=seed, group=group, allow_outside=allow_outside)


def check_kinds(kinds: Mapping[str, Kind]) -> None:
    """Raises a UserError unless there are modalities, and columns that can be some."""
    if not kinds:
        raise UserError("no modality given; name at least one column, such as --audio COLUMN or --image COLUMN")
    for name, kind in kinds.items():
        if name in RESERVED:
            raise UserError(f"--{kind} {name}: this column name is reserved; give the modality another name")
        check_name(f"--{kind} {name}", name)


def check_manifest(
    path: Path,
    table: pd.DataFrame,
    kinds: Mapping[str, Kind],
    *,
    classes: Sequence[str] | None = None,
    limit: Mapping[str, int] | None = None,
    seed: int = 0,
    group: str | None = None,
    allow_outside: bool = False,
) -> Manifest:
    """`read_manifest` for a table in memory; `path` appears in messages, and relative paths start at its folder.

    classes: the allowed labels, in order; None: those of the training rows, in the order of their categories
    where they have one, else sorted, numbers as numbers.

    Raises:
        UserError: see `read_manifest`.
    """
    check_columns(path, table, _used(kinds, group))
    given, order = table, classes or _categories(table)
    groups = _groups(path, table, group)
    table = _as_text(path, table, list(kinds)).assign(row=range(len(table)))
    table["label"] = [_text(value, strip=False) for value in given["label"]]
    bad: list[BadRow] = []

    def without(problems: Iterable[Problem]) -> pd.DataFrame:
        found = dict(reversed([(number, (column, reason)) for number, column, reason in problems]))  # each row's first
        for number in sorted(found):
            column, reason = found[number]
            bad.append(BadRow(table.at[number, "id"] or f"row {number}", column, table.at[number, column], reason))
        return table.drop(index=list(found)).reset_index(drop=True)

    table = without(_empty_fields(table))
    table = without(_wrong_labels(table))
    if "split" not in table:
        labels = list(table["label"])
        table["split"] = (
            splits.stratified(labels, seed)
            if groups is None
            else splits.grouped(labels, [groups[number] for number in table["row"]], seed)
        )
    table = without(_wrong_splits(table))
    table = without(_repeated_ids(table))
    table = without(_wrong_times(table))
    if classes is not None:
        table = without(_unknown_classes(table, classes))
    table = _keep(table, limit or {}, seed)
    table = without(_classes_not_in_train(table))
    if not allow_outside:
        table = without(_outside(table, kinds, _folder(path)))
    files = _media_files(table, kinds, _folder(path))
    sizes = files.map(_size)
    table = without(
        (number, str(name), "there is no such file")
        for number, row in sizes.iterrows()
        for name, size in row.items()
        if size < 0
    )
    there = (sizes >= 0).all(axis=1)
    files, sizes = files[there].reset_index(drop=True), sizes[there]
    table = table.drop(columns="row")
    _check_features(path, files, kinds)
    found_classes = _classes(path, table, bad, order)
    content = [dict(kinds), table.to_dict("list"), sizes.to_dict("list")]
    return Manifest(
        path=path,
        kinds=dict(kinds),
        classes=found_classes,
        splits=_splits(table.assign(**{str(name): files[name] for name in files}), list(kinds), found_classes),
        bad=bad,
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
    )


def _used(kinds: Mapping[str, Kind], group: str | None) -> set[object]:
    """The columns of a table that are read, if it has them."""
    return {*kinds, *RESERVED, *(f"{name}.{time}" for name in kinds for time in TIMES), group}


def _as_text(path: Path, table: pd.DataFrame, modalities: list[str]) -> pd.DataFrame:
    """The relevant columns, all as text; nulls become the empty string."""
    for name in [*modalities, "label"]:
        if name not in table:
            raise UserError(f"{path}: has no column {name!r}{_nearest_column(name, table)}")
    if table.empty:
        raise UserError(f"{path}: the manifest has no rows")
    times = [f"{name}.{time}" for name in modalities for time in TIMES]
    table = table[[name for name in (*RESERVED, *times, *modalities) if name in table]].reset_index(drop=True)
    if "id" not in table:
        table["id"] = [str(number) for number in range(len(table))]
    return pd.DataFrame({str(name): [_text(value) for value in table[name]] for name in table})


def _nearest_column(name: str, table: pd.DataFrame) -> str:
    return nearest(name, [str(column) for column in table]).replace("; allowed: ", "; columns of the file: ")


def _text(value: object, strip: bool = True) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # integers in a Parquet column with nulls are read as floats
    text = "" if value is None or value is pd.NA or value != value else str(value)
    return text.strip() if strip or not text.strip() else text


def _categories(table: pd.DataFrame) -> list[str] | None:
    """The labels in the order of a categorical column."""
    if "label" not in table or not isinstance(table["label"].dtype, pd.CategoricalDtype):
        return None
    return [_text(value) for value in table["label"].cat.categories]


def _groups(path: Path, table: pd.DataFrame, group: str | None) -> list[str] | None:
    """The group of each row."""
    if group is None:
        return None
    if "split" in table:
        raise UserError(f"--group {group}: {path} has a column split, which says already where a row belongs")
    if group not in table:
        raise UserError(f"--group {group}: {path} has no such column{_nearest_column(group, table)}")
    return [_text(value) for value in table[group]]


def _empty_fields(table: pd.DataFrame) -> Iterator[Problem]:
    for name in [name for name in table if name != "row" and str(name).rpartition(".")[2] not in TIMES]:
        for number in table.index[table[name] == ""]:
            yield number, name, "is empty"


def _wrong_labels(table: pd.DataFrame) -> Iterator[Problem]:
    known = set(table["label"])
    for number, label in table["label"].items():
        if label != label.strip():
            yield number, "label", "has blanks at its ends, and would be a class of its own; remove them"
        parts = [part.strip() for part in re.split(r"[;|]", label)]
        if len(parts) > 1 and all(part in known or part.isdigit() for part in parts):
            yield number, "label", f"looks like {len(parts)} labels; a row has one"


def _wrong_splits(table: pd.DataFrame) -> Iterator[Problem]:
    for number, split in table["split"].items():
        if split not in SPLITS:
            yield number, "split", f"unknown split{nearest(split, SPLITS)}"


def _repeated_ids(table: pd.DataFrame) -> Iterator[Problem]:
    split_of: dict[str, str] = {}
    for number, (row_id, split) in enumerate(zip(table["id"], table["split"], strict=True)):
        if row_id in split_of:
            where = "" if split_of[row_id] == split else f" of split {split_of[row_id]}; this row is in {split}"
            yield number, "id", f"repeats that of an earlier row{where}"
        split_of.setdefault(row_id, split)


def _wrong_times(table: pd.DataFrame) -> Iterator[Problem]:
    """`start` and `end` must be seconds, 0 or more, and end after start; likewise those of one modality."""
    for name in [*_time_columns(table, "start"), *_time_columns(table, "end")]:
        for number, text in table[name].items():
            if text and not 0 <= _seconds(text) < float("inf"):
                yield number, name, "must be a number of seconds, 0 or more"
    for start, end in [(f"{name[:-3]}start", name) for name in _time_columns(table, "end")]:
        for number, text in table[end].items():
            first = _seconds(table[start][number]) if start in table else 0.0
            if text and _seconds(text) <= first:
                yield number, end, f"must be after start ({first:g} s)"


def _time_columns(table: pd.DataFrame, time: str) -> list[str]:
    return [str(name) for name in table if name == time or str(name).endswith(f".{time}")]


def _seconds(text: str) -> float:
    """The number in a field; 0 if it is empty, NaN if it holds anything else."""
    try:
        return float(text or 0)
    except ValueError:
        return float("nan")


def _unknown_classes(table: pd.DataFrame, classes: Sequence[str]) -> Iterator[Problem]:
    for number, label in table["label"].items():
        if label not in classes:
            yield number, "label", f"unknown class{nearest(label, classes)}"


def _classes_not_in_train(table: pd.DataFrame) -> Iterator[Problem]:
    known = set(table["label"][table["split"] == "train"])
    for number, label in table["label"].items():
        if known and label not in known:
            yield number, "label", f"this class of split {table['split'][number]} does not occur in train"


def _classes(path: Path, table: pd.DataFrame, bad: Sequence[BadRow], order: Sequence[str] | None) -> list[str]:
    """The classes of the train split, in order.

    Raises:
        UserError: there are no rows to train or validate on, there is just one class, or two look alike.
    """
    because = f"; {len(bad)} rows are bad, the first: {bad[0].id}: {bad[0].column}: {bad[0].reason}" if bad else ""
    for split in ("train", "val"):
        if not (table["split"] == split).any():
            raise UserError(f"{path}: no row is in split {split!r}; training needs train and val{because}")
    classes = set(table["label"][table["split"] == "train"])
    if len(classes) < 2:
        raise UserError(f"{path}: all labels are {classes.pop()!r}; a classifier needs at least two classes{because}")
    looks: dict[str, str] = {}
    for label in sorted(classes):
        other = looks.setdefault(_look(label), label)
        if other != label:
            raise UserError(
                f"{path}: the labels {other!r} and {label!r} differ only in how they are written; make them one, or"
                " rename one"
            )
    if order:
        return [name for name in order if name in classes]
    try:
        return sorted(classes, key=lambda label: (float(label), label))
    except ValueError:
        return sorted(classes)


def _look(label: str) -> str:
    """What a reader takes a label for: without case, width, accents of encoding and invisible characters."""
    visible = "".join(letter for letter in label if unicodedata.category(letter) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible).casefold().split())


def _check_features(path: Path, files: pd.DataFrame, kinds: Mapping[str, Kind]) -> None:
    """Refuses one matrix that every row names as its own sample."""
    for name in files:
        if kinds[str(name)] == "feature" and len(files) > 1 and files[name].nunique() == 1:
            raise UserError(
                f"{path}: every row names the same file as its {name}, {files[name].iloc[0]}; save the array of each"
                " sample in a .npy file of its own"
            )


def _splits(table: pd.DataFrame, modalities: list[str], classes: list[str]) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS if (table["split"] == split).any()}
    index = {name: number for number, name in enumerate(classes)}
    for fields in table.to_dict("records"):
        start, end = _clip(fields, "")
        own = [name for name in modalities if any(f"{name}.{time}" in fields for time in TIMES)]
        values, clips = {name: fields[name] for name in modalities}, {name: _clip(fields, f"{name}.") for name in own}
        rows[fields["split"]].append(Row(fields["id"], index[fields["label"]], values, start, end, clips))
    return rows


def _clip(fields: Mapping[str, str], of: str) -> tuple[float | None, float | None]:
    start, end = (_seconds(fields[of + time]) if fields.get(of + time) else None for time in TIMES)
    return start, end


def _folder(path: Path) -> Path:
    """The folder of the manifest, without `..`."""
    return Path(os.path.normpath(path.absolute().parent))


def _media_files(table: pd.DataFrame, kinds: Mapping[str, Kind], folder: Path) -> pd.DataFrame:
    """The paths of the media, one column per modality other than text."""
    media = [name for name, kind in kinds.items() if kind != "text"]
    return pd.DataFrame({name: [str(folder / value) for value in table[name]] for name in media}, index=table.index)


def _outside(table: pd.DataFrame, kinds: Mapping[str, Kind], folder: Path) -> Iterator[Problem]:
    """Media whose path leaves `folder`; symbolic links inside it may lead anywhere."""
    files = _media_files(table, kinds, folder)
    for name in files:
        for number, file in files[name].items():
            if not Path(os.path.normpath(file)).is_relative_to(folder):
                yield int(number), str(name), f"is outside {folder}; --allow-outside accepts it"


def _size(file: str) -> int:
    """Bytes of a file or of a folder of frames, or -1 if there is none.

    Of frames that cannot be looked at, such as links to nothing, the link itself counts; decoding them says more.
    """
    try:
        if os.path.isdir(file):  # the frames of a clip
            with os.scandir(file) as frames:
                return sum(_bytes_of(frame) for frame in frames)
        return os.stat(file).st_size if os.path.isfile(file) else -1
    except OSError:  # such as a name that is too long, or a folder that nobody may read
        return -1


def _bytes_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return entry.stat(follow_symlinks=False).st_size


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
