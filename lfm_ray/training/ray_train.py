"""One run on the workers of Ray Train (DDP)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.own_parts import one_line
from lfm_ray.training.execution import Launch, execute, limited, take_over
from lfm_ray.training.failures import Unforeseen, told
from lfm_ray.training.packing import Packed
from lfm_ray.training.run_folder import HUNG, add_notice

RETRIES = 3  # how often a run whose process died is started again, from its last saved epoch
DIED = "its process died; it went on from its last saved epoch"


def run_on_workers(launch: Launch, callbacks: list[Any]) -> None:
    """Carries out a run on Ray Train workers with DistributedDataParallel.

    When the process of a worker dies, all of them are started again, from the last saved epoch.

    Raises:
        UserError: a part of another package raised something, or a worker cannot import it.
        TrainingFailed: with the reason, when a worker failed, or died once more than `RETRIES` times.
    """
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig

    from lfm_ray.ray_private import TorchTrainer, TrainingFailedError, WorkerGroupError

    workers, folder = launch.workers, launch.folder
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    for attempt in range(1 + RETRIES):
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"launch": Packed.of(launch)},
            scaling_config=ScalingConfig(
                num_workers=workers.count, use_gpu=workers.gpus > 0, resources_per_worker=resources
            ),
            torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
            run_config=RayRunConfig(
                name=folder.name,
                storage_path=str(folder.parent.absolute()),
                callbacks=callbacks,
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            trainer.fit()
            return
        except TrainingFailedError as error:
            failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
            if not any(map(_has_died, failures)):
                raise _reason_of(failures, error) from None
            if attempt < RETRIES:
                add_notice(folder, DIED)
    raise TrainingFailed(died_reason(folder))


def _worker(settings: dict[str, Packed]) -> None:
    """One Ray Train worker: the same `execute`, with the model wrapped for DDP."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    launch: Launch = settings["launch"].open()
    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    torch.set_num_threads(launch.workers.threads)
    take_over(launch)
    torch.distributed.barrier()  # so that no other rank is still taking over when rank 0 begins to write
    with limited(lambda row: ray.train.report(row), launch) as report, told(launch.folder):
        execute(launch, report, wrap=lambda model: prepare_model(model))


def died_reason(folder: Path) -> str:
    """Why a run in `folder` was given up whose process has died more than `RETRIES` times."""
    hung = folder / HUNG
    if hung.exists() and hung.stat().st_size:
        return f"an epoch took longer than --epoch-time-limit, {1 + RETRIES} times (see {folder.name}/{HUNG})"
    return f"its process died {1 + RETRIES} times (out of memory, or ended from outside; see Ray's log files)"


def _has_died(failure: BaseException) -> bool:
    """Whether a worker failed without an exception of its own: its process ended, or its node."""
    from ray.exceptions import RayActorError

    from lfm_ray.ray_private import RayTrainError

    return isinstance(failure, RayActorError | RayTrainError)


def _reason_of(failures: list[Exception], error: BaseException) -> Exception:
    """Why the workers failed: what one of them said, rather than that others then missed it."""
    said = [one for one in failures if isinstance(one, UserError | TrainingFailed)]
    said.sort(key=lambda one: (isinstance(one, Unforeseen), isinstance(one, TrainingFailed)))
    if said:
        return said[0]
    return TrainingFailed(one_line(failures[0]) if failures else first_reason(error))


def first_reason(error: BaseException) -> str:
    """The line that says why, from an exception that quotes the traceback of a worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("For further information visit")]
    named = [line for line in lines if "TrainingFailed:" in line or "UserError:" in line]
    chosen = (named or lines or [type(error).__name__])[-1]
    return chosen.split("TrainingFailed: ")[-1].split("UserError: ")[-1]
