"""How a training loop is launched: in the process of a Tune trial, or on Ray Train workers (DDP).

It is the same `execute` in both; what it writes is in `lfm_ray.run_folder`.
"""

from __future__ import annotations

import faulthandler
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import rich.progress
import torch
from torch import nn

from lfm_ray import checkpoint, compute, distributed, storage
from lfm_ray.cli import console, write_atomically
from lfm_ray.config import RunConfig
from lfm_ray.datasets.batches import Batches, Order, ReadBatches, from_memory, from_shards
from lfm_ray.datasets.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.datasets.stream import StreamBatches
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.loop import Splits, fit
from lfm_ray.methods import method_of
from lfm_ray.models.classifier import check_model
from lfm_ray.profile import Profile
from lfm_ray.run import Row, Run
from lfm_ray.run_folder import CHECKPOINT, HUNG, PROFILE, Recorder, add_notice, read_epochs
from lfm_ray.schedules import Adaptive
from lfm_ray.storage import patiently

RETRIES = 3  # how often a run whose process died is started again, from its last saved epoch
START_UP = 120.0  # s, that the first epoch of a process may take longer than others, for what it loads
DIED = "its process died; it went on from its last saved epoch"


@dataclass(frozen=True)
class Source:
    """The shards of a sweep, in the object store when they are small, else read from disk as they are needed.

    In both cases all trials of a node share one copy: views of the object store, or pages of mapped
    files. Each prepares its batches in its own process, on the CPUs that were reserved for it; with
    `data.reader_cpus`, tasks of Ray Data do, on CPUs that are reserved beside those.
    """

    shards: Shards
    in_memory: dict[str, ray.ObjectRef[Any]]

    @classmethod
    def open(cls, config: RunConfig, splits: tuple[str, ...] = ("train", "val")) -> Source:
        """Opens the shards that `config` names, and loads them if they are small enough.

        Raises:
            UserError: the folder is no dataset, or lacks a modality or a split.
        """
        shards = Shards(storage.working_folder(config.data.path).absolute())
        if storage.in_store(shards.path):
            text = f"copying {config.data.path} to this machine"
            shards.fetch(splits, partial(rich.progress.track, description=text, console=console, transient=True))
        modalities = config.data.modalities
        size = sum(shards.nbytes(split, modalities) for split in splits)
        method_of(config).check_modalities(list(modalities or shards.card.modalities))
        check_model(config.model, {name: shards.card.modalities[name] for name in modalities or shards.card.modalities})
        store = ray.cluster_resources().get("object_store_memory", 0.0)
        in_memory = {}
        if size <= config.data.memory_share * store and not config.data.reader_cpus:
            in_memory = {split: ray.put(shards.arrays(split, modalities)) for split in splits}
        return cls(shards, in_memory)

    def fetch(self, measure: str | None = None) -> None:
        """Copies what a run reads to this node, where it is in an object store of the shards and not here yet."""
        if not self.in_memory:
            self.shards.fetch(("train", "val", *([measure] if measure else [])))

    def batches(self, split: str, order: Order, config: RunConfig, training: bool = False) -> Batches:
        """The batches of a split in the given order; `training` says whether they are augmented."""
        inputs = Inputs.of(self.shards.card, config.data, config.seed, training)
        if config.data.reader_cpus:
            return StreamBatches(self.shards, split, order, inputs, config.data.reader_cpus)
        if split in self.in_memory:
            return ReadBatches(from_memory(*ray.get(self.in_memory[split])), order, inputs)
        return ReadBatches(from_shards(self.shards, split, list(inputs.modalities)), order, inputs, ahead=True)

    def evaluation(self, split: str, config: RunConfig) -> Batches:
        """A whole split, in its own order, for evaluation."""
        rank, world_size = distributed.rank_and_world_size()
        rows = np.arange(self.shards.card.rows(split))
        return self.batches(split, Order(rows, max(256, config.data.batch_size), 0, False, rank, world_size), config)

    def splits(self, config: RunConfig) -> Splits:
        """What a run of `config` reads, as this rank sees it."""
        rank, world_size = distributed.rank_and_world_size()
        size, seed = config.data.batch_size, config.seed
        train = np.arange(self.shards.card.rows("train"))
        outer = None
        if isinstance(config.alpha, Adaptive):
            batch, held_out = config.alpha.outer_batch_size(size), config.alpha.held_out_rows(len(train))
            if held_out >= len(train):
                raise UserError(
                    f"{config.data.path}: {len(train)} training samples leave none beside {held_out} held out"
                )
            if held_out:
                shuffled = np.random.default_rng((seed, 0)).permutation(train)
                rows, train = np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])
                outer = self.batches("train", Order(rows, batch, seed, True, rank, world_size), config)
            elif config.fits_validation:
                rows = np.arange(self.shards.card.rows("val"))
                outer = self.batches("val", Order(rows, batch, seed, True, rank, world_size), config)
        return Splits(
            train=self.batches("train", Order(train, size, seed, True, rank, world_size), config, training=True),
            val=self.evaluation("val", config),
            outer=outer,
        )


