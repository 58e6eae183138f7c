"""How a training loop is launched: in the process of a Tune trial, or on Ray Train workers (DDP).

It is the same `execute` in both; what it writes is in `lfm_ray.training.run_folder`.
"""

from __future__ import annotations

import faulthandler
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from lfm_ray import storage
from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.runtime import checkpoint, compute, distributed
from lfm_ray.runtime.profiling import Profile
from lfm_ray.storage import patiently, write_atomically
from lfm_ray.training.loop import fit
from lfm_ray.training.run_folder import CHECKPOINT, HUNG, PROFILE, Recorder, add_notice, read_epochs
from lfm_ray.training.source import Source
from lfm_ray.training.trainer import Row, Run

START_UP = 120.0  # s, that the first epoch of a process may take longer than others, for what it loads


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
    holds the metrics of the split `measure`; only `confirm` and `reproduce` ask for one. `profile`
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


def _take_over(folder: Path, source: Source, measure: str | None) -> None:
    """Brings to this node what an earlier start of the run has left in the store, and its data, where there is one."""
    patiently(lambda: storage.pull(folder, skip=lambda name: name == HUNG), folder)
    storage.push(folder / HUNG)
    patiently(lambda: source.fetch(measure), source.shards.path)
