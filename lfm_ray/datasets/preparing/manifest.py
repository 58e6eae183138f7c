"""The manifest: a CSV or Parquet table that lists the files and texts of a dataset."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lfm_ray.datasets.kinds import Kind, TargetKind
from lfm_ray.datasets.names import check_name
from lfm_ray.datasets.preparing import row_checks, splits
from lfm_ray.datasets.preparing.embedded import Embedded
from lfm_ray.datasets.preparing.labels import LABELS, Labels, joined, wrong_lists
from lfm_ray.datasets.preparing.row_checks import SPLITS, TIMES
from lfm_ray.datasets.preparing.tables import read_table, refuse_twice
from lfm_ray.errors import UserError
from lfm_ray.settings import nearest
from lfm_ray.visible import in_one_line, visible

RESERVED = ("id", "label", "split", "start", "end")


@dataclass(frozen=True)
class Row:
    """One sample.

    label: index into the classes, or what `lfm_ray.datasets.targets` says of other targets; values: modality -> path
    of the file, where it lies in another one, or the text itself; start, end: the clip within an audio or video file,
    in seconds; None: the file's own start or end. A modality that the row lacks is not in `values`.
    clips: modality -> start and end of its own.
    """

    id: str
    label: int | float | np.ndarray
    values: Mapping[str, str | Embedded]
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
    """A checked manifest: modality -> kind, the classes or labels in order, and the rows of each split in order.

    bad: the rows that cannot be used and are in no split. fingerprint: sha256 of everything that the
    manifest says about the others, and of the sizes of their media files.
    """

    path: Path
    kinds: dict[str, Kind]
    classes: list[str]
    splits: dict[str, list[Row]]
    bad: list[BadRow]
    fingerprint: str
    target: TargetKind = "classes"


def read_manifest(
    path: str | Path,
    kinds: Mapping[str, Kind],
    *,
    limit: Mapping[str, int] | None = None,
    seed: int = 0,
    label: str = "label",
    group: str | None = None,
    allow_outside: bool = False,
    target: TargetKind = "classes",
    allow_missing: bool = False,
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
        label: the column of the classes.
        group: column of a table without `split` whose equal values, such as a speaker's, stay in one split.
        allow_outside: accept media outside the manifest's folder, which someone else's table should not name.
        target: what `label` is: a class, several labels such as `dog;rain` (multilabel), or a number (regression).
        allow_missing: keep a row whose field of a modality is empty, or names a file that there is not, unless it
            lacks all its modalities; without it, such a row is bad.

    Raises:
        UserError: something is wrong with the table as a whole. Bad rows are left out of the splits
            and listed in `bad`.
    """
    path = Path(path)
    check_kinds(kinds)
    others = [str(name) for name in _used(kinds, label, group) - {*kinds, None}]
    table = read_table(path, kinds, others, [label] if target == "multilabel" else [])
    return check_manifest(
        path, table, kinds, limit=limit, seed=seed, label=label, group=group, allow_outside=allow_outside,
        target=target, allow_missing=allow_missing,
    )  # fmt: skip


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
    label: str = "label",
    group: str | None = None,
    allow_outside: bool = False,
    folder: Path | None = None,
    unread: Sequence[BadRow] = (),
    target: TargetKind = "classes",
    allow_missing: bool = False,
) -> Manifest:
    """`read_manifest` for a table in memory; `path` appears in messages.

    classes: the allowed labels, in order; None: those of the training rows, in the order of their categories
    where they have one, else sorted, numbers as numbers. folder: where relative paths start; None: that of `path`.
    unread: what could not even be made a row of the table.

    Raises:
        UserError: see `read_manifest`.
    """
    if unread and table.empty:
        first = unread[0]
        raise UserError(f"{path}: no sample in it can be read; the first: {first.id}: {first.reason}")
    folder = _normal(path.absolute().parent if folder is None else folder.absolute())
    refuse_twice(path, table.columns, _used(kinds, label, group))
    table = _with_label(path, table, label)
    labels = LABELS[target]
    given, order = table, classes or _categories(table)
    groups = _groups(path, table, group)
    table = _as_text(path, table, list(kinds)).assign(row=range(len(table)))
    table["label"] = [_label(value, target) for value in given["label"]]
    bad = list(unread)

    def without(problems: Iterable[row_checks.Problem]) -> pd.DataFrame:
        found = dict(reversed([(number, (column, reason)) for number, column, reason in problems]))  # each row's first
        for number in sorted(found):
            column, reason = found[number]
            row_id, value = table.at[number, "id"] or f"row {number}", str(table.at[number, column])
            bad.append(BadRow(in_one_line(row_id), column, visible(value), reason))
        return table.drop(index=list(found)).reset_index(drop=True)

    may_be_lists = ["label"] if target == "multilabel" else []
    wrong = wrong_lists(given["label"]) if may_be_lists else ()
    fields = given[[name for name in table if name in given and name not in may_be_lists]]
    table = without(itertools.chain(wrong, row_checks.not_text(fields)))
    table = without(row_checks.unshown_ids(table))
    table = without(row_checks.empty_fields(table, list(kinds) if allow_missing else []))
    table = without(labels.wrong(table["label"]))
    if "split" not in table:
        strata = labels.strata(list(table["label"]))
        table["split"] = (
            splits.stratified(strata, seed)
            if groups is None
            else splits.grouped(strata, [groups[number] for number in table["row"]], seed)
        )
    table = without(row_checks.wrong_splits(table))
    table = without(row_checks.repeated_ids(table))
    table = without(row_checks.wrong_times(table))
    if classes is not None:
        table = without(row_checks.unknown_classes(table, classes))
    table = _keep(table, limit or {}, seed)
    table = without(labels.not_in_train(table["label"], table["split"]))
    if not allow_outside:
        table = without(_outside(table, kinds, folder))
    files = _media_files(table, kinds, folder)
    sizes = files.map(_size)
    nothing = (sizes < 0) & (table[[str(name) for name in files]] != "")  # named, and not there
    there = sizes >= 0 if allow_missing else ~nothing
    texts = [name for name, kind in kinds.items() if kind == "text"]
    kept = there.any(axis=1) | (table[texts] != "").any(axis=1) if allow_missing else there.all(axis=1)
    table = without(
        (int(number), str(name), "there is no such file")
        for number in table.index[~kept]
        for name in [next(name for name in files if nothing.at[number, name])]
    )
    files, sizes = files.where(there, "")[kept].reset_index(drop=True), sizes[kept].reset_index(drop=True)
    unseen = list(labels.not_in_train(table["label"], table["split"]))  # since media of train are not there
    seen = ~table.index.isin([number for number, *_ in unseen])
    table, files, sizes = without(unseen), files[seen].reset_index(drop=True), sizes[seen]
    table = table.drop(columns="row")
    _check_features(path, files, kinds)
    because = f"; {len(bad)} rows are bad, the first: {bad[0].id}: {bad[0].column}: {bad[0].reason}" if bad else ""
    _check_splits(path, table, because)
    found_classes = labels.classes(path, list(table["label"][table["split"] == "train"]), order, because)
    content = [dict(kinds), table.to_dict("list"), sizes.to_dict("list")]
    content += [] if target == "classes" else [{"target": target}]
    with_files = table.copy()
    for name in files:
        with_files[str(name)] = files[name]
    return Manifest(
        path=path,
        kinds=dict(kinds),
        classes=found_classes,
        splits=_splits(with_files, list(kinds), found_classes, labels),
        bad=bad,
        fingerprint=hashlib.sha256(json.dumps(content, sort_keys=True, default=_short).encode()).hexdigest(),
        target=target,
    )


