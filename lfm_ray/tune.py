"""Searches a training strategy: from a space of settings to the best configurations.

    python -m lfm_ray.tune                                                  the demo
    python -m lfm_ray.tune search_spaces/alpha_schedule.yaml --data shards/mine
    python -m lfm_ray.tune --data shards/mine --trials 100 --time-budget 2h --name mine
    python -m lfm_ray.tune --start-from runs/learned                        tries its fitted alpha(t) first
    python -m lfm_ray.tune --data shards/mine --population 8                alpha(t) and the learning rate in one go
    python -m lfm_ray.tune --resume mine                                    goes on after a kill

Trials run on Ray Tune, on this machine or on the cluster at --address. Settings are drawn by
Optuna, and trials that fall behind are stopped early. Everything lies under STORAGE/NAME.
"""

from __future__ import annotations

import datetime
from argparse import Namespace
from pathlib import Path

from lfm_ray.cli import (
    command_line,
    console,
    parser,
    positive,
    ray_session,
    repository_file,
    run,
    seconds,
    storage_folder,
    write_atomically,
)
from lfm_ray.errors import TrainingFailed, UserError

DEFAULT_SPACE = "search_spaces/alpha_schedule.yaml"
DEMO_SHARDS = Path("shards/demo")


def main() -> None:
    """The command."""
    given = arguments()

    from lfm_ray.datasets.demo import prepare_demo
    from lfm_ray.datasets.shards import read_card
    from lfm_ray.launch import Source, Workers
    from lfm_ray.report.progress import RunsProgress, SweepProgress
    from lfm_ray.report.tensorboard import TensorBoardCallback
    from lfm_ray.search.population import population_space, rounds
    from lfm_ray.search.run import Resources, cluster_hardware, run_sweep
    from lfm_ray.search.space import load_space
    from lfm_ray.search.sweep import Sweep
    from lfm_ray.search.warm_start import with_fitted_point

    if given.resume:
        sweep = Sweep.open(given.storage / given.resume)
        sweep.extend(given.trials)
        space, folder = sweep.space, sweep.folder
    else:
        space = load_space(repository_file(given.space), [*given.overrides, *setting_flags(given)], given.trials)
        for start in given.start_from:
            space = with_fitted_point(space, start)
        if given.population:
            space = population_space(space, given.population)
        folder = given.storage / (given.name or f"{given.space.stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
        Sweep.check_free(folder)
        data = Path(space.base.data.path)
        if data != DEMO_SHARDS or data.exists():
            read_card(data)

    workers = Workers(given.workers_per_trial, given.cpus_per_worker, given.gpus_per_worker)
    resources = Resources(workers, given.concurrency, space.base.data.reader_cpus)
    with ray_session(given.address):
        resources.trials_at_once()
        if not Path(space.base.data.path).exists():
            console.print(f"making the demo's shards in {DEMO_SHARDS}")
            prepare_demo(DEMO_SHARDS, given.address)
        source = Source.open(space.base)
        fingerprint = source.shards.card.fingerprint
        if not given.resume:
            sweep = Sweep.create(folder, space, given.seed, fingerprint, command_line(), cluster_hardware())
        sweep.check_data(fingerprint)
        console.print(f"[bold]{folder}[/]  {space.question}")
        runs = space.trials * rounds(space)
        with RunsProgress(console, runs) if runs else SweepProgress(console, sweep.study, space) as progress:
            tensorboard = TensorBoardCallback(folder / "tensorboard", space)
            run_sweep(sweep, source, resources, given.time_budget, [tensorboard, progress])
    show(folder)


def show(folder: Path) -> None:
    """Prints what a sweep found, and writes its best settings, table and figure."""
    from lfm_ray.report.figures import strategies_figure
    from lfm_ray.report.page import write_report
    from lfm_ray.report.tables import settings_table, strategy_table
    from lfm_ray.schedules import formula
    from lfm_ray.search.selection import best_of, schedule_of
    from lfm_ray.search.sweep import Sweep

    sweep = Sweep.open(folder)
    trials = sweep.trials()
    best = best_of(trials)
    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("finished", "pruned", "failed", "running") if s in states)
    write_report([folder], folder / "report.html")
    if best is None:
        reason = next((f": {trial.reason}" for trial in trials if trial.state == "failed"), "")
        if "running" in states or not trials:
            raise TrainingFailed(f"no trial finished ({counts}); go on with --resume {folder.name}")
        raise TrainingFailed(f"no trial finished ({counts}){reason}")

    write_atomically(folder / "trials.csv", sweep.table().to_csv(index=False))
    write_atomically(folder / "best.yaml", best.config.to_yaml())
    strategies_figure(trials, folder / "strategies.png")

    console.print(strategy_table(trials))
    console.print(settings_table(best, sweep.space.searched_in(best.config)))
    for trial in [trial for trial in trials if trial.state == "failed"]:
        console.print(f"[yellow]trial {trial.number} failed:[/] {trial.reason}")
    schedule, residual = schedule_of(best)
    exact = "" if residual == 0 else f"   (cubic fitted to trial {best.number}, residual {residual:.3f})"
    console.print(f"{counts}. Best schedule, T = {best.config.epochs}:")
    console.print(f"  {formula(schedule.power_basis(best.config.epochs))}{exact}", soft_wrap=True)
    console.print(f"best settings   {folder / 'best.yaml'}", soft_wrap=True)
    console.print(f"report          {folder / 'report.html'}", soft_wrap=True)
    console.print(f"train it        python -m lfm_ray.train {folder / 'best.yaml'}", soft_wrap=True)
    console.print(f"test figures    python -m lfm_ray.confirm {folder}", soft_wrap=True)
    console.print(f"TensorBoard     tensorboard --logdir {folder / 'tensorboard'}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = parser("tune", __doc__ or "")
    add = result.add_argument
    add("space", nargs="?", type=Path, default=Path(DEFAULT_SPACE), help=f"search space file; default {DEFAULT_SPACE}")
    add("--data", metavar="FOLDER", help="shards made by lfm_ray.prepare; without it, the demo")
    add("--name", help="of the sweep; default: the space's and the time")
    add("--resume", metavar="NAME", help="go on with a sweep that was interrupted, or with more --trials")
    add("--start-from", type=Path, metavar="RUN", action="append", default=[],
        help="folder of a run, whose alpha(t) is fitted and tried among the first; repeatable")  # fmt: skip
    add("--trials", type=positive, help="number of trials; default: the space's")
    add("--population", type=positive, metavar="N",
        help="population based training with N members: alpha and the learning rate change on the way")  # fmt: skip
    add("--epochs", type=positive, help="T of each trial; default: the space's")
    add("--time-budget", type=seconds, metavar="TIME", help="stop after this time, such as 90s, 30m, 2h")
    add("--seed", type=int, default=0, help="decides what is drawn, and the seed of every trial; default 0")
    add("--address", help="a Ray cluster, such as auto or ray://host:10001; without it, this machine")
    add("--storage", type=storage_folder, default=Path("sweeps"), metavar="FOLDER",
        help="where sweeps are kept; on a cluster, a folder that all nodes share (NFS); default sweeps")  # fmt: skip
    add("--concurrency", type=positive, help="trials at once; default: as many as the CPUs and GPUs allow")
    add("--workers-per-trial", type=positive, default=1, help="more than 1: each trial is a DDP job; default 1")
    add("--cpus-per-worker", type=positive, default=1, help="default 1")
    add("--gpus-per-worker", type=float, default=0, help="can be a fraction; default 0")
    given = result.parse_args()
    if given.resume and (given.overrides or given.data or given.epochs or given.name or given.start_from):
        raise UserError("--resume goes on with the settings of the sweep; only --trials and resources can change")
    if given.population and (given.trials or given.start_from):
        raise UserError("--population says how many members there are; --trials and --start-from do not go with it")
    return given


def setting_flags(given: Namespace) -> list[str]:
    """The flags that are short for a `--set`."""
    flags = {"data.path": given.data, "epochs": given.epochs}
    named = [f"{key}={value}" for key, value in flags.items() if value is not None]
    return named if any(item.startswith("seed=") for item in given.overrides) else [*named, f"seed={given.seed}"]


if __name__ == "__main__":
    run(main)
