"""Carries out a run: in this process, or as one rank of several (`lfm_ray.training.ray_train`).

It is the same `execute` in both; what it writes is in `lfm_ray.training.run_folder`.
"""

from __future__ import annotations

import faulthandler
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lfm_ray import storage, trust
from lfm_ray.checksums import with_checksum
from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.files import appending, write_atomically
from lfm_ray.runtime import checkpoint, distributed
from lfm_ray.runtime.profiling import Profile
from lfm_ray.storage import patiently
from lfm_ray.training.costs import Meter, write_costs
from lfm_ray.training.failures import told
from lfm_ray.training.loop import fit
from lfm_ray.training.run_folder import CHECKPOINT, HUNG, PROFILE, Recorder, add_notice, read_epochs, write_confusions
from lfm_ray.training.source import DataSource
from lfm_ray.training.stored_model import config_of_state, load_weights
from lfm_ray.training.trainer import Row, Trainer

START_UP = 120.0  # s, that the first epoch of a process may take longer than others, for what it loads


@dataclass(frozen=True)
class Workers:
    """The processes that carry out one run.

    cpus, gpus: of each. epoch_time_limit: seconds after which an epoch is taken to hang; None: never.
    """

    count: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    epoch_time_limit: float | None = None

    @property
    def threads(self) -> int:
        """CPU threads that each computes with."""
        return max(1, round(self.cpus))


@dataclass(frozen=True)
class Launch:
    """All that describes how a run is carried out; it can be sent to any node.

    The run goes on in `folder` from its last saved epoch if it has been started there before. measure:
    a further split on which the run is measured at its end; only confirm and reproduce ask for one.
    profile: the steps are timed, which changes nothing else about them. saved_after: see `Recorder`. parts:
    of other packages, which may run (`lfm_ray.trust`).
    """

    config: RunConfig
    source: DataSource
    folder: Path
    workers: Workers = Workers()
    measure: str | None = None
    profile: bool = False
    saved_after: frozenset[int] = frozenset()
    parts: frozenset[str] = field(default_factory=trust.asked)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"folder": storage.name_of(self.folder)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        trust.ask(state["parts"])
        self.__dict__.update(state | {"folder": storage.working_folder(state["folder"])})  # of this node


def execute(
    launch: Launch, report: Callable[[Row], None], wrap: Callable[[nn.Module], nn.Module] | None = None
) -> list[Row]:
    """Carries out a run in this process, as one rank of it, and returns the rows of all epochs.

    `report` receives every epoch's row, those of an earlier start included.

    Raises:
        UserError: the folder holds a run with other settings or on other shards.
        TrainingFailed: the run cannot go on.
    """
    config, source, folder = launch.config, launch.source, launch.folder
    rank, _ = distributed.rank_and_world_size()
    state, troubles = checkpoint.load_newest(folder / CHECKPOINT)
    stored = None if state is None else config_of_state(state, folder / CHECKPOINT)
    if stored is not None and config.model.encoder is None:  # which meant another encoder for text then
        config = config.model_copy(update={"model": config.model.model_copy(update={"encoder": stored.model.encoder})})
    trainer = Trainer(config, source.shards.card, wrap)
    if config.loss.class_weights == "balanced":
        trainer.know_classes(source.class_counts(config.data.modalities))
    recorder = Recorder(trainer, folder, troubles, launch.saved_after)
    if state is not None:
        if stored != config:
            raise UserError(f"{folder}: holds a run with other settings; give another name or folder")
        if state["card"]["fingerprint"] != source.shards.card.fingerprint:
            raise UserError(f"{folder}: holds a run on other shards; give another name or folder")
        load_weights(trainer.model, state["model"], folder / CHECKPOINT)
        trainer.load_state_dict(state)
        if rank == 0:
            patiently(recorder.restore, folder)
    elif rank == 0:
        patiently(recorder.begin, folder)
    if rank == 0:
        begun = f"epoch {trainer.epoch}" if trainer.epoch else "the beginning"
        for trouble in troubles:
            add_notice(folder, f"{trouble}; went on from {begun}")
    for row in trainer.history:
        report(row)

    def on_epoch(trainer: Trainer) -> None:
        if trainer.ended:
            counted = {"val": trainer.confusions}
            if launch.measure:
                trainer.history[-1] |= measured_on(launch.measure, trainer, source)
                counted[launch.measure] = trainer.confusions
            if rank == 0:
                patiently(lambda: write_confusions(folder, trainer, counted), folder)
                patiently(lambda: write_costs(folder, meter.costs()), folder)
        if rank == 0:
            notices: list[str] = []
            patiently(recorder.write, folder, notices.append)
            for notice in notices[-1:]:
                add_notice(folder, notice)
        report(trainer.history[-1])

    meter, splits = Meter(trainer), source.splits(config)
    splits = replace(splits, train=meter.steps_of(splits.train))
    if not launch.profile:
        try:
            return fit(trainer, splits, on_epoch)
        finally:
            meter.stop()
    measured = Profile(trainer.device)
    with measured.on():
        rows = fit(trainer, replace(splits, train=measured.steps_of(splits.train)), on_epoch)
    if rank == 0:
        write_atomically(folder / PROFILE, json.dumps(with_checksum(measured.summary())))
        storage.push(folder / PROFILE)
    return rows


