"""Retrains what sweeps found over several seeds, and measures it on the test split.

    python -m lfm_ray.confirm sweeps/mine
    python -m lfm_ray.confirm sweeps/mine sweeps/joint --seeds 5 --top 3

The best of many noisy trials looks better than it is, so what was selected on the validation split
is trained anew with other seeds. Of each sweep it takes the best trials, and the best trials of
alpha = 0 and of the heuristic; all are compared, seed by seed, with the best alpha = 0 and the best
heuristic of the given sweeps: difference, 95 % interval, paired tests, corrected for their number
(Holm). The tables are also written to the first sweep's folder, as CSV, Markdown and LaTeX.

Only this command and `report --paper` read the test split; each time it does so it adds a line to
test_reads.log in the sweep's folder. Data without a test split are measured with --split val, which
is refused for an alpha that was itself fitted to the validation split (alpha.outer: val).
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lfm_ray.cli import console, parser, positive, ray_session, run, storage_folder
from lfm_ray.errors import UserError
from lfm_ray.schedules import Learned
from lfm_ray.storage import push

if TYPE_CHECKING:
    from lfm_ray.search.sweep import Sweep, Trial


def main() -> None:
    """The command."""
    result = parser("confirm", __doc__ or "")
    add = result.add_argument
    add("sweeps", nargs="+", type=storage_folder, help="folders of finished sweeps of the same data")
    add("--seeds", type=positive, default=3, help="trainings of each configuration; default 3")
    add("--top", type=positive, default=1, help="how many of the best trials of each sweep; default 1")
    add("--split", choices=("test", "val"), default="test", help="what is measured; default test")
    add("--address", help="a Ray cluster that this machine is a node of, such as auto; without it, this machine")
    given = result.parse_args()

    from lfm_ray.config import RunConfig
    from lfm_ray.launch import Source, Workers
    from lfm_ray.report.confirmation import confirm_frame, rich_table, tables, write_confirmation
    from lfm_ray.report.progress import RunsProgress
    from lfm_ray.search.run import Resources, run_configs
    from lfm_ray.search.selection import candidates
    from lfm_ray.search.sweep import Sweep
    from lfm_ray.settings import build, merge, parse_overrides

    sweeps = [Sweep.open(folder) for folder in given.sweeps]
    chosen = [(sweep, trial) for sweep in sweeps for trial in candidates(sweep.trials(), given.top)]
    if not chosen:
        raise UserError("there is no finished trial in the given sweeps")
    changes = parse_overrides(given.overrides)
    seeds = [sweeps[0].file.seed + 1 + i for i in range(given.seeds)]
    runs = {}
    for sweep, trial in chosen:
        for seed in seeds:
            config = build(RunConfig, merge(trial.config.model_dump(), {**changes, "seed": seed}))
            runs[_folder(sweep, trial, seed, given.split)] = config

    for sweep, trial in chosen:
        alpha = runs[_folder(sweep, trial, seeds[0], given.split)].alpha
        if given.split == "val" and isinstance(alpha, Learned) and alpha.outer == "val":
            raise UserError(
                f"{sweep.folder}, trial {trial.number}: its alpha is fitted to the validation split (alpha.outer: val),"
                " on which it cannot be measured; use --split test or --set alpha.outer=held_out"
            )

    with ray_session(given.address):
        source = Source.open(sweeps[0].space.base, splits=tuple(dict.fromkeys(("train", "val", given.split))))
        for sweep in sweeps:
            sweep.check_data(source.shards.card.fingerprint)
            if given.split != "test":
                continue
            with (sweep.folder / "test_reads.log").open("a", encoding="utf-8") as log:
                numbers = [trial.number for owner, trial in chosen if owner is sweep]
                log.write(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} trials {numbers} seeds {seeds}\n")
        resources = Resources(Workers(1), reader_cpus=sweeps[0].space.base.data.reader_cpus)
        with RunsProgress(console, len(runs)) as progress:
            run_configs(runs, source, resources, [progress], given.split)

    groups = [(sweep, trial, [_folder(sweep, trial, seed, given.split) for seed in seeds]) for sweep, trial in chosen]
    frame = confirm_frame(groups, seeds)
    files = write_confirmation(frame, given.split, sweeps[0].folder / _kept(given.split))
    push(*files, *(sweep.folder / "test_reads.log" for sweep in sweeps))
    for title, cells in tables(frame, given.split).items():
        console.print(rich_table(title, cells))
    console.print(f"written         {files[0].parent}/{{{','.join(file.name for file in files)}}}", soft_wrap=True)


def _folder(sweep: Sweep, trial: Trial, seed: int, split: str) -> Path:
    """Where the run of a trial with another seed is kept, by the split that it is measured on."""
    return (sweep.folder / _kept(split) / f"{trial.number:04d}-seed{seed}").absolute()


def _kept(split: str) -> str:
    """What confirmations on a split are kept under, in a sweep's folder."""
    return "confirm" if split == "test" else "confirm-val"


if __name__ == "__main__":
    run(main)
