"""Raw media and labels -> shards.

    python -m lfm_ray.prepare manifest.csv --audio audio --image image --out shards/mine
    python -m lfm_ray.prepare manifest.csv --video clip --text caption --out shards/mine --skip-bad
    python -m lfm_ray.prepare --folders ROOT --image --out shards/mine
    python -m lfm_ray.prepare saved_dataset --image --label fine_label --out shards/mine
    python -m lfm_ray.prepare --dataset crema_d --root RAW --out shards/crema_d
    python -m lfm_ray.prepare --inspect shards/mine
    python -m lfm_ray.prepare --embed image=facebook/dinov2-small --data shards/mine --out shards/mine-dino

The manifest is a CSV or Parquet table with a column per modality (the path of a file, or the text
itself), `label`, and optionally `split` (train, val, test), `id`, `start` and `end` (seconds). In its
place stands a folder of Hugging Face's `datasets` (save_to_disk, or Parquet files) or of WebDataset's
tars; --folders ROOT takes a folder for each class. A column without a name is called like its kind. A
job that was interrupted goes on when the same command is run again. Datasets of the field have a
card in data/, which says how their raw folder must be laid out and how they are preprocessed.

--embed MODALITY=FOLDER_OR_NAME runs a frozen pretrained model over shards once, and writes shards that
hold its features instead; training on them needs no encoder. An exported model takes raw files again.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import get_args

from lfm_ray.cli import parser, run, storage_folder, typed
from lfm_ray.datasets.kinds import Kind, TargetKind
from lfm_ray.errors import UserError
from lfm_ray.resources import DATA, SPACES, shipped_names


def main() -> None:
    """The command."""
    given = arguments()

    # After the command line has been read, so that --help answers at once.
    from lfm_ray.console import console
    from lfm_ray.datasets.preparing.cards import raw_card
    from lfm_ray.datasets.preparing.staging import BAD_ROWS
    from lfm_ray.report.inspection import (
        clipped_sound,
        cut_sequences,
        inspect,
        missing_values,
        rows_beside_the_papers,
        summary,
    )
    from lfm_ray.workflows.preparing import prepare

    if given.inspect:
        inspect(given.inspect, console)
        return
    if given.embed:
        from lfm_ray.workflows.embedding import embed

        shards, made = embed(given.data, given.out, given.embed, given.pooling, address=given.address, console=console)
        state = "is ready" if made else "was ready already, nothing to do"
        console.print(f"{given.out} {state}: {summary(shards.card)}")
        console.print(f"Next: {typed('tune')} --data {given.out}", soft_wrap=True)
        return
    shards, made = prepare(
        given.manifest, {kind: getattr(given, kind) for kind in get_args(Kind)}, out=given.out, dataset=given.dataset,
        root=given.root, folders=given.folders, label=given.label, settings=given.overrides,
        config=given.config, skip_bad=given.skip_bad, group=given.group, target=given.target,
        allow_outside=given.allow_outside, allow_missing=given.allow_missing, address=given.address, progress=True,
    )  # fmt: skip
    state = "is ready" if made else "was ready already, nothing to do"
    console.print(f"{given.out} {state}: {summary(shards.card)}")
    if given.dataset and (papers := raw_card(given.dataset).paper_rows):
        console.print(rows_beside_the_papers(shards.card, papers))
    if lacking := missing_values(shards.card):
        console.print(f"missing: {lacking}", soft_wrap=True)
    for line in [*cut_sequences(shards.card), *clipped_sound(shards.card)]:
        console.print(line, soft_wrap=True)
    if shards.card.skipped:
        console.print(f"{len(shards.card.skipped)} bad rows were left out: {given.out / BAD_ROWS}")
    recipe = f" {given.dataset}" if given.dataset in shipped_names(SPACES) else ""
    console.print(f"Next: {typed('tune')}{recipe} --data {given.out}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = parser("prepare", __doc__ or "")
    add = result.add_argument
    add(
        "manifest",
        nargs="?",
        type=Path,
        help="a .csv, .parquet or .tar file, or a folder of .parquet, .arrow or .tar files",
    )
    for kind in get_args(Kind):
        add(f"--{kind}", metavar="COLUMN", action="append", nargs="?", const=kind, default=[],
            help=f"a column of {kind}; repeatable; default: {kind}")  # fmt: skip
    add("--folders", metavar="ROOT", type=Path, help="instead of a manifest: ROOT/CLASS/FILE or ROOT/SPLIT/CLASS/FILE")
    add("--label", metavar="COLUMN", default="label", help="the column of the labels; default: label")
    add("--dataset", metavar="NAME",
        help=f"a dataset with a card in data/: {', '.join(shipped_names(DATA))}; or a card's .yaml")  # fmt: skip
    add("--root", metavar="FOLDER", type=Path, help="the raw folder of --dataset")
    add("--out", metavar="FOLDER", type=Path, help="where the shards go")
    add("--group", metavar="COLUMN",
        help="without a column split: rows that agree in this one, such as a speaker, get the same split")  # fmt: skip
    add("--target", choices=get_args(TargetKind), default="classes",
        help="what label is: one class (the default), several labels such as dog;rain, or a number")  # fmt: skip
    add("--allow-outside", action="store_true", help="read media outside the manifest's folder too")
    add("--allow-missing", action="store_true", help="keep rows that lack some of their media or texts, but not all")
    add("--skip-bad", action="store_true", help="leave out rows that cannot be used, and list them")
    add("--config", metavar="FILE", type=Path, help="settings as YAML, see PrepareConfig")
    add("--address", help="a Ray cluster; without it, this machine")
    add("--inspect", metavar="FOLDER", type=storage_folder, help="check shards, show what they hold")
    add("--embed", metavar="MODALITY=MODEL", action="append", default=[],
        help="a folder of save_pretrained, or a name on the Hugging Face hub; repeatable")  # fmt: skip
    add("--pooling", metavar="MODALITY=POOLING", action="append", default=[],
        help="of --embed: model, cls or mean, or tokens, all of the sequence; default: as it is published")  # fmt: skip
    add("--data", metavar="FOLDER", type=storage_folder, help="of --embed: the shards to read")
    given = result.parse_args()
    if given.inspect:
        return given
    given.embed, given.pooling = (pairs(name, getattr(given, name)) for name in ("embed", "pooling"))
    if given.embed or given.pooling or given.data:
        raw = given.manifest or given.dataset or given.folders or any(getattr(given, kind) for kind in get_args(Kind))
        if not given.embed or given.data is None or given.out is None or raw or given.overrides:
            raise UserError("--embed MODALITY=MODEL goes with --data SHARDS, --out FOLDER and --pooling, nothing else")
        return given
    sources = (given.manifest, given.dataset, given.folders)
    if given.out is None or sum(source is not None for source in sources) != 1:
        raise UserError(
            "give a manifest, --folders ROOT or --dataset NAME, and --out FOLDER; or --inspect FOLDER; --help shows"
            " examples"
        )
    if given.root is not None and given.dataset is None:
        raise UserError("--root goes with --dataset; the paths of a manifest start at its own folder")
    return given


def pairs(name: str, given: list[str]) -> dict[str, str]:
    """`["image=dino"]` -> `{"image": "dino"}`.

    Raises:
        UserError: one is written otherwise, or a modality is named twice.
    """
    found: dict[str, str] = {}
    for item in given:
        modality, equals, value = item.partition("=")
        if not (modality and equals and value):
            raise UserError(f"--{name} {item}: write it as MODALITY={'MODEL' if name == 'embed' else 'POOLING'}")
        if modality in found:
            raise UserError(f"--{name}: {modality} is named twice")
        found[modality] = value
    return found


if __name__ == "__main__":
    run(main)
