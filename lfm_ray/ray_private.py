"""What lfm_ray takes from Ray that Ray does not promise to keep, beside `ray_daemons`.

Because of both setup.cfg has an upper bound for Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.train.torch import TorchTrainer as RayTorchTrainer
from ray.train.v2._internal.exceptions import RayTrainError  # type: ignore[import-not-found,unused-ignore]
from ray.train.v2.api.exceptions import (  # type: ignore[import-not-found,unused-ignore]
    TrainingFailedError,
    WorkerGroupError,
)
from ray.tune.execution.class_cache import _ActorClassCache


class TorchTrainer(RayTorchTrainer):  # type: ignore[misc,unused-ignore]
    """Ray's, without its answer to Ctrl-C, which ends the process with status 0."""

    def _register_sigint_handler(self, controller: object) -> None:
        """Leaves the signal to the command."""


__all__ = [
    "Cluster", "RayTrainError", "TorchTrainer", "TrainingFailedError", "WorkerGroupError", "plain_actors",
    "session_folder",
]  # fmt: skip


def session_folder() -> Path:
    """Where the Ray session of this process keeps its logs."""
    node = ray._private.worker.global_worker.node
    assert node is not None, "there is no Ray session"
    return Path(node.get_session_dir_path())


def plain_actors() -> None:
    """Has Ray Tune start the actors of trials without a runtime environment of their own.

    Tune would put AWS_SECRET_ACCESS_KEY and others of the driver's variables into it (ray-project/ray,
    python/ray/tune/execution/class_cache.py), and Ray writes runtime environments into its log files, in
    clear. An actor has the variables of its node, or those of the Ray job, as every other worker has; and
    without an environment of its own it starts in a process that is already waiting.
    """

    def get(cache: Any, trainable: type) -> Any:
        if trainable not in cache._cache:
            cache._cache[trainable] = ray.remote(trainable)
        return cache._cache[trainable]

    _ActorClassCache.get = get  # type: ignore[method-assign]
