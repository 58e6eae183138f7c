"""What shards are made of: a manifest, a dataset in one of the usual forms, or a raw one that has a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.kinds import Kind, TargetKind
from lfm_ray.datasets.preparing import class_folders, hugging_face, webdataset
from lfm_ray.datasets.preparing.cards import raw_card, raw_manifest
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.manifest import Manifest, check_kinds, check_manifest, read_manifest
from lfm_ray.datasets.preparing.raw_folders import located
from lfm_ray.datasets.preparing.readers.annotations import files_below
from lfm_ray.errors import UserError
from lfm_ray.files import check_regular
from lfm_ray.settings import Overrides, build, flatten, merge, parse_overrides, read_yaml


def kinds_of(columns: Mapping[Kind, Sequence[str]]) -> dict[str, Kind]:
    """Kind -> its columns, as column -> kind.

    Raises:
        UserError: a column is named twice.
    """
    named = [(column, kind) for kind, of_kind in columns.items() for column in of_kind]
    for column, count in Counter(column for column, _ in named).items():
        if count > 1:
            raise UserError(f"column {column!r} is named for two modalities; a column is one modality")
    return dict(named)


def of_manifest(
    manifest: Path | pd.DataFrame,
    kinds: Mapping[str, Kind],
    config: PrepareConfig,
    *,
    root: Path | None = None,
    label: str = "label",
    group: str | None = None,
    allow_outside: bool = False,
    target: TargetKind = "classes",
    allow_missing: bool = False,
) -> Manifest:
    """The rows of a manifest, of a dataset of Hugging Face's `datasets`, or of WebDataset's tars.

    root: the folder at which the relative paths of a data frame start; default the current one. Those
    of a file start at the file's folder. label, group, target, allow_missing: see `read_manifest`.

    Raises:
        UserError: see `lfm_ray.datasets.preparing.manifest.read_manifest`.
    """
    if isinstance(manifest, Path):
        check_regular(manifest)
    if isinstance(manifest, Path) and (manifest.is_dir() or ".tar" in manifest.suffixes):
        return _of_collection(manifest, kinds, config, label, group, allow_outside, target, allow_missing)
    if isinstance(manifest, Path):
        return read_manifest(
            manifest, kinds, limit=config.limit, seed=config.seed, label=label, group=group,
            allow_outside=allow_outside, target=target, allow_missing=allow_missing,
        )  # fmt: skip
    check_kinds(kinds)
    if not isinstance(manifest, pd.DataFrame) or isinstance(manifest.columns, pd.MultiIndex):
        is_frame = isinstance(manifest, pd.DataFrame)
        what = "columns of several levels" if is_frame else f"a {type(manifest).__name__}"
        raise UserError(f"manifest: must be a path or a data frame of pandas with a name for each column, not {what}")
    return check_manifest(
        (root or Path()) / "data frame", manifest, kinds, limit=config.limit, seed=config.seed, label=label,
        group=group, allow_outside=allow_outside, target=target, allow_missing=allow_missing,
    )  # fmt: skip


def of_folders(root: Path, kinds: Mapping[str, Kind], config: PrepareConfig, allow_missing: bool = False) -> Manifest:
    """The rows of a folder that has one for each class; allow_missing: see `read_manifest`.

    Raises:
        UserError: see `lfm_ray.datasets.preparing.class_folders.read` and `check_manifest`.
    """
    check_kinds(kinds)
    found = class_folders.read(root.absolute(), kinds, allow_missing)
    return check_manifest(
        root, found.table, kinds, limit=config.limit, seed=config.seed, folder=root, unread=found.unread,
        allow_missing=allow_missing,
    )  # fmt: skip


def _of_collection(
    path: Path,
    kinds: Mapping[str, Kind],
    config: PrepareConfig,
    label: str,
    group: str | None,
    allow_outside: bool,
    target: TargetKind,
    allow_missing: bool,
) -> Manifest:
    """The rows of a tar, or of a folder that holds tars, Parquet files or Arrow files."""
    check_kinds(kinds)
    folder = path if path.is_dir() else path.parent
    tars = sorted(file for file in files_below(path) if ".tar" in file.suffixes[-2:] or file.suffix == ".tgz")
    if tars or not path.is_dir():
        found = webdataset.read(folder, tars if path.is_dir() else [path], kinds, label, target, allow_missing)
    else:
        files, unread = hugging_face.files_of(path)
        if not files and not unread:
            raise UserError(
                f"{path}: holds no .parquet, .arrow or .tar file; a folder of files for each class is --folders {path}"
            )
        found = hugging_face.read(path, files, kinds, label, group, target)
        found.unread[:0] = unread
    return check_manifest(
        path, found.table, kinds, classes=found.classes if target == "classes" else None, limit=config.limit,
        seed=config.seed, group=group, allow_outside=allow_outside, folder=folder, unread=found.unread, target=target,
        allow_missing=allow_missing,
    )  # fmt: skip


def of_dataset(
    name: str,
    root: Path,
    file: Path | None = None,
    settings: Overrides = (),
    allow_missing: bool = False,
    target: TargetKind = "classes",
) -> tuple[Manifest, PrepareConfig]:
    """The rows of a raw dataset under `root`, and how its card has them prepared.

    file: settings as YAML, which go before those of the card; settings: they go before both.
    allow_missing: see `read_manifest`. target: regression, where the card names a column of numbers.

    Raises:
        UserError: there is no such card or no such target, or the folder is not laid out as it says.
    """
    card, overrides = raw_card(name), parse_overrides(settings)
    if target == "multilabel" or (target == "regression" and card.numbers is None):
        raise UserError(f"--dataset {name}: its card says what the labels are; leave out --target {target}")
    values = merge(card.preprocessing, flatten(read_yaml(file)) if file else {})
    config = build(PrepareConfig, merge(values, overrides), source=file, changed=overrides)
    table = located(raw_manifest(name, root), root, card.modalities)
    classes = card.classes if isinstance(card.classes, list) and target == "classes" else None
    label = card.numbers if target == "regression" and card.numbers else "label"
    manifest = check_manifest(
        root / Path(name).stem, table, card.modalities, classes=classes, limit=config.limit, seed=config.seed,
        label=label, target=target, allow_missing=allow_missing,
    )  # fmt: skip
    if target == "classes" and isinstance(card.classes, int) and len(manifest.classes) > card.classes:
        raise UserError(f"--root {root}: has {len(manifest.classes)} classes, its card says {card.classes}")
    return manifest, config
