"""Ray's own processes on this machine, and what Ray prints when one of them has ended.

Imports less of Ray than `ray_private`, as every command looks after them.
"""

from __future__ import annotations

from typing import Any

import ray

from lfm_ray.errors import TrainingFailed

ENDED = "Ray's own processes have ended (out of memory, or ended from outside)"
DUMPS = ("Raylet is terminated", "has been marked dead because")  # in messages of Ray about a node that died


class RayEnded(TrainingFailed):
    """The Ray that this process started is no more."""


def daemon_ended() -> bool:
    """Whether the raylet or the GCS of a Ray that this process started has ended, without having been asked to."""
    node = ray._private.worker.global_worker.node
    processes = node.all_processes if node else {}
    return any(one.process.poll() is not None for name in ("raylet", "gcs_server") for one in processes.get(name, ()))


def without_dumps() -> None:
    """Keeps from the terminal what Ray prints of a node that died: the last lines of its log, which has its state.

    What a command does about it, it says itself, in a line.
    """
    worker = ray._private.worker
    real = worker.print_to_stdstream
    if getattr(real, "without_dumps", False):
        return

    def printed(data: dict[str, Any], ignore_prefix: bool) -> None:
        if data.get("pid") == "raylet" and any(dump in line for dump in DUMPS for line in data["lines"]):
            return
        real(data, ignore_prefix)

    printed.without_dumps = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = printed


def without_stacks() -> None:
    """Keeps Ray from handling the signals of this process below Python, where SIGTERM prints a stack of C++."""
    ray._private.ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