def _with_label(path: Path, table: pd.DataFrame, label: str) -> pd.DataFrame:
    """The table with the column that holds the classes as `label`."""
    if label == "label":
        return table
    if label not in table:
        raise UserError(f"--label {label}: {path} has no such column{nearest_column(label, table)}")
    return table.drop(columns="label", errors="ignore").rename(columns={label: "label"})


def _used(kinds: Mapping[str, Kind], label: str, group: str | None) -> set[object]:
    """The columns of a table that are read, if it has them."""
    reserved = [name for name in RESERVED if name != "label"]
    return {*kinds, *reserved, *(f"{name}.{time}" for name in kinds for time in TIMES), label, group}


def _as_text(path: Path, table: pd.DataFrame, modalities: list[str]) -> pd.DataFrame:
    """The relevant columns, all as text; nulls become the empty string."""
    for name in [*modalities, "label"]:
        if name not in table:
            hint = "; --label COLUMN names another" if name == "label" else ""
            raise UserError(f"{path}: has no column {name!r}{nearest_column(name, table)}{hint}")
    if table.empty:
        raise UserError(f"{path}: the manifest has no rows")
    times = [f"{name}.{time}" for name in modalities for time in TIMES]
    table = table[[name for name in (*RESERVED, *times, *modalities) if name in table]].reset_index(drop=True)
    if "id" not in table:
        table["id"] = [str(number) for number in range(len(table))]
    return pd.DataFrame({str(name): [_text(value) for value in table[name]] for name in table})