def execute(
    config: RunConfig,
    source: Source,
    folder: Path,
    report: Callable[[Row], None],
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    measure: str | None = None,
    profile: bool = False,
    save_every: int | None = None,
) -> list[Row]:
    """Runs `config` in `folder`, from its last saved epoch if it has been started there before.

    `report` receives every epoch's row, those of an earlier start included. The last row also
    holds the metrics of the split `measure`; only `confirm` and `report --paper` ask for one. `profile`
    measures the steps, and changes nothing about them. save_every: see `Recorder`.
    """
    rank, _ = distributed.rank_and_world_size()
    run = Run(config, source.shards.card, wrap)
    state, troubles = checkpoint.load_newest(folder / CHECKPOINT)
    recorder = Recorder(run, folder, troubles, save_every)
    if state is not None:
        if state["config"] != config.model_dump(mode="json"):
            raise UserError(f"{folder}: holds a run with other settings; give another name or folder")
        if state["card"]["fingerprint"] != source.shards.card.fingerprint:
            raise UserError(f"{folder}: holds a run on other shards; give another name or folder")
        run.load_state_dict(state)
    elif rank == 0:
        patiently(recorder.begin, folder)
    if rank == 0:
        for trouble in troubles:
            add_notice(folder, f"{trouble}; went on from " + (f"epoch {run.epoch}" if run.epoch else "the beginning"))
    for row in run.history:
        report(row)

    def on_epoch(run: Run) -> None:
        if measure and run.epoch == config.epochs:
            values = run.evaluate(source.evaluation(measure, config))
            run.history[-1] |= {f"{measure}/{name}": value for name, value in values.items()}
        if rank == 0:
            notices: list[str] = []
            patiently(recorder.write, folder, notices.append)
            for notice in notices[-1:]:
                add_notice(folder, notice)
        report(run.history[-1])

    splits = source.splits(config)
    if not profile:
        return fit(run, splits, on_epoch)
    measured = Profile(run.device)
    with measured.on():
        rows = fit(run, replace(splits, train=measured.steps_of(splits.train)), on_epoch)
    if rank == 0:
        write_atomically(folder / PROFILE, json.dumps(measured.summary()))
        storage.push(folder / PROFILE)
    return rows


def run_in_process(
    config: RunConfig,
    source: Source,
    folder: Path,
    report: Callable[[Row], None],
    threads: int,
    measure: str | None = None,
    epoch_time_limit: float | None = None,
    save_every: int | None = None,
) -> None:
    """Runs `config` in this process, on `threads` CPU threads."""
    compute.prepare_process(threads)
    _take_over(folder, source, measure)
    with limited(report, folder, epoch_time_limit) as report_in_time:
        execute(config, source, folder, report_in_time, measure=measure, save_every=save_every)


