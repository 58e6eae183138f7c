"""Folders of Ray's sessions: none is left behind, and none that lives is removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from commands import SMALL_FLAGS, ended, start, wait_for
from synthetic import write_dataset

from lfm_ray import ray_session, session_folder, session_processes
from lfm_ray.errors import UserError
from lfm_ray.interruption import Interrupted, kept_handlers, terminable


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where session folders are made; of a short path."""
    with tempfile.TemporaryDirectory(prefix="") as folder:
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


HOLD = """
import sys, time
from pathlib import Path
from lfm_ray.session_folder import session_folder
with session_folder() as folder:
    (folder / "session/logs").mkdir(parents=True)
    print(folder, flush=True)
    time.sleep(float(sys.argv[1]))
"""


def holder(base: Path, seconds: float) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a session folder for some seconds."""
    command, environment = [sys.executable, "-c", HOLD, str(seconds)], os.environ | {"TMPDIR": str(base)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_killed_processes_left_is_removed_and_nothing_else(base: Path) -> None:
    killed, left = holder(base, 60)
    living, kept = holder(base, 60)
    others = [base / name for name in ("lfmray_notes__", "lfmraybackup01", "ray/session_latest")]
    for folder in others:
        (folder / "session/logs").mkdir(parents=True)
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / session_folder.LOCK).touch()
    (base / "lfmrayaaaaaaaa").symlink_to(elsewhere)
    assert left.exists() and kept.exists()  # the second found the first alive
    killed.kill()
    killed.wait()
    try:
        with session_folder.session_folder() as made:
            assert made.stat().st_mode & 0o77 == 0
            assert not left.exists() and (kept / "session/logs").exists()
        assert not made.exists() and kept.exists()
        assert (
            all((folder / "session/logs").exists() for folder in others) and (elsewhere / session_folder.LOCK).exists()
        )
    finally:
        living.kill()
        living.wait()


def test_temporary_files_go_with_the_session(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(base))
    before = dict(os.environ)
    with session_folder.session_folder() as folder:
        mine = tempfile.mkdtemp()
        command = [sys.executable, "-S", "-c", "import tempfile; print(tempfile.mkdtemp())"]
        heirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert Path(mine).parent == Path(heirs).parent == folder / "tmp"
    assert dict(os.environ) == before and tempfile.gettempdir() == str(base)
    assert not list(base.iterdir())


def test_a_folder_that_another_command_removes_before_it_is_locked_is_made_anew(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock
    removed: list[Path] = []

    def late(file: int, how: int) -> None:
        if how == fcntl.LOCK_EX and not removed:
            removed.extend(base.glob("lfmray*"))
            session_folder.remove_left_behind(base)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with session_folder.session_folder() as made:
        assert made.exists() and made not in removed and not removed[0].exists()
    assert not list(base.iterdir())


def test_what_is_written_while_a_folder_is_removed_stays_for_the_next_command(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if a process kept on writing
        with session_folder.session_folder() as left:
            (left / "session").mkdir()
    assert (left / session_folder.LOCK).exists()
    with session_folder.session_folder():
        assert not left.exists()


@pytest.mark.parametrize("of_a_command", [True, False])
def test_a_signal_while_ray_starts_is_not_lost_and_leaves_neither_processes_nor_a_folder(
    base: Path, monkeypatch: pytest.MonkeyPatch, of_a_command: bool
) -> None:
    """A command ends at once, without Ray's own way of shutting down; a notebook goes on, and needs it."""
    import ray

    daemons: list[subprocess.Popen[bytes]] = []
    bystander = subprocess.Popen(["sleep", "60"])

    def init(*, _temp_dir: str, **_: object) -> None:
        daemons.append(subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait", _temp_dir], stdout=subprocess.PIPE))
        assert daemons[0].stdout
        daemons[0].stdout.readline()  # its own child has begun
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM if of_a_command else signal.SIGINT)
            time.sleep(0.01)

    ended = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("shutdown"))
    with kept_handlers():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        whose = terminable() if of_a_command else nullcontext()
        with whose, pytest.raises(Interrupted), ray_session.ray_session():
            raise AssertionError("the command goes on")
    assert ended == ([] if of_a_command else ["shutdown"])
    assert not list(base.iterdir())
    out, _ = daemons[0].communicate(timeout=10)  # both have closed it
    assert (out, daemons[0].returncode) == (b"", -signal.SIGKILL)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_session_s_processes_are_found_with_all_that_they_have_started(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run(['sh', '-c', 'sleep 60 & echo; wait'])"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "one"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        found = session_processes.processes_of(tmp_path)
        assert session_processes.processes_of(tmp_path / "two") == []
        names = [Path(f"/proc/{number}/comm").read_text().strip() for number, _ in found]
        assert (found[0][0], names[1:]) == (process.pid, ["sh", "sleep"])
        session_processes.end([(number, started + 1) for number, started in found])  # others had their numbers
        assert process.poll() is None
        session_processes.end(found)
        assert process.wait(10) == -signal.SIGKILL
        assert process.stdout.read() == b""


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_that_cannot_be_made_or_is_too_long_for_sockets_is_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    def put(folder: Path) -> None:
        if variable == "TMPDIR":
            monkeypatch.setattr(tempfile, "tempdir", str(folder))
        else:
            monkeypatch.setenv(variable, str(folder))

    put(base / ("x" * 40))
    with pytest.raises(UserError, match=rf"^{variable} .*: too long for Ray's sockets; set one of at most 25 char"):
        session_folder.session_folder().__enter__()
    put(base.with_name("none"))
    with pytest.raises(UserError, match=rf"^{variable} .*none: no folder can be made there \(No such file"):
        session_folder.session_folder().__enter__()


@pytest.mark.slow
def test_a_killed_command_s_folder_goes_with_the_next_command(tmp_path: Path, base: Path) -> None:
    write_dataset(tmp_path / "shards/tiny")
    common = ["--data", "shards/tiny", "--trials", "1", *SMALL_FLAGS]
    killed = start(tmp_path, "tune", "--name", "one", "--epochs", "10000", *common, TMPDIR=str(base))
    wait_for(lambda: bool(list(tmp_path.glob("sweeps/one/trials/*/epochs.jsonl"))), killed)
    (left,) = base.glob("lfmray*")
    killed.kill()
    killed.communicate()
    assert (left / "session_latest").exists()
    ended(start(tmp_path, "tune", "--name", "two", "--epochs", "1", *common, TMPDIR=str(base)))
    assert not list(base.glob("lfmray*"))
