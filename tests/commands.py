"""The commands as a user calls them: in this process, or in one of their own."""

from __future__ import annotations

import gc
import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
import torch
from tiny_run import SMALL

from lfm_ray import cli
from lfm_ray.console import console
from lfm_ray.main import command

SMALL_FLAGS = [word for setting in SMALL[1:] for word in ("--set", setting)]  # of `SMALL`, all but the epochs
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TUNE_LOGGER = logging.getLogger("ray.tune")


@dataclass(frozen=True)
class Completed:
    """What a command has said, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


def run(folder: Path, name: str, *arguments: str | Path) -> Completed:
    """Calls a command in `folder` in this process, on its Ray session (`ray_local`) if the command needs one."""
    status: int | str | None = 0
    before = _state()
    with _as_a_process_of_its_own(folder, name, *arguments) as (stdout, stderr):
        try:
            cli.run(command(name))
        except SystemExit as ended:
            status = ended.code
    assert _state() == before
    assert isinstance(status, int)
    if status != 2:
        gc.collect()  # what only cycles hold, such as the lock of a sweep
    return Completed(status, stdout.getvalue(), stderr.getvalue())


def _state() -> list[object]:
    """What a command must leave as it was, as other tests depend on it."""
    return [
        os.getcwd(), sys.argv, sys.stdout, dict(os.environ), [signal.getsignal(number) for number in SIGNALS],
        logging.getLogger().level, TUNE_LOGGER.level, console.width, torch.get_num_threads(),
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
    ]  # fmt: skip


@contextmanager
def _as_a_process_of_its_own(
    folder: Path, name: str, *arguments: str | Path
) -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """Its folder, arguments and output, as text; environment, signals and levels of logs are set back at the end."""
    stdout, stderr = io.StringIO(), io.StringIO()
    handlers, level = {number: signal.getsignal(number) for number in SIGNALS}, TUNE_LOGGER.level
    environment = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        patch.setattr(console, "width", 100)  # as where there is no terminal
        try:
            yield stdout, stderr
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            TUNE_LOGGER.setLevel(level)
            os.environ.clear()
            os.environ.update(environment)


def start(
    folder: Path, name: str, *arguments: str | Path, output: int | IO[str] = subprocess.PIPE, **environment: str
) -> subprocess.Popen[str]:
    """Starts a command in a process of its own, the first of its group, with its own Ray session."""
    return subprocess.Popen(
        [sys.executable, "-m", f"lfm_ray.{name}", *map(str, arguments)], cwd=folder, text=True, start_new_session=True,
        stdout=output, stderr=output, env=os.environ | environment,
    )  # fmt: skip


def completed(process: subprocess.Popen[str]) -> Completed:
    """Waits for a command that was started."""
    stdout, stderr = process.communicate(timeout=300)
    return Completed(process.returncode, stdout, stderr)


def ended(process: subprocess.Popen[str]) -> str:
    """What a command that was started has printed; it must have ended well."""
    done = completed(process)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits until something has happened, for as long as the process runs."""
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
