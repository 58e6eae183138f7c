"""What sweeps found, trained anew over several seeds and measured: what `lfm_ray.confirm` does."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
from rich.console import Console

from lfm_ray.callbacks.progress import RunsProgress
from lfm_ray.checksums import sealed
from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.files import appending, write_atomically
from lfm_ray.ray_session import ray_session
from lfm_ray.report.confirmation import Confirmed, class_frame, confirm_frame, summary, write_confirmation
from lfm_ray.report.verdict import Verdict, verdict
from lfm_ray.search.ray_tune.resources import Resources
from lfm_ray.search.ray_tune.tuning import run_configs
from lfm_ray.search.selection import pools
from lfm_ray.search.spaces.objective import signed
from lfm_ray.search.sweep import Sweep, Trial
from lfm_ray.settings import build, merge
from lfm_ray.storage import push
from lfm_ray.training.execution import Workers
from lfm_ray.training.run_folder import read_epochs
from lfm_ray.training.source import DataSource

SELECTION = "confirm-select"  # where the runs of --select are kept, in a sweep's folder
SELECTING = (10_001, 10_002)  # their seeds, after the sweep's own: none that confirms


@dataclass(frozen=True)
class Measured:
    """What was measured.

    runs: one row for each confirming run: sweep, trial, strategy, selected_by, seed, metrics.
    objective: the metrics of the first sweep's. files: where it is written. verdict: what to do; None after one seed.
    """

    runs: pd.DataFrame
    split: str
    objective: list[str]
    files: list[Path]
    verdict: Verdict | None = None

    @property
    def table(self) -> pd.DataFrame:
        """One row for each configuration (`lfm_ray.report.confirmation.summary`)."""
        return summary(self.runs, self.split, self.objective)


def confirm(
    folders: Sequence[Path],
    *,
    seeds: int,
    top: int,
    select: int | None,
    split: str,
    changes: Mapping[str, Any],
    address: str | None,
    console: Console,
) -> Measured:
    """Trains the best trials of sweeps, and their baselines, with other seeds, and measures them on `split`.

    changes: settings that differ from those of the trials. For the rest see `lfm_ray.confirm`.

    Raises:
        UserError: no trial has finished, the sweeps have different data, or what is asked for contradicts itself.
        TrainingFailed: a run failed.
    """
    if select and select <= top:
        raise UserError(f"--select {select}: must be above {top}, the number of trials that are taken")
    sweeps = [Sweep.open(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
    try:
        for sweep in sweeps:
            sweep.hold()
        return _confirm(sweeps, seeds, top, select, split, changes, address, console)
    finally:
        for sweep in sweeps:
            sweep.let_go()


def _confirm(
    sweeps: Sequence[Sweep], number: int, top: int, select: int | None, split: str, changes: Mapping[str, Any],
    address: str | None, console: Console,
) -> Measured:  # fmt: skip
    candidates = [(sweep, pool) for sweep in sweeps for pool in pools(sweep.trials(), top, select or top)]
    everyone = unique((sweep, trial) for sweep, pool in candidates for trial in pool.trials)
    if not everyone:
        raise UserError("there is no finished trial in the given sweeps")
    objective, first = sweeps[0].space.objective, sweeps[0].file.seed
    seeds = [first + 1 + i for i in range(number)]
    kept = "confirm" if split == "test" else "confirm-val"
    if split == "val":
        refuse_fitted_to_validation(everyone, changes)

    with ray_session(address):
        source = DataSource.open(sweeps[0].space.base, splits=tuple(dict.fromkeys(("train", "val", split))))
        for sweep in sweeps:
            sweep.check_data(source.shards.card.fingerprint)
        resources = Resources(Workers(1), reader_cpus=sweeps[0].space.base.data.reader_cpus)

        def train(trials: list[tuple[Sweep, Trial]], seeds: list[int], kept: str, split: str | None) -> None:
            runs = {
                run_folder(sweep, trial, seed, kept): again(trial, seed, changes)
                for sweep, trial in trials
                for seed in seeds
            }
            with RunsProgress(console, len(runs)) as progress:
                run_configs(runs, source, resources, [progress], split)

        known = {identity(sweep, trial): [trial] for sweep, trial in everyone}  # what the choice is made by
        if select:
            selecting = [first + seed for seed in SELECTING]
            console.print(f"selecting among {len(everyone)} trials, by {len(selecting)} more seeds of each")
            train(everyone, selecting, SELECTION, None)
            for sweep, trial in everyone:
                folders = [run_folder(sweep, trial, seed, SELECTION) for seed in selecting]
                known[identity(sweep, trial)] = [replace(trial, rows=read_epochs(folder)) for folder in folders]
        chosen = unique(
            (sweep, trial)
            for sweep, pool in candidates
            for trial in pool.best({trial.number: known[identity(sweep, trial)] for trial in pool.trials})
        )
        if split == "test":
            note_reading(chosen, seeds)
        train(chosen, seeds, kept, split)

    confirmed = []
    for sweep, trial in chosen:
        by = mean(signed(objective, one.rows[-1])[0] for one in known[identity(sweep, trial)])
        confirmed.append(Confirmed(sweep, trial, by, [run_folder(sweep, trial, seed, kept) for seed in seeds]))
    frame = confirm_frame(confirmed, seeds)
    files = write_confirmation(frame, split, sweeps[0].folder / kept, objective, class_frame(confirmed, split))
    found = verdict(frame, split, *next(iter(objective.items())))
    if found is not None:
        configs = {(sweep.folder.name, trial.number): trial.config for sweep, trial in chosen}
        for file, one in (("best.yaml", found.best), ("simplest.yaml", found.simplest)):
            files.append(sweeps[0].folder / file)
            write_atomically(files[-1], sealed(configs[one.sweep, one.trial].to_yaml()))
    push(*files, *(sweep.folder / "test_reads.log" for sweep in sweeps))
    return Measured(frame, split, list(objective), files, found)


def identity(sweep: Sweep, trial: Trial) -> tuple[Path, int]:
    """What tells a trial from all others of the given sweeps."""
    return sweep.folder, trial.number


def unique(trials: Iterable[tuple[Sweep, Trial]]) -> list[tuple[Sweep, Trial]]:
    """Each trial once, in the given order."""
    return list({identity(sweep, trial): (sweep, trial) for sweep, trial in trials}.values())


def again(trial: Trial, seed: int, changes: Mapping[str, Any]) -> RunConfig:
    """The run of a trial with another seed, and with other settings where `changes` says so."""
    return build(RunConfig, merge(trial.config.model_dump(), {**changes, "seed": seed}))


def refuse_fitted_to_validation(trials: list[tuple[Sweep, Trial]], changes: Mapping[str, Any]) -> None:
    """Refuses to measure on the validation split what was fitted to it.

    Raises:
        UserError: the alpha of a trial was, or the epoch that counts.
    """
    for sweep, trial in trials:
        if again(trial, 0, changes).checkpoint.best:
            raise UserError(
                f"{sweep.folder}, trial {trial.number}: its epoch is chosen on the validation split (checkpoint.best),"
                " on which it cannot be measured; use --split test or --set checkpoint.best=null --set"
                " checkpoint.patience=null"
            )
        if again(trial, 0, changes).fits_validation:
            raise UserError(
                f"{sweep.folder}, trial {trial.number}: its alpha is fitted to the validation split (alpha.outer: val),"
                " on which it cannot be measured; use --split test or --set alpha.outer=held_out"
            )


def note_reading(trials: list[tuple[Sweep, Trial]], seeds: list[int]) -> None:
    """Writes down in each sweep's folder that the test split is read."""
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    for sweep in {sweep.folder: sweep for sweep, _ in trials}.values():
        numbers = [trial.number for owner, trial in trials if owner is sweep]
        with appending(sweep.folder / "test_reads.log") as log:
            log.write(f"{now} trials {numbers} seeds {seeds}\n")


def run_folder(sweep: Sweep, trial: Trial, seed: int, kept: str) -> Path:
    """Where the run of a trial with another seed is kept."""
    return (sweep.folder / kept / f"{trial.number:04d}-seed{seed}").absolute()
