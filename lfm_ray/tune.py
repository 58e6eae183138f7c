"""Searches a training strategy: from a space of settings to the best configurations.

    python -m lfm_ray.tune                                                  the demo
    python -m lfm_ray.tune search_spaces/alpha_schedule.yaml --data shards/mine
    python -m lfm_ray.tune --data shards/mine --trials 100 --time-budget 2h --name mine
    python -m lfm_ray.tune search_spaces/cubic.yaml --from-learned          fits a learned alpha(t), searches around it
    python -m lfm_ray.tune --start-from runs/learned                        tries its fitted alpha(t) first
    python -m lfm_ray.tune --data shards/mine --population 8                alpha(t) and the learning rate in one go
    python -m lfm_ray.tune --warm-start sweeps/other --data shards/mine     learns from the trials of another sweep
    python -m lfm_ray.tune --objective val/fused/map --objective val/accuracy_gap
    python -m lfm_ray.tune --resume mine                                    goes on after a kill
    python -m lfm_ray.tune --describe search_spaces/cubic.yaml              what a space searches

Trials run on Ray Tune, on this machine or on the cluster at --address. Settings are drawn by
Optuna, and trials that fall behind are stopped early. Everything lies under STORAGE/NAME.
"""

from __future__ import annotations

import datetime
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from lfm_ray.cli import command_line, gpu_count, parser, positive, run, seconds, storage_folder
from lfm_ray.console import console
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.ray_session import ray_session
from lfm_ray.resources import repository_file
from lfm_ray.storage import push, shown, working_folder, write_atomically

if TYPE_CHECKING:
    from lfm_ray.datasets.shards import DatasetCard
    from lfm_ray.search.ray_tune.adapters import TimeBudget
    from lfm_ray.search.ray_tune.resources import Resources
    from lfm_ray.search.spaces.space import Space
    from lfm_ray.search.study.prior_trials import PriorTrial
    from lfm_ray.search.sweep import Sweep
    from lfm_ray.training.source import DataSource

DEFAULT_SPACE = "search_spaces/alpha_schedule.yaml"
DEMO_SHARDS = Path("shards/demo")


def main() -> None:
    """The command."""
    given = arguments()

    from lfm_ray.callbacks.loggers import loggers
    from lfm_ray.callbacks.progress import RunsProgress, SweepProgress
    from lfm_ray.callbacks.tensorboard import TensorBoardCallback
    from lfm_ray.datasets.preparing.demo import prepare_demo
    from lfm_ray.datasets.shards import read_card
    from lfm_ray.search.population import check_population, population_space, rounds
    from lfm_ray.search.ray_tune.adapters import TimeBudget
    from lfm_ray.search.ray_tune.resources import Resources, cluster_hardware
    from lfm_ray.search.ray_tune.tuning import run_sweep
    from lfm_ray.search.spaces.applicability import for_modalities
    from lfm_ray.search.study.samplers import drawn_at_random
    from lfm_ray.search.sweep import Sweep
    from lfm_ray.training.execution import Workers
    from lfm_ray.training.source import DataSource

    if given.describe:
        from lfm_ray.report.describe import describe

        console.print(describe(space_of(given)))
        return
    if given.resume:
        sweep = Sweep.open(given.storage / given.resume)
        sweep.hold()
        sweep.extend(given.trials, given.epoch_budget)
        space, folder = sweep.space, sweep.folder
    else:
        space = space_of(given)
        if given.population:
            space = population_space(space, given.population)
        folder = given.storage / (given.name or f"{given.space.stem}-{datetime.datetime.now():%Y%m%d-%H%M%S}")
        Sweep.check_free(folder)
        data = working_folder(space.base.data.path)
        if data != DEMO_SHARDS or data.exists():
            space, left_out = for_modalities(space, read_card(data))
            for line in left_out:
                console.print(line, soft_wrap=True)
    if rounds(space):
        check_population(given.workers_per_trial, folder)

    logged = loggers(given.log, folder, space)
    gpus = 1 / given.trials_per_gpu if given.trials_per_gpu else given.gpus_per_worker
    workers = Workers(given.workers_per_trial, given.cpus_per_worker, gpus, given.epoch_time_limit)
    resources = Resources(workers, given.concurrency, space.base.data.reader_cpus)
    with ray_session(given.address):
        resources.trials_at_once()
        if Path(space.base.data.path) == DEMO_SHARDS and not DEMO_SHARDS.exists():
            console.print(f"making the demo's shards in {DEMO_SHARDS}")
            prepare_demo(DEMO_SHARDS, given.address)
        source = DataSource.open(space.base)
        fingerprint = source.shards.card.fingerprint
        if not given.resume:
            prior = prior_trials_for(space, source.shards.card, given)
            sweep = Sweep.create(
                folder, space, given.seed, fingerprint, command_line(), cluster_hardware(), prior, given.from_learned
            )
        sweep.check_data(fingerprint)
        console.print(f"[bold]{shown(folder)}[/]", soft_wrap=True)
        console.print(space.question)
        if at_random := drawn_at_random(space):
            console.print(f"sampler {space.sampler}: draws at random, as it cannot model them: {', '.join(at_random)}")
        time_budget = TimeBudget(given.time_budget) if given.time_budget else None
        if sweep.file.from_learned:
            space = search_around_learned(sweep, source, resources, time_budget)
        runs = space.trials * rounds(space)
        with RunsProgress(console, runs) if runs else SweepProgress(console, sweep.study, space) as progress:
            tensorboard = TensorBoardCallback(folder, space, source.shards.card.modalities)
            run_sweep(sweep, source, resources, time_budget, [tensorboard, *logged, progress])
    show(folder)


