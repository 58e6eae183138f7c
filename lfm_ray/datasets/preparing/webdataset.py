"""WebDataset: tars whose files belong to one sample if their names agree up to the first dot.

000123.jpg, 000123.cls and 000123.json are a picture, the number of its class, and whatever else is known of it.
As in webdataset/webdataset, src/webdataset/tariterators.py (base_plus_ext, group_by_keys), names include the
folders in a tar, and what follows the dot counts in small letters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lfm_ray.datasets.kinds import Kind, TargetKind
from lfm_ray.datasets.preparing import splits
from lfm_ray.datasets.preparing.labels import strata_of
from lfm_ray.datasets.preparing.manifest import BadRow
from lfm_ray.datasets.preparing.samples import Found, Parts, choose, read_text
from lfm_ray.datasets.preparing.tar_members import CutTar, members

LABELS = ("cls", "label")  # what follows the name of a file that holds the class


def read(
    folder: Path, tars: Sequence[Path], kinds: Mapping[str, Kind], label: str, target: TargetKind = "classes",
    allow_missing: bool = False,
) -> Found:  # fmt: skip
    """The samples of tars, as a table of their members, with `id`, `label`, and `split` where their names state one.

    label: what follows the name of the file that holds the class, or its key in the .json; for the default
    `label` also .cls. Texts come from a .txt or a key of the .json. allow_missing: see `choose`.

    Raises:
        UserError: a file is not a tar, or is compressed.
    """
    rows: list[dict[str, Any]] = []
    unread: list[BadRow] = []
    for path in tars:
        name = path.relative_to(folder).as_posix()
        split = splits.named_in(name)
        try:
            for key, parts in _samples(path):
                row, bad = _row(key, parts, kinds, label, allow_missing)
                unread += bad
                if not bad:
                    rows.append({"id": key, "tar": name.removesuffix(".tar"), "split": split, **row})
        except CutTar as error:
            unread.append(BadRow(name, "", str(path), str(error)))
    table = pd.DataFrame(rows, columns=["id", "tar", "label", "split", *kinds], dtype=object)
    if not table["id"].is_unique and table["tar"].nunique() > 1:  # each tar counts its samples from 0
        table["id"] = table["tar"] + "/" + table["id"]
    if table["split"].isna().all():
        table = table.drop(columns="split")
    return Found(splits.completed(table.drop(columns="tar"), strata_of(target)), unread)


def _samples(path: Path) -> Iterator[tuple[str, Parts]]:
    """The samples of a tar and their files by what follows their names; only one sample is held at a time."""
    current, parts = "", Parts()
    cut: CutTar | None = None
    try:
        for member in members(path):
            before, slash, file = member.name.rpartition("/")
            stem, _, rest = file.partition(".")
            key, rest = f"{before}{slash}{stem}".removeprefix("./"), rest.lower()
            if key != current or rest in parts:
                if parts:
                    yield current, parts
                current, parts = key, Parts()
            parts[rest] = member
    except CutTar as error:
        cut = error
    if parts:
        yield current, parts
    if cut:
        raise cut


def _row(
    key: str, parts: Parts, kinds: Mapping[str, Kind], label: str, allow_missing: bool
) -> tuple[dict[str, Any], list[BadRow]]:
    """The fields of a sample, or why it has none."""
    known: dict[str, Any] = {}
    if "json" in parts:
        try:
            known = json.loads(read_text(parts["json"]))
        except (ValueError, OSError, RecursionError):
            known = None  # type: ignore[assignment]
        if not isinstance(known, dict):
            return {}, [BadRow(key, "json", str(parts["json"]), "is not a JSON object")]
    texts = {name: str(value) for name, value in known.items() if isinstance(value, str | int | float)}
    row, bad = choose(key, parts, kinds, texts, allow_missing)
    if bad:
        return {}, bad
    holding = next((rest for rest in (label, *(LABELS if label == "label" else ())) if rest in parts), None)
    try:
        found = read_text(parts[holding]) if holding else known.get(label)
    except (OSError, UnicodeDecodeError):
        return {}, [BadRow(key, "label", str(parts[str(holding)]), "is not a text in UTF-8")]
    if found is None:
        return {}, [BadRow(key, "label", "", f"the sample has no label: only {', '.join(sorted(parts))}")]
    return {"label": found, **row}, []
