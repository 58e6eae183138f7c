"""Raw media and labels -> shards.

    python -m lfm_ray.prepare manifest.csv --audio audio --image image --out shards/mine
    python -m lfm_ray.prepare manifest.csv --video clip --text caption --out shards/mine --skip-bad
    python -m lfm_ray.prepare --dataset crema_d --root RAW --out shards/crema_d
    python -m lfm_ray.prepare --inspect shards/mine

The manifest is a CSV or Parquet table with a column per modality (the path of a file, or the text
itself), `label`, and optionally `split` (train, val, test), `id`, `start` and `end` (seconds). A
job that was interrupted goes on when the same command is run again. Datasets of the field have a
card in data/, which says how their raw folder must be laid out and how they are preprocessed.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from rich.table import Table

from lfm_ray.cli import parser, run, storage_folder
from lfm_ray.console import console
from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.preparing.cards import names
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.shards import CONTACT_SHEET, DatasetCard, Shards
from lfm_ray.errors import UserError
from lfm_ray.settings import build, flatten, load, merge, parse_overrides, read_yaml
from lfm_ray.storage import shown

if TYPE_CHECKING:
    from lfm_ray.datasets.preparing.manifest import Manifest


def main() -> None:
    """The command."""
    arguments = parser("prepare", __doc__ or "")
    arguments.add_argument("manifest", nargs="?", type=Path, help="a .csv or .parquet file")
    for kind in get_args(Kind):
        arguments.add_argument(
            f"--{kind}", metavar="COLUMN", action="append", default=[], help=f"a column of {kind}; repeatable"
        )
    arguments.add_argument("--dataset", metavar="NAME", help=f"a dataset with a card in data/: {', '.join(names())}")
    arguments.add_argument("--root", metavar="FOLDER", type=Path, help="the raw folder of --dataset")
    arguments.add_argument("--out", metavar="FOLDER", type=Path, help="where the shards go")
    arguments.add_argument("--allow-outside", action="store_true", help="read media outside the manifest's folder too")
    arguments.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used, and list them")
    arguments.add_argument("--config", metavar="FILE", type=Path, help="settings as YAML, see PrepareConfig")
    arguments.add_argument("--address", help="a Ray cluster; without it, this machine")
    arguments.add_argument("--inspect", metavar="FOLDER", type=storage_folder, help="check shards, show what they hold")
    given = arguments.parse_args()
    if given.inspect:
        inspect(given.inspect)
        return
    if given.out is None or (given.manifest is None) == (given.dataset is None):
        raise UserError(
            "give a manifest or --dataset NAME, and --out FOLDER; or --inspect FOLDER; --help shows examples"
        )
    if given.dataset and given.root is None:
        raise UserError(f"--dataset {given.dataset}: give its raw folder with --root")
    columns = [(column, kind) for kind in get_args(Kind) for column in getattr(given, kind)]
    for column, count in Counter(column for column, _ in columns).items():
        if count > 1:
            raise UserError(f"column {column!r} is named for two modalities; a column is one modality")
    if given.dataset and columns:
        raise UserError(f"--dataset {given.dataset}: its card names the modalities; leave out --{columns[0][1]}")
    from lfm_ray.datasets.preparing.build import build as build_shards
    from lfm_ray.datasets.preparing.staging import BAD_ROWS, check_replaceable

    check_replaceable(given.out)
    manifest, config = _of_dataset(given) if given.dataset else _of_manifest(given, dict(columns))
    made = build_shards(manifest, config, given.out, skip_bad=given.skip_bad, address=given.address)
    shards = Shards(given.out).card
    console.print(f"{given.out} {'is ready' if made else 'was ready already, nothing to do'}: {summary(shards)}")
    if shards.skipped:
        console.print(f"{len(shards.skipped)} bad rows were left out: {given.out / BAD_ROWS}")
    recipe = f" search_spaces/{given.dataset}.yaml" if given.dataset else ""
    console.print(f"Next: python -m lfm_ray.tune{recipe} --data {given.out}", soft_wrap=True)


def _of_manifest(given: argparse.Namespace, columns: dict[str, Kind]) -> tuple[Manifest, PrepareConfig]:
    from lfm_ray.datasets.preparing.manifest import read_manifest

    config = load(PrepareConfig, given.config, given.overrides)
    return read_manifest(
        given.manifest, columns, limit=config.limit, seed=config.seed, allow_outside=given.allow_outside
    ), config


def _of_dataset(given: argparse.Namespace) -> tuple[Manifest, PrepareConfig]:
    from lfm_ray.datasets.preparing.cards import raw_card, raw_manifest
    from lfm_ray.datasets.preparing.manifest import check_manifest

    card, overrides = raw_card(given.dataset), parse_overrides(given.overrides)
    values = merge(card.preprocessing, flatten(read_yaml(given.config)) if given.config else {})
    config = build(PrepareConfig, merge(values, overrides), source=given.config, changed=overrides)
    table, root = raw_manifest(given.dataset, given.root), given.root / given.dataset
    classes = card.classes if isinstance(card.classes, list) else None
    manifest = check_manifest(root, table, card.modalities, classes=classes, limit=config.limit, seed=config.seed)
    if isinstance(card.classes, int) and len(manifest.classes) > card.classes:
        raise UserError(f"--root {given.root}: has {len(manifest.classes)} classes, its card says {card.classes}")
    return manifest, config


def summary(card: DatasetCard) -> str:
    """Rows per split and shapes, in one line."""
    rows = ", ".join(f"{card.rows(split)} {split}" for split in card.splits)
    shapes = ", ".join(f"{name} {_shape(item.shape)} {item.dtype}" for name, item in card.modalities.items())
    return f"{rows} rows of {len(card.classes)} classes; {shapes}"


def inspect(path: Path) -> None:
    """Verifies every checksum, shows the modalities and the rows of each class and split, and draws samples."""
    from lfm_ray.report.contact_sheet import contact_sheet

    shards = Shards(path)
    shards.verify()
    card = shards.card
    modalities = Table("modality", "kind", "shape", "dtype", "stored as", "mean", "std")
    for name, item in card.modalities.items():
        numbers = f"{item.mean:.4g}", f"{item.std:.4g}"
        modalities.add_row(name, item.kind, _shape(item.shape), item.dtype, item.storage, *numbers)
    counts = {
        split: np.bincount(shards.take(split, np.arange(card.rows(split)), [])[1], minlength=len(card.classes))
        for split in card.splits
    }
    classes = Table("class", *card.splits, show_footer=True)
    classes.columns[0].footer = "all"
    for column, split in zip(classes.columns[1:], card.splits, strict=True):
        column.justify, column.footer = "right", str(card.rows(split))
    for index, name in enumerate(card.classes):
        classes.add_row(name, *(str(count[index]) for count in counts.values()))
    console.print(modalities, classes)
    console.print(f"all checksums are right: {shown(path)}", soft_wrap=True)
    try:
        contact_sheet(shards, path / CONTACT_SHEET)
    except PermissionError:
        raise UserError(f"{path / CONTACT_SHEET}: cannot be written there") from None
    console.print(f"samples         {path / CONTACT_SHEET}", soft_wrap=True)


def _shape(shape: list[int]) -> str:
    return " x ".join(str(size) for size in shape)


if __name__ == "__main__":
    run(main)
