"""Retrains what sweeps found over several seeds, and measures it on the test split.

    python -m lfm_ray.confirm sweeps/mine
    python -m lfm_ray.confirm sweeps/mine sweeps/joint --seeds 5 --top 3
    python -m lfm_ray.confirm sweeps/mine sweeps/joint --select 3

The best of many noisy trials looks better than it is, so what was selected on the validation split
is trained anew with other seeds. Of each sweep it takes the best trials, and the best trials of
alpha = 0 and of the heuristic; all are compared, seed by seed, with the best alpha = 0 and the best
heuristic of the given sweeps: difference, 95 % interval, paired tests, corrected for their number
(Holm), in fused accuracy and in the first sweep's objective. The tables are also written to the
first sweep's folder, as CSV, Markdown and LaTeX.

With --select 3, the three best trials of each kind are first trained with two more seeds, and the one
with the highest mean on the validation split is taken: for the method and its baselines alike.

Only this command and `report --paper` read the test split; each time it does so it adds a line to
test_reads.log in the sweep's folder. Data without a test split are measured with --split val, which
is refused for an alpha that was itself fitted to the validation split (alpha.outer: val).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from lfm_ray.cli import parser, positive, run, storage_folder
from lfm_ray.console import console
from lfm_ray.errors import UserError
from lfm_ray.ray_session import ray_session
from lfm_ray.storage import push

if TYPE_CHECKING:
    from lfm_ray.config import RunConfig
    from lfm_ray.search.sweep import Sweep, Trial

SELECTION = "confirm-select"  # where the runs of --select are kept, in a sweep's folder
SELECTING = (10_001, 10_002)  # their seeds, after the sweep's own: none that confirms


def main() -> None:
    """The command."""
    result = parser("confirm", __doc__ or "")
    add = result.add_argument
    add("sweeps", nargs="+", type=storage_folder, help="folders of finished sweeps of the same data")
    add("--seeds", type=positive, default=3, help="trainings of each configuration; default 3")
    add("--top", type=positive, default=1, help="how many of the best trials of each sweep; default 1")
    add("--select", type=positive, metavar="K",
        help="train the K best with two more seeds first, and take what is best on the validation split")  # fmt: skip
    add("--split", choices=("test", "val"), default="test", help="what is measured; default test")
    add("--address", help="a Ray cluster that this machine is a node of, such as auto; without it, this machine")
    given = result.parse_args()
    if given.select and given.select <= given.top:
        raise UserError(f"--select {given.select}: must be above {given.top}, the number of trials that are taken")

    from lfm_ray.callbacks.progress import RunsProgress
    from lfm_ray.report.confirmation import Confirmed, confirm_frame, rich_table, tables, write_confirmation
    from lfm_ray.search.ray_tune.resources import Resources
    from lfm_ray.search.ray_tune.tuning import run_configs
    from lfm_ray.search.selection import pools
    from lfm_ray.search.spaces.objective import signed
    from lfm_ray.search.sweep import Sweep
    from lfm_ray.settings import parse_overrides
    from lfm_ray.training.execution import Workers
    from lfm_ray.training.run_folder import read_epochs
    from lfm_ray.training.source import DataSource

    sweeps = [Sweep.open(folder) for folder in {folder.resolve(): folder for folder in given.sweeps}.values()]
    for sweep in sweeps:
        sweep.hold()
    candidates = [
        (sweep, pool) for sweep in sweeps for pool in pools(sweep.trials(), given.top, given.select or given.top)
    ]
    everyone = unique((sweep, trial) for sweep, pool in candidates for trial in pool.trials)
    if not everyone:
        raise UserError("there is no finished trial in the given sweeps")
    changes, objective = parse_overrides(given.overrides), sweeps[0].space.objective
    first = sweeps[0].file.seed
    seeds = [first + 1 + i for i in range(given.seeds)]
    kept = "confirm" if given.split == "test" else "confirm-val"
    if given.split == "val":
        refuse_fitted_to_validation(everyone, changes)

    with ray_session(given.address):
        source = DataSource.open(sweeps[0].space.base, splits=tuple(dict.fromkeys(("train", "val", given.split))))
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
        if given.select:
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
        if given.split == "test":
            note_reading(chosen, seeds)
        train(chosen, seeds, kept, given.split)

    confirmed = []
    for sweep, trial in chosen:
        by = mean(signed(objective, one.rows[-1])[0] for one in known[identity(sweep, trial)])
        confirmed.append(Confirmed(sweep, trial, by, [run_folder(sweep, trial, seed, kept) for seed in seeds]))
    frame = confirm_frame(confirmed, seeds)
    files = write_confirmation(frame, given.split, sweeps[0].folder / kept, objective)
    push(*files, *(sweep.folder / "test_reads.log" for sweep in sweeps))
    for title, cells in tables(frame, given.split, objective).items():
        console.print(rich_table(title, cells))
    console.print(f"written         {files[0].parent}/{{{','.join(file.name for file in files)}}}", soft_wrap=True)


def identity(sweep: Sweep, trial: Trial) -> tuple[Path, int]:
    """What tells a trial from all others of the given sweeps."""
    return sweep.folder, trial.number


def unique(trials: Iterable[tuple[Sweep, Trial]]) -> list[tuple[Sweep, Trial]]:
    """Each trial once, in the given order."""
    return list({identity(sweep, trial): (sweep, trial) for sweep, trial in trials}.values())


def again(trial: Trial, seed: int, changes: dict[str, Any]) -> RunConfig:
    """The run of a trial with another seed, and with what `--set` changes."""
    from lfm_ray.config import RunConfig
    from lfm_ray.settings import build, merge

    return build(RunConfig, merge(trial.config.model_dump(), {**changes, "seed": seed}))


def refuse_fitted_to_validation(trials: list[tuple[Sweep, Trial]], changes: dict[str, Any]) -> None:
    """Refuses to measure on the validation split what was fitted to it.

    Raises:
        UserError: the alpha of a trial was.
    """
    for sweep, trial in trials:
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
        with (sweep.folder / "test_reads.log").open("a", encoding="utf-8") as log:
            log.write(f"{now} trials {numbers} seeds {seeds}\n")


def run_folder(sweep: Sweep, trial: Trial, seed: int, kept: str) -> Path:
    """Where the run of a trial with another seed is kept."""
    return (sweep.folder / kept / f"{trial.number:04d}-seed{seed}").absolute()


if __name__ == "__main__":
    run(main)
