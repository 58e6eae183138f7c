"""Keys and passwords of the user's environment are in no file that Ray or lfm_ray writes."""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from commands import SMALL_FLAGS, ended, start
from ray.tune.execution.class_cache import _ActorClassCache

from lfm_ray.datasets.shards import Shards
from lfm_ray.ray_private import plain_actors

CANARIES = {
    name: f"canary-{number}-that-nobody-may-see"
    for number, name in enumerate(
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "WANDB_API_KEY",
         "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS")
    )
}  # fmt: skip


def test_the_actors_of_trials_are_given_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainable:
        """Stands for that of Tune."""

    monkeypatch.setattr(_ActorClassCache, "get", _ActorClassCache.get)  # set back at the end
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    plain_actors()
    cache = _ActorClassCache()
    actor = cache.get(Trainable)
    assert not actor._default_options.get("runtime_env")
    assert cache.get(Trainable) is actor


@pytest.mark.parametrize(
    "command", [pytest.param("tune", marks=pytest.mark.slow), pytest.param("train", marks=pytest.mark.long)]
)
def test_no_file_of_a_session_or_a_result_holds_a_secret(command: str, shards: Shards, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp", ignore_cleanup_errors=True) as session:
        (tmp_path / "run.yaml").write_text("epochs: 2\n", encoding="utf-8")
        flags = ["alpha_schedule", "--trials", "2"] if command == "tune" else ["run.yaml", "--workers", "2"]
        flags += ["--data", str(shards.path), "--name", "mine", "--epochs", "2", *SMALL_FLAGS]
        process = start(tmp_path, command, *flags, TMPDIR=session, **CANARIES)
        names: set[str] = set()
        holding: set[Path] = set()
        while process.poll() is None:  # the session's folder is removed at the end
            time.sleep(0.5)
            for file in [file for folder in (Path(session), tmp_path) for file in folder.rglob("*")]:
                with suppress(OSError):
                    if file.is_file():
                        names.add(file.name)
                        holding |= {file} if b"-that-nobody-may-see" in file.read_bytes() else set()
        ended(process)
    assert {"gcs_server.out", "runtime_env_agent.log", "raylet.out"} <= names
    assert not holding
