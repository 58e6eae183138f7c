"""Files in folders that may come from somebody else: nothing outside them is written, or read, through a link.

A file is replaced as a whole, by way of a new one with a random name, so that a reader finds the old one or
the new one, and nothing that lies under a name that could have been guessed is opened.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from lfm_ray import trust
from lfm_ray.errors import UserError

LONGEST_NAME = 200  # bytes of a folder's name; file systems take 255, and files in it have longer ones
UNFINISHED = ".writing"  # how the names end of files that are being written


@contextmanager
def written_anew(path: Path, *, tidy: bool = False) -> Iterator[BinaryIO]:
    """A new file, which becomes `path` at the end of the `with` block; if that raises, nothing has changed.

    A link at `path` is replaced, and not followed. tidy: remove what killed writers of this file have left;
    only where a lock keeps other writers away.
    """
    stem = f".{path.name[:60]}."
    if tidy:
        for left in path.parent.glob(f"{stem}*{UNFINISHED}"):
            left.unlink(missing_ok=True)
    unfinished = path.with_name(f"{stem}{secrets.token_hex(8)}{UNFINISHED}")
    file = os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "wb")
    try:
        with file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a reader finds the old one or the new one, never a partial one."""
    with written_anew(path) as file:
        file.write(text.encode())


def appending(path: Path) -> TextIO:
    """Opens a text file to add to it.

    Raises:
        UserError: it is a link.
    """
    return open(path, "a", encoding="utf-8", opener=without_links)


def without_links(path: str, flags: int) -> int:
    """An opener for `open`.

    Raises:
        UserError: the path is a link.
    """
    if Path(path).is_symlink():
        raise UserError(f"{path}: is a link, and is not written through; remove it")
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def check_within(folder: Path) -> None:
    """Checks that all that lies below a folder is files and folders, and that no link leads out of it.

    With `--trust`, links are followed. The folder itself may be one. Links that somebody makes while we work
    there are not found; what is written is never written through one.

    Raises:
        UserError: names the first that is a link to elsewhere, a pipe, a socket or a device.
    """
    if folder.is_dir() and not trust.everything():
        _check(folder, folder.resolve())


def _check(folder: Path, root: Path) -> None:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, PermissionError):  # gone by now; what cannot be read is reported where it is needed
        return
    for entry in entries:
        if entry.is_symlink():
            target = Path(os.path.realpath(entry.path))
            if not target.is_relative_to(root):
                raise UserError(
                    f"{entry.path}: is a link out of this folder, through which nothing is read or written; put what"
                    " it leads to in its place, or give --trust (trust=True in Python)"
                )
        elif entry.is_dir(follow_symlinks=False):
            _check(Path(entry.path), root)
        elif not entry.is_file(follow_symlinks=False):
            raise UserError(f"{entry.path}: is neither a file nor a folder; remove it")


def check_path(path: Path) -> None:
    """Checks that a path can be one, whether there is anything or not.

    Raises:
        UserError: it is too long, goes in circles, or holds what no path can.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UserError(f"{str(path)[:LONGEST_NAME]}: is no path that can be used: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{str(path)[:LONGEST_NAME]!a}: is no path that can be used") from None


def check_regular(path: Path) -> None:
    """Checks that a path leads to a file, if to anything: of a pipe or a device nobody knows when it ends.

    A pipe that the shell has made, `<(command)`, is read like a file.

    Raises:
        UserError: it is a pipe, a socket or a device.
    """
    check_path(path)
    try:
        mode = path.stat().st_mode
    except OSError:  # opening it says more
        return
    if stat.S_ISFIFO(mode) and path.is_relative_to("/dev/fd"):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: is neither a file nor a folder, but a pipe, a socket or a device")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read, in our words: those of Python are for programmers.
    """
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{path}: cannot be read: it is not valid JSON{line}") from None


def check_name(flag: str, name: str) -> str:
    """The name of a folder to be made or found below another one.

    Raises:
        UserError: it is a path, or no file can be called so. flag: what it was given with.
    """
    wrong = name in (".", "..") or "/" in name or "\\" in name or not name.strip() or not name.isprintable()
    if wrong or len(name.encode()) > LONGEST_NAME:
        raise UserError(
            f"{flag} {name[:80]!r}: must be the name of one folder, of at most {LONGEST_NAME} bytes, not a path"
        )
    return name
