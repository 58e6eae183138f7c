"""Raw media and labels -> shards: what `lfm_ray.prepare` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import pandas as pd

from lfm_ray.datasets.kinds import Kind, TargetKind
from lfm_ray.datasets.preparing.build import build
from lfm_ray.datasets.preparing.config import PrepareConfig
from lfm_ray.datasets.preparing.sources import kinds_of, of_dataset, of_folders, of_manifest
from lfm_ray.datasets.preparing.staging import check_replaceable
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.settings import Overrides, load, nearest


def prepare(
    manifest: Path | pd.DataFrame | None,
    columns: Mapping[Kind, Sequence[str]],
    *,
    out: Path,
    dataset: str | None,
    root: Path | None,
    folders: Path | None,
    label: str,
    settings: Overrides,
    config: Path | None,
    skip_bad: bool,
    group: str | None,
    target: TargetKind,
    allow_outside: bool,
    allow_missing: bool,
    address: str | None,
    progress: bool,
) -> tuple[Shards, bool]:
    """Makes the shards `out`; also returns whether anything had to be done. For the rest see `lfm_ray.prepare`."""
    if sum(source is not None for source in (manifest, dataset, folders)) != 1:
        raise UserError("give a manifest, --folders ROOT or --dataset NAME, and --out FOLDER")
    if target not in get_args(TargetKind):
        raise UserError(f"--target {target}: unknown{nearest(str(target), get_args(TargetKind))}")
    kinds = kinds_of(columns)
    check_replaceable(out)
    if dataset is not None:
        if label != "label":
            raise UserError(f"--dataset {dataset}: its card says what the classes are; leave out --label")
        if root is None:
            raise UserError(f"--dataset {dataset}: give its raw folder with --root")
        if kinds:
            column, kind = next(iter(kinds.items()))
            raise UserError(f"--dataset {dataset}: its card names the modalities; leave out --{kind} {column}")
        if group is not None:
            raise UserError(f"--dataset {dataset}: its card says how it is split; leave out --group")
        rows, how = of_dataset(dataset, root, config, settings, allow_missing, target)
    elif folders is not None:
        if group is not None or label != "label":
            raise UserError(f"--folders {folders}: its folders are the classes; leave out --label and --group")
        if target != "classes":
            raise UserError(f"--folders {folders}: its folders are the classes; leave out --target {target}")
        how = load(PrepareConfig, config, settings)
        rows = of_folders(folders, kinds, how, allow_missing)
    else:
        assert manifest is not None
        how = load(PrepareConfig, config, settings)
        rows = of_manifest(
            manifest, kinds, how, root=root, label=label, group=group, allow_outside=allow_outside, target=target,
            allow_missing=allow_missing,
        )  # fmt: skip
    made = build(rows, how, out, skip_bad=skip_bad, address=address, progress=progress)
    return Shards(out), made
