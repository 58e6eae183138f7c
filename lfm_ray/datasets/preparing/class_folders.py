"""A folder for each class, and optionally one for each split above them: ROOT/train/dog/1.jpg, or ROOT/dog/1.jpg.

What belongs to one sample has one name: ROOT/dog/1.jpg and ROOT/dog/1.wav. Of two pictures the column's name
decides: `--image rgb --image depth` reads 1.rgb.png and 1.depth.png.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from lfm_ray.datasets.kinds import SUFFIXES, Kind
from lfm_ray.datasets.preparing import splits
from lfm_ray.datasets.preparing.manifest import BadRow
from lfm_ray.datasets.preparing.samples import Found, Parts, choose
from lfm_ray.errors import UserError
from lfm_ray.files import check_path


def read(root: Path, kinds: Mapping[str, Kind], allow_missing: bool = False) -> Found:
    """The samples under a folder, as a table of absolute paths (texts are read), with `id`, `label` and `split`.

    Hidden files, and those that are of no kind asked for, are passed over; what lies in no class is a bad row.
    allow_missing: see `choose`.

    Raises:
        UserError: there are no folders of classes, or some folders are splits and others are not.
    """
    check_path(root)
    if not root.is_dir():
        raise UserError(f"--folders {root}: there is no such folder")
    above = _folders(root)
    stated = {folder: splits.named(folder.name) for folder in above}
    if any(stated.values()) and not all(stated.values()):
        other = next(folder for folder, split in stated.items() if split is None)
        split = next(folder for folder, split in stated.items() if split)
        raise UserError(f"--folders {root}: {split.name} is a split and {other.name} is none; move one of them")
    if not above:
        raise UserError(f"--folders {root}: holds no folder; each class has one, with its files in it")
    rows = []
    tops = above if any(stated.values()) else [root]
    wanted = _suffixes(kinds) - {*SUFFIXES["text"]}  # beside the classes lie notes on them
    unread = [
        BadRow(str(path.relative_to(root)), "label", str(path), "lies in no folder of a class")
        for folder in dict.fromkeys((root, *tops))
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.suffix.lower() in wanted and not path.is_dir()
    ]
    for top in tops:
        for folder in _folders(top):
            samples = _samples(folder, root, kinds)
            if not samples:
                what = " or ".join(dict.fromkeys(kinds.values()))
                unread.append(BadRow(str(folder.relative_to(root)), "label", str(folder), f"holds no {what}"))
            for name, parts in samples.items():
                row, bad = choose(name, parts, kinds, allow_missing=allow_missing)
                unread += bad
                if not bad:
                    rows.append({"id": name, "label": folder.name, "split": stated.get(top), **row})
    if not rows and not unread:
        raise UserError(f"--folders {root}: {above[0].name} is a split, and holds no folder of a class")
    table = pd.DataFrame(rows, columns=["id", "label", "split", *kinds], dtype=object)
    if not any(stated.values()):
        table = table.drop(columns="split")
    return Found(splits.completed(table), unread)


def _samples(folder: Path, root: Path, kinds: Mapping[str, Kind]) -> dict[str, Parts]:
    """Name -> its files by what follows the name, for all samples of a class, at any depth."""
    samples: dict[str, Parts] = {}
    wanted = _suffixes(kinds)
    for path in _files(folder, "video" in kinds.values(), (os.path.realpath(root),)):
        if path.is_dir():
            samples.setdefault(path.relative_to(root).as_posix(), {}).setdefault("", str(path))
            continue
        if path.suffix.lower() not in wanted:
            continue
        name, rest = _divided(path.name, kinds)
        if len(kinds) == 1:
            name = path.name  # 1.jpg and 1.png are two samples
        samples.setdefault((path.parent / name).relative_to(root).as_posix(), {})[rest] = str(path)
    return samples


def _suffixes(kinds: Mapping[str, Kind]) -> set[str]:
    """Of the files that can be read; those of films hold sound too."""
    wanted = {suffix for kind in kinds.values() for suffix in SUFFIXES[kind]}
    return wanted | set(SUFFIXES["video"]) if "audio" in kinds.values() else wanted


def _divided(name: str, kinds: Mapping[str, Kind]) -> tuple[str, str]:
    """The name of the sample and what follows it: 1.rgb.png -> 1, rgb.png if there is a column `rgb`."""
    stem, _, suffix = name.rpartition(".")
    before, _, column = stem.rpartition(".")
    if before and column in kinds:
        return before, f"{column}.{suffix.lower()}"
    return stem, suffix.lower()


def _files(folder: Path, frames: bool, above: tuple[str, ...]) -> Iterator[Path]:
    """All files below a folder, in order. frames: a folder that holds pictures is one clip, and not looked into.

    above: the real paths of the folders that it lies in, to which a link may lead back.
    """
    if (here := os.path.realpath(folder)) in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir() or (frames and _holds_pictures(path)):
            yield path
        else:
            yield from _files(path, frames, (*above, here))


def _holds_pictures(folder: Path) -> bool:
    return any(name.lower().endswith(SUFFIXES["image"]) for name in os.listdir(folder) if not name.startswith("."))


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))
