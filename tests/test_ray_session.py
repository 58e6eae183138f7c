"""Folders of Ray's sessions: none is left behind, and none that lives is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lfm_ray import ray_session
from lfm_ray.errors import UserError
from lfm_ray.interruption import Interrupted, terminable


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="b"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_what_killed_processes_left_is_removed_and_nothing_else(base: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    living, other = base / f"lfm_ray_{os.getppid()}", base / "lfm_ray_notes"
    for folder in (left := base / f"lfm_ray_{ended.pid}", living, other):
        (folder / "session" / "logs").mkdir(parents=True)
    link = base / "lfm_ray_999999999"
    link.symlink_to(other)
    made = ray_session.session_folder()
    assert made == base / f"lfm_ray_{os.getpid()}" and made.is_dir() and made.stat().st_mode & 0o77 == 0
    assert not left.exists() and living.exists() and (other / "session" / "logs").exists()


def test_a_process_that_only_got_the_same_number_keeps_nothing(base: Path) -> None:
    folder = base / f"lfm_ray_{os.getpid()}"
    folder.mkdir()
    os.utime(folder, (1e9, 1e9))
    ray_session.remove_left_behind(base)
    assert not folder.exists()


def test_a_signal_while_ray_starts_is_not_lost_and_leaves_no_folder(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(**_: object) -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    ended = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("shutdown"))
    with terminable(), pytest.raises(Interrupted), ray_session.ray_session():
        raise AssertionError("the command goes on")
    assert ended == ["shutdown"]
    assert not list(base.iterdir())


def test_a_folder_whose_path_is_too_long_for_sockets_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(base / ("x" * 40)))
    with pytest.raises(UserError, match=r"TMPDIR .*: too long for Ray's sockets; set one of at most 24 characters"):
        ray_session.session_folder()