def _label(value: object, target: TargetKind) -> str:
    return str(_text(joined(value) if target == "multilabel" else value, strip=False))


def nearest_column(name: str, table: Iterable[Any]) -> str:
    """`nearest`, for a column that a table lacks."""
    return nearest(name, [str(column) for column in table]).replace("; allowed: ", "; columns of the file: ")


def _text(value: object, strip: bool = True) -> Any:
    """A field as text; what lies in another file stays as it is, and what is no text at all becomes a word for it."""
    if isinstance(value, Embedded):
        return value
    if what := row_checks.no_text(value):
        return f"({what})" if not isinstance(value, str) else visible(value)
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
        raise UserError(f"--group {group}: {path} has no such column{nearest_column(group, table)}")
    return [_text(value) for value in table[group]]


def _check_splits(path: Path, table: pd.DataFrame, because: str) -> None:
    """Raises a UserError unless there are rows to train and to validate on."""
    for split in ("train", "val"):
        if not (table["split"] == split).any():
            raise UserError(f"{path}: no row is in split {split!r}; training needs train and val{because}")


def _check_features(path: Path, files: pd.DataFrame, kinds: Mapping[str, Kind]) -> None:
    """Refuses one matrix that every row names as its own sample."""
    for name in files:
        named = files[name][files[name] != ""]
        if kinds[str(name)] == "feature" and len(named) > 1 and named.nunique() == 1:
            raise UserError(
                f"{path}: every row names the same file as its {name}, {named.iloc[0]}; save the array of each"
                " sample in a .npy file of its own"
            )


def _splits(table: pd.DataFrame, modalities: list[str], classes: list[str], labels: Labels) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS if (table["split"] == split).any()}
    index = {name: number for number, name in enumerate(classes)}
    for fields in table.to_dict("records"):
        start, end = _clip(fields, "")
        own = [name for name in modalities if any(f"{name}.{time}" in fields for time in TIMES)]
        values = {name: fields[name] for name in modalities if fields[name] != ""}
        clips = {name: _clip(fields, f"{name}.") for name in own}
        label = labels.stored(fields["label"], index)
        rows[fields["split"]].append(Row(fields["id"], label, values, start, end, clips))
    return rows


def _clip(fields: Mapping[str, str], of: str) -> tuple[float | None, float | None]:
    start, end = (row_checks.seconds(fields[of + time]) if fields.get(of + time) else None for time in TIMES)
    return start, end


def _normal(folder: Path) -> Path:
    """A folder without `..`."""
    return Path(os.path.normpath(folder))


def _short(value: Embedded) -> str:
    return value.short


def _media_files(table: pd.DataFrame, kinds: Mapping[str, Kind], folder: Path) -> pd.DataFrame:
    """The paths of the media, one column per modality other than text; empty where a row lacks it."""
    media = [name for name, kind in kinds.items() if kind != "text"]

    def located(value: str | Embedded) -> str | Embedded:
        return value if isinstance(value, Embedded) or not value else str(folder / value)

    return pd.DataFrame({name: [located(value) for value in table[name]] for name in media}, index=table.index)


def _outside(table: pd.DataFrame, kinds: Mapping[str, Kind], folder: Path) -> Iterator[row_checks.Problem]:
    """Media whose path leaves `folder`; symbolic links inside it may lead anywhere."""
    files = _media_files(table, kinds, folder)
    for name in files:
        for number, file in files[name].items():
            if isinstance(file, str) and file and not _normal(Path(file)).is_relative_to(folder):
                yield int(number), str(name), f"is outside {folder}; --allow-outside accepts it"


def _size(file: str | Embedded) -> int:
    """Bytes of a file or of a folder of frames, or -1 if there is none, or none was named.

    Of frames that cannot be looked at, such as links to nothing, the link itself counts; decoding them says more.
    """
    if isinstance(file, Embedded):
        return file.size
    if not file:
        return -1
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
