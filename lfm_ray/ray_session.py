"""A Ray session: the cluster at an address, or one of this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from lfm_ray.errors import UserError
from lfm_ray.interruption import Interrupted, ends_with_the_process, kept_handlers, none_lost, unheeded
from lfm_ray.session_folder import remove, session_folder
from lfm_ray.session_processes import end, processes_of

LOOK = 0.5  # s, between two looks at Ray's own processes
GRACE = 5.0  # s, from their end to that of this process; Ray itself ends it after ten, or hangs for a minute


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

    if ray.is_initialized():
        yield
        return
    if address:
        try:
            _start(address, None)
            yield
        finally:
            ray.shutdown()
        return
    with session_folder() as folder, _ended(folder):
        _start(None, folder)
        with _watched(folder):
            yield


@contextlib.contextmanager
def _ended(folder: Path) -> Iterator[None]:
    """At its end Ray is shut down, and no process of the session in this folder is left.

    A command that is interrupted ends them at once: Ray leaves some behind when it is interrupted while it starts,
    its agents may wait a minute for what is no more, and code below Python ends a process now and then whose tasks
    are running when it says good-bye to Ray.
    """
    import ray

    at_once = False
    try:
        yield
    except KeyboardInterrupt:
        at_once = ends_with_the_process()
        raise
    finally:
        started = processes_of(folder)
        try:
            if not at_once:
                ray.shutdown()
        finally:
            with unheeded():
                end([*started, *processes_of(folder)])


@contextlib.contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Within it, the process ends soon after Ray's own ones have, unless it leaves before; its folder goes with it.

    Code of Ray that is below Python would end it without a word, or wait. What is saved is as after a kill.

    Raises:
        RayEnded: Ray's own processes have ended, in place of what Ray raises then.
    """
    from lfm_ray.ray_daemons import ENDED, RayEnded, daemon_ended

    said = f"{ENDED}; what was saved is kept, and the command can be run again"
    left = threading.Event()

    def watch() -> None:
        while not left.wait(LOOK):
            if daemon_ended():
                break
        if left.wait(GRACE):
            return
        with contextlib.suppress(OSError):
            print(f"error: {said}", file=sys.stderr, flush=True)
        remove(folder)
        os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    except (UserError, RayEnded):
        raise
    except Exception:
        if not daemon_ended():
            raise
        raise RayEnded(said) from None
    finally:
        left.set()
        thread.join()


def _start(address: str | None, folder: Path | None) -> None:
    """Starts Ray, or joins the cluster at an address.

    Raises:
        Interrupted: a signal came meanwhile, which Ray may have swallowed.
        UserError: no cluster answers.
    """
    import ray

    from lfm_ray.ray_daemons import without_dumps, without_stacks

    without_dumps()
    without_stacks()
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