def space_of(given: Namespace) -> Space:
    """The space that the command line asks for."""
    from lfm_ray.search.spaces.space_file import load_space
    from lfm_ray.search.study.samplers import check_sampler
    from lfm_ray.search.sweep import Sweep
    from lfm_ray.search.warm_start import check_takes_fit, with_best_points, with_fitted_point

    space = load_space(
        repository_file(given.space),
        [*given.overrides, *setting_flags(given)],
        trials=given.trials,
        epoch_budget=given.epoch_budget,
        sampler=given.sampler,
        objective=given.objective,
    )
    check_sampler(space)
    if given.warm_start and given.warm_start_as == "evidence" and space.sampler in ("random", "cmaes"):
        raise UserError(f"--warm-start: sampler {space.sampler} learns from no other sweep; add --warm-start-as points")
    for start in given.start_from:
        space = with_fitted_point(space, start)
    if given.warm_start_as == "points":
        for earlier in given.warm_start:
            space = with_best_points(space, Sweep.open(earlier))
    if given.from_learned:
        check_takes_fit(space, "--from-learned")
    return space


def prior_trials_for(space: Space, card: DatasetCard, given: Namespace) -> list[PriorTrial]:
    """What the sweeps named by --warm-start tell a search on the dataset of `card`.

    Raises:
        UserError: one of them has no finished trial that fits; or a metric that is asked for is unknown.
    """
    from lfm_ray.search.spaces.objective import check_metrics
    from lfm_ray.search.sweep import Sweep
    from lfm_ray.search.warm_start import prior_trials_from

    check_metrics(space.objective, space.relations, space.base.data.modalities or card.modalities)
    found: list[PriorTrial] = []
    for folder in given.warm_start if given.warm_start_as == "evidence" else []:
        prior = prior_trials_from(Sweep.open(folder), space, card.fingerprint)
        if not prior:
            raise UserError(f"--warm-start {folder}: none of its finished trials fits the space")
        by_rank = sum(one.group != "" for one in prior)
        console.print(f"warm start      {len(prior)} trials of {folder}, {by_rank} of them compared by rank")
        found += prior
    return found


def search_around_learned(
    sweep: Sweep, source: DataSource, resources: Resources, time_budget: TimeBudget | None
) -> Space:
    """Trains the learned run of a sweep, or goes on with it, and makes its fit the first known points.

    Raises:
        TrainingFailed: it failed, or the time was up before it had ended.
    """
    from lfm_ray.callbacks.progress import RunsProgress
    from lfm_ray.search.ray_tune.tuning import run_configs
    from lfm_ray.search.sweep import LEARNED
    from lfm_ray.search.warm_start import NEIGHBOURS, with_fitted_point
    from lfm_ray.training.run_folder import read_epochs

    config, folder = sweep.space.learned_run(), sweep.folder / LEARNED
    console.print(f"learned run     {folder}, {config.epochs} epochs")
    with RunsProgress(console, 1) as progress:
        run_configs({folder.absolute(): config}, source, resources, [progress], None, time_budget)
    trained = len(read_epochs(folder))
    if trained < config.epochs:
        raise TrainingFailed(
            f"the time was up after {trained} of the {config.epochs} epochs of the learned run; go on with"
            f" --resume {sweep.folder.name}"
        )
    sweep.start_around(with_fitted_point(sweep.space, folder, NEIGHBOURS))
    return sweep.space


