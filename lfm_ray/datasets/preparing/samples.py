"""What sources without a manifest share: which of a sample's files is which modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lfm_ray.datasets.kinds import SUFFIXES, Kind
from lfm_ray.datasets.preparing.manifest import BadRow
from lfm_ray.datasets.preparing.tar_members import TarMember

Part = str | TarMember
Parts = dict[str, Part]
"""What follows a sample's name, in small letters, such as `jpg` or `depth.png` -> the file."""


@dataclass(frozen=True)
class Found:
    """What was found in a folder.

    table: as a manifest has it. unread: what could not be made a row of it. classes: the possible labels, in
    order, where the source says them.
    """

    table: pd.DataFrame
    unread: list[BadRow]
    classes: list[str] | None = None


class Chosen(NamedTuple):
    """Modality -> the file, or the text; and why it is none."""

    values: dict[str, Part]
    bad: list[BadRow]


def choose(
    name: str,
    parts: Parts,
    kinds: Mapping[str, Kind],
    texts: Mapping[str, str] | None = None,
    allow_missing: bool = False,
) -> Chosen:
    """The file of each modality of a sample; of a text its content.

    A column has the name of what follows the sample's name (`jpg`, or `depth` of `depth.png`). One that is the only
    of its kind may have any name, and takes the sample's only file of that kind. Sound may be that of a video.
    texts: by name, of a sample that has some beside its files. allow_missing: a modality without file is left out,
    unless the sample has none at all.
    """
    values: dict[str, Part] = {}
    for column, kind in kinds.items():
        found = [part for part in parts if part == column or part.rpartition(".")[0] == column]
        if not found and list(kinds.values()).count(kind) == 1:
            found = _of_kind(kind, list(parts))
        if kind == "text" and not found and column in (texts or {}):
            values[column] = (texts or {})[column]
        elif not found and allow_missing:
            continue
        elif len(found) != 1:
            listed = ", ".join(sorted(found or parts))
            reason = f"has {len(found)} files for it ({listed}); name the column" if found else f"has only {listed}"
            return Chosen({}, [BadRow(name, column, "", f"the sample {reason}")])
        elif kind == "text":
            try:
                values[column] = read_text(parts[found[0]])
            except (OSError, UnicodeDecodeError):
                return Chosen({}, [BadRow(name, column, str(parts[found[0]]), "is not a text in UTF-8")])
        else:
            values[column] = parts[found[0]]
    if not values:
        reason = f"the sample has only {', '.join(sorted(parts))}"
        return Chosen({}, [BadRow(name, next(iter(kinds)), "", reason)])
    return Chosen(values, [])


def read_text(part: Part) -> str:
    """The content of a small text file."""
    content = Path(part).read_bytes() if isinstance(part, str) else part.read()
    return content.decode("utf-8-sig").strip()


def _of_kind(kind: Kind, parts: Sequence[str]) -> list[str]:
    order: tuple[Kind, ...] = (kind, "video") if kind == "audio" else (kind,)
    for fitting in order:
        found = [part for part in parts if _is(part, fitting)]
        if found:
            return [part for part in found if "." not in part] or found  # rather jpg than mask.jpg
    return []


def _is(part: str, kind: Kind) -> bool:
    return f".{part.rpartition('.')[2]}" in SUFFIXES[kind] or (kind == "video" and not part)
