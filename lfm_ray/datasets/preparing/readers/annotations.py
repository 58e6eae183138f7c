"""What readers share: lists of clips, media found by name."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lfm_ray.errors import UserError

VIDEO = (".mp4", ".mkv", ".webm", ".avi", ".flv")


def fields(
    path: Path, count: int, separator: str = ",", header: bool = False, as_written: int | None = None
) -> list[list[str]]:
    """The lines of a CSV or TSV file, without blanks around fields; header: leave out the first, whatever it holds.

    as_written: a field that is text, and keeps its blanks.

    Raises:
        UserError: the file is missing, not UTF-8 or empty, or a line has fewer than `count` fields.
    """
    text = io.StringIO(content(path))
    if separator == "\t":  # quotation marks in tweets are plain text
        lines = csv.reader(text, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        lines = csv.reader(text, delimiter=separator)
    rows = [row for row in lines if any(field.strip() for field in row)]
    for number, row in enumerate(rows, start=1):
        if len(row) < count and not (header and number == 1):
            raise UserError(f"{path}, line {number}: has {len(row)} fields, not {count}")
    rows = [[field if place == as_written else field.strip() for place, field in enumerate(row)] for row in rows]
    return rows[1:] if header else rows


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, without blanks at their ends, with their numbers from 1.

    Raises:
        UserError: the file is missing, not UTF-8 or empty.
    """
    lines = enumerate(content(path).split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def content(path: Path) -> str:
    """The text of a list, with Unix's line ends, whatever it has.

    Raises:
        UserError: the file is missing, not UTF-8 or empty.
    """
    check_there(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; save it as UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: is empty")
    return text


def check_there(path: Path) -> None:
    """Raises a UserError if a file of the raw layout is missing."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; --root must be laid out as the dataset's card in data/ says")


def clip_finder(root: Path) -> Callable[..., dict[str, str]]:
    """Finds a clip's `video` by its name, and its `audio`: NAME.wav if there is one, else the video.

    The files may be anywhere below `root`, also in folders that are symbolic links. A clip can be given
    several names, of which the first that exists is taken.
    """
    found = sorted(files_below(root))
    videos = {path.stem: path for path in found if path.suffix.lower() in VIDEO}
    sounds = {path.stem: path for path in found if path.suffix.lower() == ".wav"}

    def find(name: str, *others: str) -> dict[str, str]:
        names = (name, *others)
        video = next((videos[one] for one in names if one in videos), root / f"{name}.mp4")
        sound = next((sounds[one] for one in names if one in sounds), video)
        return {"audio": str(sound), "video": str(video)}

    return find


def files_below(root: Path) -> Iterator[Path]:
    """All files below a folder, but those that macOS puts beside others (._1.mp4, __MACOSX).

    Links to folders are followed, but no folder is visited twice.
    """
    visited = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if name != "__MACOSX"]
        yield from (Path(folder) / file for file in files if not file.startswith("._"))
