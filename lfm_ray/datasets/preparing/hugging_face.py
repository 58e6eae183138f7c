"""A dataset of Hugging Face's `datasets` on disk: what save_to_disk wrote, or Parquet or Arrow files.

Read without that library. As in huggingface/datasets, src/datasets/arrow_dataset.py and dataset_dict.py (save_to_disk):
dataset_dict.json names the splits, each a folder whose state.json names its Arrow files; a picture, a sound or a video
is {bytes, path}; classes are numbers, whose names are in the file's metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lfm_ray.datasets.kinds import Kind, TargetKind
from lfm_ray.datasets.preparing import splits
from lfm_ray.datasets.preparing.arrow_files import ArrowFile, bytes_field
from lfm_ray.datasets.preparing.labels import strata_of
from lfm_ray.datasets.preparing.manifest import BadRow
from lfm_ray.datasets.preparing.readers.annotations import files_below
from lfm_ray.datasets.preparing.samples import Found
from lfm_ray.datasets.preparing.tables import arrow_table
from lfm_ray.errors import UserError

STATE, DICT, INFO = "state.json", "dataset_dict.json", "dataset_info.json"
FEATURES = {"image": "Image", "audio": "Audio", "video": "Video"}
SPLIT, ID = "split", "id"


def files_of(folder: Path) -> tuple[list[tuple[Path, str | None]], list[BadRow]]:
    """The Arrow or Parquet files of a dataset, with the split that each is named after; and what cannot be read.

    Raises:
        UserError: a file that describes the dataset cannot be read.
    """
    found: list[tuple[Path, str | None]] = []
    bad = []
    for state in _states(folder):
        name = state.parent.name if state.parent != folder else str(_json(state).get("_split") or "")
        split = splits.named(name)
        if state.parent != folder and split is None:
            bad.append(BadRow(name, SPLIT, str(state.parent), "unknown split; allowed: train, validation, test"))
            continue
        content = _json(state)
        if content.get("_indices_data_files"):
            raise UserError(
                f"{state}: was saved with a selection of rows by an old version of datasets; load it with datasets, and"
                " save it after flatten_indices()"
            )
        names = [_name(one.get("filename"), state) for one in content.get("_data_files") or []]
        found += [(state.parent / name, split) for name in names]
    if not found and not bad:
        files = sorted(path for path in files_below(folder) if path.suffix in (".parquet", ".arrow"))
        visible = [path for path in files if not path.name.startswith((".", "cache-"))]
        found = [(path, splits.named_in(path.relative_to(folder).as_posix())) for path in visible]
        bad = [BadRow(path.name, "", str(path), "there is no such file") for path in _missing(visible)]
    return found, bad


def _missing(files: Sequence[Path]) -> list[Path]:
    """What is not there of train-00000-of-00003.parquet and so on."""
    parts = [(path, match) for path in files if (match := re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})", path.stem))]
    wanted = {
        path.with_name(f"{match[1]}{number:05d}-of-{match[3]}{path.suffix}")
        for path, match in parts
        for number in range(int(match[3]))
    }
    return sorted(wanted - set(files))


def _name(name: object, source: Path) -> str:
    """The name of a file or folder beside `source`, which names it.

    Raises:
        UserError: it is a path to somewhere else.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"{source}: names {name!r}, which is not a file or folder beside it")
    return name


def read(
    folder: Path, files: Sequence[tuple[Path, str | None]], kinds: Mapping[str, Kind], label: str, group: str | None,
    target: TargetKind = "classes",
) -> Found:  # fmt: skip
    """The rows of a dataset as a table, media as `Cell`; where no file is named after a split, a column of it counts.

    A modality is a column of the dataset; one that is named like its kind may also be the only column of that kind.
    Ids are those of a column `id`, if they differ, else each file's name and row.

    Raises:
        UserError: a column is missing or of a type that it cannot have, or the files differ.
    """
    tables, unread = [], []
    columns: dict[str, str] = {}
    names: list[str] | None = None
    stated = any(split for _, split in files)
    for path, split in files:
        if stated and split is None:
            reason = "its name states no split, as those of other files do"
            unread.append(BadRow(path.name, SPLIT, str(path), reason))
            continue
        try:
            file = ArrowFile(path)
        except UserError as error:
            unread.append(BadRow(path.name, "", str(path), str(error).removeprefix(f"{path}: ")))
            continue
        features = file.features() or _features_beside(path, folder)
        columns = columns or {_column(name, kind, file, features, label): name for name, kind in kinds.items()}
        others = [label, *([group] if group else []), ID, *([] if stated else [SPLIT])]
        for name in [*columns, label]:
            if name not in file.schema.names:
                hint = "; --label COLUMN names the one with the classes" if name == label else ""
                known = ", ".join(file.schema.names)
                raise UserError(f"{path}: has no column {name!r}; columns of the file: {known}{hint}")
        lists = [label] if target == "multilabel" else []
        table = arrow_table(file, {column: kinds[name] for column, name in columns.items()}, others, lists)
        classes = features.get(label, {}).get("names")
        if classes:
            table[label] = [_class(value, classes) for value in table[label]]
            names = names or [str(one) for one in classes]
        if stated:
            table[SPLIT] = split
        elif SPLIT in table:
            table[SPLIT] = [splits.named(str(value)) or value for value in table[SPLIT]]
        place = path.relative_to(folder).with_suffix("").as_posix()
        table["place"] = [f"{place}:{row}" for row in range(len(table))]
        tables.append(table.rename(columns=columns | {label: "label"}))
    if not tables:
        return Found(pd.DataFrame(), unread)
    whole = pd.concat([table.astype(object) for table in tables], ignore_index=True)
    if ID not in whole or not whole[ID].is_unique:
        whole[ID] = whole["place"]
    whole = whole.drop(columns="place")
    return Found(splits.completed(whole, strata_of(target)) if stated else whole, unread, names)


def _states(folder: Path) -> list[Path]:
    """The files that say which Arrow files belong to a dataset, one for each split."""
    if (folder / DICT).is_file():
        return [folder / _name(name, folder / DICT) / STATE for name in _json(folder / DICT).get("splits") or []]
    return [folder / STATE] if (folder / STATE).is_file() else []


def _column(name: str, kind: Kind, file: ArrowFile, features: Mapping[str, Any], label: str) -> str:
    """The column of a modality."""
    schema = file.schema
    if name in schema.names or name != kind:
        return name
    fitting = [
        column.name
        for column in schema
        if features.get(column.name, {}).get("_type") == FEATURES.get(kind, "")
        or (not features and kind in FEATURES and bytes_field(column.type))
        or (kind == "text" and str(column.type) in ("string", "large_string") and column.name not in (label, ID, SPLIT))
    ]
    return fitting[0] if len(fitting) == 1 else name


def _class(value: object, classes: Sequence[object]) -> object:
    """The name of a class; one below 0 says that there is none."""
    if not isinstance(value, int | float) or value != value or not float(value).is_integer():
        return value
    number = int(value)
    return None if number < 0 else str(classes[number]) if number < len(classes) else str(number)


def _features_beside(path: Path, folder: Path) -> dict[str, Any]:
    """What a dataset_info.json in the file's folder, or in the dataset's, says of the columns."""
    for info in (path.parent / INFO, folder / INFO):
        if info.is_file():
            features = _json(info).get("features")
            return {name: one for name, one in (features or {}).items() if isinstance(one, dict)}
    return {}


def _json(path: Path) -> dict[str, Any]:
    """Raises a UserError if there is no such file, or it is not a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file, which the dataset needs") from None
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a JSON object, and cannot say what the dataset holds")
    return content
