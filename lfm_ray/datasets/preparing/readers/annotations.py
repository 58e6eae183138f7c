"""What readers share: lists of clips, media found by name, a validation split for datasets without one."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from lfm_ray.errors import UserError

VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".flv")


def fields(path: Path, count: int, separator: str = ",") -> list[list[str]]:
    """The lines of a CSV or TSV file without a header.

    Raises:
        UserError: the file is missing, or a line has fewer than `count` fields.
    """
    check_there(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        if separator == "\t":  # quotation marks in tweets are plain text
            rows = [row for row in csv.reader(file, delimiter=separator, quoting=csv.QUOTE_NONE) if row]
        else:
            rows = [row for row in csv.reader(file, delimiter=separator) if row]
    for number, row in enumerate(rows, start=1):
        if len(row) < count:
            raise UserError(f"{path}, line {number}: has {len(row)} fields, not {count}")
    return rows


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The non-empty lines of a text file, with their line numbers from 1.

    Raises:
        UserError: the file is missing.
    """
    check_there(path)
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def check_there(path: Path) -> None:
    """Raises a UserError if a file of the raw layout is missing."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; --root must be laid out as the dataset's card in data/ says")


def clip_finder(root: Path) -> Callable[[str], dict[str, str]]:
    """Finds a clip's `video` by its name, and its `audio`: NAME.wav if there is one, else the video.

    The files may be anywhere below `root`, but not in folders that are symbolic links.
    """
    found = sorted(root.rglob("*"))
    videos = {path.stem: path for path in found if path.suffix.lower() in VIDEO}
    sounds = {path.stem: path for path in found if path.suffix.lower() == ".wav"}

    def find(name: str) -> dict[str, str]:
        video = videos.get(name, root / f"{name}.mp4")
        return {"audio": str(sounds.get(name, video)), "video": str(video)}

    return find


def with_validation(table: pd.DataFrame, share: float = 0.1) -> pd.DataFrame:
    """If there is no validation split, makes it from this share of each class of train; always the same rows."""
    if (table["split"] == "val").any():
        return table
    random = np.random.default_rng(0)
    for _, rows in table[table["split"] == "train"].groupby("label", sort=True):
        drawn = random.permutation(rows.index.to_numpy())[: max(1, round(share * len(rows)))]
        table.loc[drawn, "split"] = "val"
    return table