def measured_on(split: str, trainer: Trainer, source: DataSource) -> Row:
    """The metrics of a further split: of the best epoch, where `checkpoint.best` chooses one, else of the last.

    Where the best is another than the last epoch, the last epoch's have names that begin with `SPLIT_last`.
    """
    batches, row = source.evaluation(split, trainer.config), {}
    if trainer.best.epoch not in (None, trainer.epoch):
        row = {f"{split}_last/{name}": value for name, value in trainer.evaluate(batches).items()}
    with trainer.best.loaded(trainer.evaluated):
        return row | {f"{split}/{name}": value for name, value in trainer.evaluate(batches).items()}


def run_in_process(launch: Launch, report: Callable[[Row], None]) -> None:
    """Carries out a run of one worker in this process.

    Raises:
        UserError, TrainingFailed: those of `execute`, and what `lfm_ray.training.failures.told` makes of all others.
    """
    torch.set_num_threads(launch.workers.threads)
    take_over(launch)
    with limited(report, launch) as report_in_time, told(launch.folder):
        execute(launch, report_in_time)


@contextmanager
def limited(report: Callable[[Row], None], launch: Launch) -> Iterator[Callable[[Row], None]]:
    """Gives back `report`; this process ends when it is not called for `epoch_time_limit` (None: never).

    The stacks of all threads are then in `HUNG`. Even what hangs outside Python is ended. Whoever
    started the process starts it again, as any process that died.
    """
    folder, seconds = launch.folder, launch.workers.epoch_time_limit
    if seconds is None:
        yield report
        return
    folder.mkdir(parents=True, exist_ok=True)
    known = len(read_epochs(folder))
    with appending(folder / HUNG) as file:

        def in_time(row: Row) -> None:
            report(row)
            again = START_UP if row["epoch"] <= known else 0.0  # an epoch of an earlier start
            faulthandler.dump_traceback_later(again + seconds, exit=True, file=file)

        faulthandler.dump_traceback_later(START_UP + seconds, exit=True, file=file)
        try:
            yield in_time
        finally:
            faulthandler.cancel_dump_traceback_later()
            if os.fstat(file.fileno()).st_size == 0:
                (folder / HUNG).unlink(missing_ok=True)  # a run that was paused may end after it has gone on elsewhere


def take_over(launch: Launch) -> None:
    """Brings to this node what an earlier start of the run has left in the store, and its data, where there is one."""
    patiently(lambda: storage.pull(launch.folder, skip=lambda name: name == HUNG), launch.folder)
    storage.push(launch.folder / HUNG)
    patiently(lambda: launch.source.fetch(launch.measure), launch.source.shards.path)
