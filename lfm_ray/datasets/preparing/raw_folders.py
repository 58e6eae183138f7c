"""Raw folders that are not quite laid out as a card says: what can only mean one file is found, the rest is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lfm_ray.datasets.kinds import Kind
from lfm_ray.errors import UserError

if TYPE_CHECKING:  # imported where it is used: it takes seconds
    import pandas as pd

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".rar", ".7z")
MOST_TRIED = 50  # folders within a root, one of which may be the one that is meant
MOST_NAMED = 3


def located(table: pd.DataFrame, root: Path, modalities: Mapping[str, Kind]) -> pd.DataFrame:
    """The rows of a reader, with the media that are not at their paths at those where they are.

    An extension can be written in capitals (1.JPG), a folder's name too, and a folder can lie in one of its own name,
    as archives are often unpacked. Files that are nowhere keep their paths; each is a row that cannot be used.

    Raises:
        UserError: not a single file of a modality is there.
    """
    inside = _Inside(root.absolute())
    for name, kind in modalities.items():
        if kind in ("text", "feature") or name not in table or not all(isinstance(one, str) for one in table[name]):
            continue
        paths = [path for path in table[name].unique() if path]
        moved = {path: inside.find(path) for path in paths if not os.path.exists(path)}
        if paths and all(moved.get(path, path) is None for path in paths):
            unpack = f"; unpack {packed} first" if (packed := archives(root)) else ""
            raise UserError(
                f"--root {root}: none of its {len(paths):,} files of {name} is there, such as {paths[0]}{unpack}"
            )
        table[name] = [moved.get(path) or path for path in table[name]]
    return table


def where_it_is(root: Path, reader: Callable[[Path], pd.DataFrame]) -> str:
    """What to do where a root cannot be read, to be added to why: the folder in it that can be, or what to unpack."""
    for folder in _folders(root):
        try:
            if not reader(folder).empty:
                return f"; {folder.name} in it is laid out so: --root {folder}"
        except Exception:  # whatever a reader raises on a folder that is not its own
            continue
    return f"; unpack {packed} first" if (packed := archives(root)) else ""


def archives(root: Path) -> str:
    """The names of archives in a folder, some of many; empty: there are none."""
    found = sorted(file.name for file in root.iterdir() if file.suffix.lower() in ARCHIVES and file.is_file())
    return ", ".join(found[:MOST_NAMED]) + (f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else "")


def _folders(root: Path) -> Iterable[Path]:
    found = sorted(one for one in root.iterdir() if one.is_dir() and not one.name.startswith((".", "__")))
    return found[:MOST_TRIED]


class _Inside:
    """Finds paths below a folder; each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Path, dict[str, Path]] = {}
        self._files: dict[Path, dict[str, Path]] = {}

    def find(self, path: str) -> str | None:
        """Where a file is that is not at its path; None: nowhere, or it is not of this folder."""
        try:
            *parts, name = Path(path).relative_to(self._root).parts
        except ValueError:
            return None
        folder = self._root
        for part in parts:
            within = self._list(folder)[0].get(part.lower()) or self._list_inner(folder)[0].get(part.lower())
            if within is None:
                return None
            folder = within
        found = self._list(folder)[1].get(_key(name)) or self._list_inner(folder)[1].get(_key(name))
        return None if found is None else str(found)

    def _list_inner(self, folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        """What is in the folder of a folder's own name."""
        inner = self._list(folder)[0].get(folder.name.lower())
        return ({}, {}) if inner is None or folder == self._root else self._list(inner)

    def _list(self, folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
        """Its folders by their names in small letters, and all that is in it by `_key`."""
        if folder not in self._folders:
            there = sorted(folder.iterdir(), reverse=True)  # of two that differ in capitals the first stays
            self._folders[folder] = {one.name.lower(): one for one in there if one.is_dir()}
            self._files[folder] = {_key(one.name): one for one in there}
        return self._folders[folder], self._files[folder]


def _key(name: str) -> str:
    """A file's name, whose extension may have capitals; those of the rest count, as in YouTube's ids."""
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()