@contextmanager
def limited(report: Callable[[Row], None], folder: Path, seconds: float | None) -> Iterator[Callable[[Row], None]]:
    """Gives back `report`; this process ends when it is not called for that long (None: never).

    The stacks of all threads are then in `HUNG`. Even what hangs outside Python is ended. Whoever
    started the process starts it again, as any process that died.
    """
    if seconds is None:
        yield report
        return
    folder.mkdir(parents=True, exist_ok=True)
    known = len(read_epochs(folder))
    with (folder / HUNG).open("a", encoding="utf-8") as file:

        def in_time(row: Row) -> None:
            report(row)
            again = START_UP if row["epoch"] <= known else 0.0  # an epoch of an earlier start
            faulthandler.dump_traceback_later(again + seconds, exit=True, file=file)

        faulthandler.dump_traceback_later(START_UP + seconds, exit=True, file=file)
        try:
            yield in_time
        finally:
            faulthandler.cancel_dump_traceback_later()
            if (folder / HUNG).stat().st_size == 0:
                (folder / HUNG).unlink()


@dataclass(frozen=True)
class Workers:
    """The Ray Train workers of one run.

    cpus, gpus: of each. epoch_time_limit: seconds after which an epoch is taken to hang; None: never.
    """

    count: int
    cpus: float = 1.0
    gpus: float = 0.0
    epoch_time_limit: float | None = None


def run_on_workers(
    config: RunConfig,
    source: Source,
    folder: Path,
    workers: Workers,
    callbacks: list[Any],
    measure: str | None = None,
    profile: bool = False,
) -> None:
    """Runs `config` on Ray Train workers with DistributedDataParallel.

    When the process of a worker dies, all of them are started again, from the last saved epoch.

    Raises:
        TrainingFailed: with the reason, when a worker failed, or died once more than `RETRIES` times.
    """
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import (  # type: ignore[import-not-found,unused-ignore]
        TrainingFailedError,
        WorkerGroupError,
    )

    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    for attempt in range(1 + RETRIES):
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "source": source,
                "folder": storage.name_of(folder),
                "measure": measure,
                "profile": profile,
                "threads": max(1, round(workers.cpus)),
                "epoch_time_limit": workers.epoch_time_limit,
            },
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
            died = isinstance(error, WorkerGroupError) and any(map(_has_died, error.worker_failures.values()))
            if not died:
                raise TrainingFailed(first_reason(error)) from None
            if attempt < RETRIES:
                add_notice(folder, DIED)
    raise TrainingFailed(died_reason(folder))


def _worker(settings: dict[str, Any]) -> None:
    """One Ray Train worker: the same `execute`, with the model wrapped for DDP."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    if get_device().type == "cuda":
        torch.cuda.set_device(get_device())
    config = RunConfig.model_validate(settings["config"])
    compute.prepare_process(settings["threads"])
    folder = storage.working_folder(settings["folder"])
    _take_over(folder, settings["source"], settings["measure"])
    torch.distributed.barrier()  # so that no other rank is still taking over when rank 0 begins to write
    with limited(lambda row: ray.train.report(row), folder, settings["epoch_time_limit"]) as report:
        execute(
            config,
            settings["source"],
            folder,
            report,
            wrap=lambda model: prepare_model(model),
            measure=settings["measure"],
            profile=settings["profile"],
        )


def died_reason(folder: Path) -> str:
    """Why a run in `folder` was given up whose process has died more than `RETRIES` times."""
    hung = folder / HUNG
    if hung.exists() and hung.stat().st_size:
        return f"an epoch took longer than --epoch-time-limit, {1 + RETRIES} times (see {folder.name}/{HUNG})"
    return f"its process died {1 + RETRIES} times (out of memory, or ended from outside; see Ray's log files)"


def _take_over(folder: Path, source: Source, measure: str | None) -> None:
    """Brings to this node what an earlier start of the run has left in the store, and its data, where there is one."""
    patiently(lambda: storage.pull(folder, skip=lambda name: name == HUNG), folder)
    storage.push(folder / HUNG)
    patiently(lambda: source.fetch(measure), source.shards.path)


def _has_died(failure: BaseException) -> bool:
    """Whether a worker failed without an exception of its own: its process ended, or its node."""
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import RayTrainError  # type: ignore[import-not-found,unused-ignore]

    return isinstance(failure, RayActorError | RayTrainError)


def first_reason(error: BaseException) -> str:
    """The line that says why, from an exception that quotes the traceback of a worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "TrainingFailed:" in line or "UserError:" in line]
    chosen = (named or lines or [type(error).__name__])[-1]
    return chosen.split("TrainingFailed: ")[-1].split("UserError: ")[-1]