def show(folder: Path) -> None:
    """Prints what a sweep found, and writes its best settings, table and figure."""
    from lfm_ray.optimization.schedules import formula
    from lfm_ray.report.page import write_report
    from lfm_ray.report.page_figures import strategies_figure
    from lfm_ray.report.sentences import counts
    from lfm_ray.report.tables import front_table, settings_table, strategy_table
    from lfm_ray.search.edges import at_the_edge
    from lfm_ray.search.selection import best_of, schedule_of
    from lfm_ray.search.sweep import LEARNED, Sweep, trial_folder
    from lfm_ray.training.run_folder import overcome

    sweep = Sweep.open(folder)
    trials = sweep.trials()
    best = best_of(trials)
    ended = counts(trials)
    write_report([folder], folder / "report.html")
    if best is None:
        reason = next((f": {trial.reason}" for trial in trials if trial.state == "failed"), "")
        if not trials or any(trial.state == "running" for trial in trials):
            raise TrainingFailed(f"no trial finished ({ended}); go on with --resume {folder.name}")
        raise TrainingFailed(f"no trial finished ({ended}){reason}")

    write_atomically(folder / "trials.csv", sweep.table().to_csv(index=False))
    write_atomically(folder / "best.yaml", best.config.to_yaml())
    strategies_figure(trials, folder / "strategies.png")

    console.print(strategy_table(trials))
    if len(sweep.space.objective) > 1:
        console.print(front_table(trials, sweep.study.front()))
        console.print(f"each one's settings are trials/NUMBER/config.yaml; best.yaml is trial {best.number}")
    if best.violation > 0:
        broken = [text for text, amount in sweep.space.outcomes(best.config, best.rows[-1]).items() if amount > 0]
        console.print(f"[yellow]no finished trial satisfies the constraints;[/] the nearest breaks {', '.join(broken)}")
    console.print(settings_table(best, sweep.space.searched_in(best.config)))
    for line in at_the_edge(sweep.space, trials):
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
    for trial in [trial for trial in trials if trial.state == "failed"]:
        console.print(f"[yellow]trial {trial.number} failed:[/] {escape(trial.reason)}")
    folders = {f"trial {trial.number}": trial_folder(folder, trial.number) for trial in trials}
    for line in overcome({"learned run": folder / LEARNED} | folders):
        console.print(f"[yellow]overcome:[/] {escape(line)}", soft_wrap=True)
    schedule, residual = schedule_of(best)
    if not sweep.study.has_epochs():
        console.print(f"the epoch budget of {sweep.space.epoch_budget} is used: {sweep.study.epochs_taken()} epochs")
    console.print(f"{ended}. Best schedule, T = {best.config.epochs}:")
    console.print(f"  {formula(schedule.power_basis(best.config.epochs))}", soft_wrap=True)
    if residual:
        console.print(f"  a cubic fitted to trial {best.number}, residual {residual:.3f}")
    push(*(file for file in folder.iterdir() if file.is_file()))
    console.print(f"best settings   {folder / 'best.yaml'}", soft_wrap=True)
    console.print(f"report          {folder / 'report.html'}", soft_wrap=True)
    console.print(f"train it        python -m lfm_ray.train {folder / 'best.yaml'}", soft_wrap=True)
    console.print(f"test figures    python -m lfm_ray.confirm {shown(folder)}", soft_wrap=True)
    console.print(
        f"use it          python -m lfm_ray.export {shown(folder)} --out exported/{folder.name}", soft_wrap=True
    )
    console.print(f"TensorBoard     tensorboard --logdir {folder / 'tensorboard'}", soft_wrap=True)


