"""The folder of a Ray session that a command starts: it goes with the command, and after a kill with the next one.

The process that made a folder holds the lock of a file in it for as long as it lives, however it ends. So whose folder
it is needs no process number, which another container that shares /tmp gives to another process. What has another
name, no such file, or another owner is left alone: clusters that the user started, above all.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lfm_ray.errors import UserError
from lfm_ray.interruption import unheeded

PREFIX = "lfmray"  # of its name; eight characters follow, drawn at random
LOCK = "lfm_ray.lock"  # the file in it that is locked
LONGEST = 40  # of its path: Ray appends 67 characters, and the path of a socket may have 107


@contextmanager
def session_folder() -> Iterator[Path]:
    """A new folder for the files of a Ray session of this process, in $RAY_TMPDIR, $TMPDIR or /tmp.

    Temporary files of this process and its heirs go into it as well: a process that is ended by a signal, as Ray ends
    its workers, leaves its own behind. At the beginning and at the end, the folders of commands that are no more are
    removed.

    Raises:
        UserError: no folder can be made there, or its path would be too long for the sockets in it.
    """
    variable = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).absolute()
    most = LONGEST - len(f"/{PREFIX}") - 8
    if len(str(base)) > most:
        raise UserError(f"{variable} {base}: too long for Ray's sockets; set one of at most {most} characters")
    remove_left_behind(base)
    try:
        folder, lock = _made(base)
    except OSError as error:
        raise UserError(f"{variable} {base}: no folder can be made there ({error.strerror or error})") from None
    try:
        with _temporary_files_in(folder / "tmp"):
            yield folder
    finally:
        with unheeded():
            remove(folder)
            os.close(lock)
            remove_left_behind(base)  # whose last processes were still ending when this command began


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Within it, temporary files are made in a folder, except for what TorchInductor keeps for later processes."""
    cache = "TORCHINDUCTOR_CACHE_DIR"
    former = {name: os.environ.get(name) for name in ("TMPDIR", cache)}
    default = tempfile.tempdir
    os.environ.setdefault(cache, os.path.join(tempfile.gettempdir(), f"torchinductor_{os.getuid()}"))
    folder.mkdir(mode=0o700)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = default
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _made(base: Path) -> tuple[Path, int]:
    """A new folder, and its file, which is locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with suppress(OSError):  # a file system without locks: then nobody gets this one, and removes the folder
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)  # before it was locked, another process took it for one that a killed one left


def remove_left_behind(base: Path) -> None:
    """Removes the session folders of this user's processes that are no more."""
    for folder in base.glob(f"{PREFIX}{'[a-z0-9_]' * 8}"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # another process has just removed it, or it is none of ours
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(folder)
        except OSError:  # its process lives, or the file system has no locks
            pass
        finally:
            os.close(lock)


def remove(folder: Path) -> None:
    """Removes a session folder, into which a process that is ending may still write for a moment.

    The file that is locked goes last, so that the next command finds what could not be removed now.
    """
    for _ in range(20):
        with suppress(FileNotFoundError):  # a process that is ending removes files of its own
            for path in list(folder.iterdir()):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name != LOCK:
                    path.unlink()
        if not folder.exists():
            return
        if {path.name for path in folder.iterdir()} <= {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # not empty again
                folder.rmdir()
                return
        time.sleep(0.05)
