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

from collections import Counter
from pathlib import Path

import numpy as np
from rich.table import Table

from lfm_ray.cli import console, parser, run
from lfm_ray.config import Kind, PrepareConfig
from lfm_ray.datasets.cards import names, raw_card, raw_manifest
from lfm_ray.datasets.shards import CONTACT_SHEET, DatasetCard, Shards
from lfm_ray.errors import UserError
from lfm_ray.settings import build as build_settings
from lfm_ray.settings import flatten, load, merge, parse_overrides, read_yaml

KINDS: tuple[Kind, ...] = ("audio", "image", "video", "text")


def main() -> None:
    """The command."""
    arguments = parser("prepare", __doc__ or "")
    arguments.add_argument("manifest", nargs="?", type=Path, help="a .csv or .parquet file")
    for kind in KINDS:
        arguments.add_argument(
            f"--{kind}", metavar="COLUMN", action="append", default=[], help=f"a column of {kind}; repeatable"
        )
    arguments.add_argument("--dataset", metavar="NAME", help=f"a dataset with a card in data/: {', '.join(names())}")
    arguments.add_argument("--root", metavar="FOLDER", type=Path, help="the raw folder of --dataset")
    arguments.add_argument("--out", metavar="FOLDER", type=Path, help="where the shards go")
    arguments.add_argument("--skip-bad", action="store_true", help="leave out rows whose media cannot be decoded")
    arguments.add_argument("--config", metavar="FILE", type=Path, help="settings as YAML, see PrepareConfig")
    arguments.add_argument("--address", help="a Ray cluster; without it, this machine")
    arguments.add_argument("--inspect", metavar="FOLDER", type=Path, help="check shards and show what they hold")
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
    columns = [(column, kind) for kind in KINDS for column in getattr(given, kind)]
    for column, count in Counter(column for column, _ in columns).items():
        if count > 1:
            raise UserError(f"column {column!r} is named for two modalities; a column is one modality")
    if given.dataset and columns:
        raise UserError(f"--dataset {given.dataset}: its card names the modalities; leave out --{columns[0][1]}")
    from lfm_ray.datasets.build import build, check_replaceable
    from lfm_ray.datasets.manifest import check_manifest, read_manifest

    check_replaceable(given.out)
    if given.dataset:
        card = raw_card(given.dataset)
        values = merge(card.preprocessing, flatten(read_yaml(given.config)) if given.config else {})
        overrides = parse_overrides(given.overrides)
        config = build_settings(PrepareConfig, merge(values, overrides), source=given.config, changed=overrides)
        table = raw_manifest(given.dataset, given.root)
        manifest = check_manifest(
            given.root / given.dataset, table, card.modalities, limit=config.limit, seed=config.seed,
            allow_missing_files=given.skip_bad,
        )  # fmt: skip
    else:
        config = load(PrepareConfig, given.config, given.overrides)
        manifest = read_manifest(
            given.manifest, dict(columns), limit=config.limit, seed=config.seed, allow_missing_files=given.skip_bad
        )
    made = build(manifest, config, given.out, skip_bad=given.skip_bad, address=given.address)
    shards = Shards(given.out).card
    console.print(f"{given.out} {'is ready' if made else 'was ready already, nothing to do'}: {summary(shards)}")
    if shards.skipped:
        console.print(f"{len(shards.skipped)} rows with broken files were left out: {given.out / 'bad_files.csv'}")
    console.print(f"Next: python -m lfm_ray.tune --data {given.out}", soft_wrap=True)


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
    modalities = Table("modality", "kind", "shape", "dtype", "mean", "std")
    for name, item in card.modalities.items():
        modalities.add_row(name, item.kind, _shape(item.shape), item.dtype, f"{item.mean:.4g}", f"{item.std:.4g}")
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
    console.print(f"all checksums are right: {path}", soft_wrap=True)
    try:
        contact_sheet(shards, path / CONTACT_SHEET)
    except PermissionError:
        raise UserError(f"{path / CONTACT_SHEET}: cannot be written there") from None
    console.print(f"samples         {path / CONTACT_SHEET}", soft_wrap=True)


def _shape(shape: list[int]) -> str:
    return " x ".join(str(size) for size in shape)


if __name__ == "__main__":
    run(main)
