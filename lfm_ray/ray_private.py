"""What lfm_ray takes from Ray that Ray does not promise to keep. Because of it setup.cfg has an upper bound for Ray."""

from __future__ import annotations

from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.train.torch import TorchTrainer as RayTorchTrainer
from ray.train.v2._internal.exceptions import RayTrainError  # type: ignore[import-not-found,unused-ignore]
from ray.train.v2.api.exceptions import (  # type: ignore[import-not-found,unused-ignore]
    TrainingFailedError,
    WorkerGroupError,
)


class TorchTrainer(RayTorchTrainer):  # type: ignore[misc,unused-ignore]
    """Ray's, without its answer to Ctrl-C, which ends the process with status 0."""

    def _register_sigint_handler(self, controller: object) -> None:
        """Leaves the signal to the command."""


__all__ = ["Cluster", "RayTrainError", "TorchTrainer", "TrainingFailedError", "WorkerGroupError", "session_folder"]


def session_folder() -> Path:
    """Where the Ray session of this process keeps its logs."""
    node = ray._private.worker.global_worker.node
    assert node is not None, "there is no Ray session"
    return Path(node.get_session_dir_path())