def arguments() -> Namespace:
    """The command line."""
    result = parser("tune", __doc__ or "")
    add = result.add_argument
    add("space", nargs="?", type=Path, default=Path(DEFAULT_SPACE), help=f"search space file; default {DEFAULT_SPACE}")
    add("--data", metavar="FOLDER", help="shards of lfm_ray.prepare, or their s3:// or gs://; without it, the demo")
    add("--name", help="of the sweep; default: the space's and the time")
    add("--resume", metavar="NAME", help="go on with a sweep that was interrupted, or with more --trials")
    add("--start-from", type=Path, metavar="RUN", action="append", default=[],
        help="folder of a run, whose alpha(t) is fitted and tried among the first; repeatable")  # fmt: skip
    add("--from-learned", action="store_true",
        help="train the learned alpha(t) once, fit it, and search polynomials around the fit")  # fmt: skip
    add("--warm-start", type=storage_folder, metavar="SWEEP", action="append", default=[],
        help="folder of an earlier sweep, also of other data, from whose trials this one learns")  # fmt: skip
    add("--warm-start-as", choices=("evidence", "points"), default="evidence",
        help="evidence: for the sampler, the default; points: its 3 best trials are trained first")  # fmt: skip
    add("--objective", metavar="METRIC", action="append",
        help="such as val/fused/map, or METRIC=minimize; repeatable: a Pareto front; default: the space's")  # fmt: skip
    add("--sampler", choices=("tpe", "random", "cmaes", "gp"), help="how settings are drawn; default: the space's")
    add("--describe", action="store_true", help="print what the space searches, and end")
    add("--trials", type=positive, help="number of trials; default: the space's")
    add("--population", type=positive, metavar="N",
        help="population based training with N members: alpha and the learning rate change on the way")  # fmt: skip
    add("--epochs", type=positive, help="T of each trial; default: the space's")
    add("--epoch-budget", type=positive, metavar="N", help="start no trial that could bring all epochs above N")
    add("--time-budget", type=seconds, metavar="TIME", help="stop after this time, such as 90s, 30m, 2h")
    add("--seed", type=int, default=0, help="decides what is drawn, and the seed of every trial; default 0")
    add("--address", help="a Ray cluster that this machine is a node of, such as auto; without it, this machine")
    add("--storage", type=storage_folder, default=Path("sweeps"), metavar="FOLDER",
        help="where sweeps are kept: a folder (on a cluster, one that all nodes share), s3://..., gs://")  # fmt: skip
    add("--epoch-time-limit", type=seconds, metavar="TIME",
        help="a trial whose epoch takes longer hangs: it starts again from its last saved epoch, 3 times")  # fmt: skip
    add("--log", action="append", choices=("wandb", "mlflow"), default=[],
        help="also log to Weights & Biases or MLflow, as their environment variables say; repeatable")  # fmt: skip
    add("--concurrency", type=positive, help="trials at once; default: as many as the CPUs and GPUs allow")
    add("--workers-per-trial", type=positive, default=1, help="more than 1: each trial is a DDP job; default 1")
    add("--cpus-per-worker", type=positive, default=1, help="default 1")
    add("--gpus-per-worker", type=gpu_count, default=0, help="below 1: a share of one; default 0")
    add("--trials-per-gpu", type=positive, metavar="N", help="trials that share a GPU, each with a worker on 1/N of it")
    given = result.parse_args()
    of_a_new_sweep = [given.overrides, given.data, given.epochs, given.name, given.start_from, given.from_learned]
    if given.resume and any([*of_a_new_sweep, given.warm_start, given.objective, given.sampler]):
        raise UserError("--resume goes on with the settings of the sweep; only budgets and resources can change")
    points = [given.start_from, given.from_learned, given.warm_start]
    if given.population and any([*points, given.trials, given.epoch_budget]):
        raise UserError(
            "--population says how many members there are, which train side by side; --trials, --epoch-budget,"
            " --start-from, --from-learned and --warm-start do not go with it"
        )
    if given.trials_per_gpu and (given.gpus_per_worker or given.workers_per_trial > 1):
        raise UserError("--trials-per-gpu says how much of a GPU a trial of one worker gets; leave out the other flags")
    return given


def setting_flags(given: Namespace) -> list[str]:
    """The flags that are short for a `--set`."""
    flags = {"data.path": given.data, "epochs": given.epochs}
    named = [f"{key}={value}" for key, value in flags.items() if value is not None]
    return named if any(item.startswith("seed=") for item in given.overrides) else [*named, f"seed={given.seed}"]


if __name__ == "__main__":
    run(main)
