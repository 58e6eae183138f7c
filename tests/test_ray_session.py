"""Folders of Ray's sessions: none is left behind, and none that lives is removed."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from lfm_ray import ray_session
from lfm_ray.errors import UserError


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


def test_a_folder_whose_path_is_too_long_for_sockets_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(base / ("x" * 40)))
    with pytest.raises(UserError, match=r"TMPDIR .*: too long for Ray's sockets; set one of at most 24 characters"):
        ray_session.session_folder()
