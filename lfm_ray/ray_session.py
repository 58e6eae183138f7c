"""A Ray session: the cluster at an address, or one of this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lfm_ray.errors import UserError
from lfm_ray.interruption import Interrupted, kept_handlers, none_lost

FOLDER = "lfm_ray_"  # and the number of the process
LONGEST = 40  # of a session's folder: Ray appends 67 characters, and the path of a socket may have 107


@contextlib.contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """A Ray session: the cluster at `address`, or one of this machine that ends with the command."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's announced default; silences its notice
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's newer output prints a banner even when told to be silent
    if address and "://" in address:
        raise UserError(
            f"--address {address}: run this on a node of the cluster (--address auto), or by ray job submit"
        )
    import ray

    started_here = not ray.is_initialized()
    folder = None if address or not started_here else session_folder()
    try:
        if started_here:
            _start(address, folder)
        yield
    finally:
        if started_here:
            ray.shutdown()
        if folder:
            remove(folder)
            remove_left_behind(folder.parent)  # whose last processes were still ending when this one began


def _start(address: str | None, folder: Path | None) -> None:
    """Starts Ray, or joins the cluster at an address.

    Raises:
        Interrupted: a signal came meanwhile, which Ray may have swallowed.
        UserError: no cluster answers.
    """
    import ray

    try:
        with none_lost(), kept_handlers():
            ray.init(
                # "local": None would join whatever cluster happens to run on this machine
                address=address or "local", include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR, configure_logging=True, _temp_dir=folder and str(folder),
            )  # fmt: skip
    except SystemExit as error:  # Ray's own answer to SIGTERM while it starts
        raise Interrupted(number=signal.SIGTERM) from error
    except ConnectionError:
        raise UserError(
            f"--address {address}: no Ray cluster answers there, or it asks for a token (docs/cluster.md)"
        ) from None


def session_folder() -> Path:
    """A new folder for the files of a Ray session of this process.

    Raises:
        UserError: the folder for temporary files has too long a path for the sockets in it.
    """
    base = Path(tempfile.gettempdir())
    remove_left_behind(base)
    folder = base / f"{FOLDER}{os.getpid()}"
    if len(str(folder)) > LONGEST:
        raise UserError(f"TMPDIR {base}: too long for Ray's sockets; set one of at most {LONGEST - 16} characters")
    remove(folder)
    folder.mkdir(mode=0o700)
    return folder


def remove_left_behind(base: Path) -> None:
    """Removes the session folders of this user's processes that are no more."""
    for path in base.glob(f"{FOLDER}*"):
        number = path.name.removeprefix(FOLDER)
        if number.isdigit() and path.lstat().st_uid == os.getuid() and not _may_use(int(number), path):
            remove(path)


def _may_use(process: int, folder: Path) -> bool:
    """Whether a process lives that can have made a folder: one that began later has only got the same number."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except OSError:
        return False
    began = time.time() - up + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return began < folder.lstat().st_mtime + 60  # s, as clocks are set


def remove(folder: Path) -> None:
    """Removes a folder into which a process that is ending may still write for a moment."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)
