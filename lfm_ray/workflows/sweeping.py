"""A sweep, from its space to what it found. `run_once` is its outline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray.tune import Callback
from rich.console import Console

from lfm_ray.callbacks.loggers import loggers
from lfm_ray.callbacks.progress import RunsProgress, SweepProgress
from lfm_ray.callbacks.tensorboard import TensorBoardCallback
from lfm_ray.checksums import sealed
from lfm_ray.cli import typed
from lfm_ray.datasets.preparing.demo import prepare_demo
from lfm_ray.datasets.shards import DatasetCard, read_card
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.files import write_atomically
from lfm_ray.interruption import Interrupted
from lfm_ray.ray_daemons import ENDED, RayEnded
from lfm_ray.ray_session import ray_session
from lfm_ray.report.page import write_report
from lfm_ray.report.page_figures import strategies_figure
from lfm_ray.report.sentences import counts
from lfm_ray.search.population import check_population, population_space, rounds
from lfm_ray.search.ray_tune.adapters import TimeBudget
from lfm_ray.search.ray_tune.resources import Resources, cluster_hardware
from lfm_ray.search.ray_tune.tuning import run_configs, run_sweep
from lfm_ray.search.selection import best_of
from lfm_ray.search.spaces.applicability import for_missing, for_modalities, for_target
from lfm_ray.search.spaces.objective import check_metrics
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.search.study.arms import arms_of, first_share
from lfm_ray.search.study.prior_trials import PriorTrial
from lfm_ray.search.study.samplers import check_sampler, drawn_at_random
from lfm_ray.search.sweep import LEARNED, Sweep
from lfm_ray.search.warm_start import NEIGHBOURS, check_takes_fit, prior_trials_from, with_fitted_point
from lfm_ray.storage import push, shown, working_folder
from lfm_ray.training.execution import Workers
from lfm_ray.training.run_folder import is_last, read_epochs
from lfm_ray.training.source import DataSource

DEMO_SHARDS = Path("shards/demo")


@dataclass(frozen=True)
class NewSweep:
    """A sweep that is still to be made.

    warm_start: folders of earlier sweeps, from whose trials it learns. from_learned: whether it begins
    with a learned run. command: how it was asked for, which its files record.
    """

    folder: Path
    space: Space
    seed: int = 0
    warm_start: Sequence[Path] = ()
    from_learned: bool = False
    command: str = ""


Asked = NewSweep | Sweep  # one to make, or one to go on with


@dataclass(frozen=True)
class Means:
    """What a sweep runs on, for how long, and what shows it.

    workers: of each trial. concurrency: trials at once; None: as many as fit. time_budget: in seconds.
    log: names of `lfm_ray.callbacks.loggers`. address: of a Ray cluster; None: this machine.
    """

    workers: Workers
    concurrency: int | None
    time_budget: float | None
    log: Sequence[str]
    address: str | None
    console: Console


def run(asked: Asked, means: Means) -> None:
    """Runs a new sweep, or goes on with one, and writes what it found into its folder.

    When the Ray that it started on this machine ends, it is started anew, once.

    Raises:
        UserError: something of what was asked for does not fit; no trial was started.
        TrainingFailed: no trial finished, or Ray has ended twice.
    """
    began = time.monotonic()
    try:
        run_once(asked, means)
    except RayEnded:
        means.console.print(f"{ENDED}; it is started anew, and the sweep goes on", soft_wrap=True)
        left = means.time_budget and max(1.0, means.time_budget - (time.monotonic() - began))
        sweep = goes_on(asked.folder, None, None)
        try:
            run_once(sweep, replace(means, time_budget=left))
        except RayEnded:
            raise TrainingFailed(f"{ENDED}, twice; what has finished is saved; {goes_on_with(sweep)} goes on") from None


def run_once(asked: Asked, means: Means) -> None:
    """The same, on one Ray session.

    Whatever happens, the sweep is not kept to this process any longer: a notebook holds on to what failed.

    Raises:
        UserError, TrainingFailed: as `run`.
        RayEnded: the Ray that was started on this machine has ended.
    """
    space, folder, console = asked.space, asked.folder, means.console
    with ExitStack() as at_the_end:
        if isinstance(asked, Sweep):
            at_the_end.callback(asked.let_go)
        if rounds(space):
            check_population(means.workers.count, folder)
        logged = loggers(list(means.log), folder, space)
        resources = Resources(means.workers, means.concurrency, space.base.data.reader_cpus)
        with ray_session(means.address):
            resources.trials_at_once()
            make_demo(space, means)
            source = DataSource.open(space.base)
            sweep = asked if isinstance(asked, Sweep) else begin(asked, source.shards.card, console)
            at_the_end.callback(sweep.let_go)
            sweep.check_data(source.shards.card.fingerprint)
            try:
                cut_short = search(sweep, source, resources, logged, means)
            except KeyboardInterrupt:
                with suppress(TrainingFailed):  # no trial has finished
                    write_results(sweep)
                raise Interrupted.saying(f"stopped; {goes_on_with(sweep)} goes on") from None
        write_results(sweep, cut_short)
        if cut_short:
            left = sweep.space.trials - sum(trial.frozen.state.is_finished() for trial in sweep.trials())
            console.print(f"the time is up, with {left} trials to go; {goes_on_with(sweep)} goes on")


def goes_on_with(sweep: Sweep) -> str:
    """The command that goes on with a sweep."""
    storage = shown(sweep.folder.parent)
    return f"{typed('tune')} --resume {sweep.folder.name}" + ("" if storage == "sweeps" else f" --storage {storage}")


def search(sweep: Sweep, source: DataSource, resources: Resources, logged: list[Callback], means: Means) -> bool:
    """Runs the trials of a sweep, and its learned run before them where there is to be one.

    Returns whether the time was up before all trials had ended.
    """
    console, card = means.console, source.shards.card
    console.print(shown(sweep.folder), style="bold", soft_wrap=True)
    console.print(sweep.space.question)
    if at_random := drawn_at_random(sweep.space):
        names = ", ".join(at_random)
        console.print(f"sampler {sweep.space.sampler}: draws at random, as it cannot model them: {names}")
    time_budget = TimeBudget(means.time_budget) if means.time_budget else None
    if sweep.file.from_learned:
        search_around_learned(sweep, source, resources, time_budget, console)
    space = sweep.space
    runs = space.trials * rounds(space)
    console.print(size(sweep, means.time_budget))
    with RunsProgress(console, runs) if runs else SweepProgress(console, sweep.study, space, time_budget) as progress:
        tensorboard = TensorBoardCallback(sweep.folder, space, card.modalities, card.target.kind)
        run_sweep(sweep, source, resources, time_budget, [tensorboard, *logged, progress])
    return time_budget is not None and time_budget.stop_all() and bool(sweep.study.remaining() or sweep.study.running())


def size(sweep: Sweep, time_budget: float | None) -> str:
    """How much there is to train, in a line."""
    space = sweep.space
    epochs = space.base.epochs if "epochs" not in space.search else max(space.search["epochs"].extremes())
    trials = sweep.study.remaining()
    said = f"{trials} trial{'' if trials == 1 else 's'} of at most {epochs} epochs"
    arms = arms_of(space)
    share = first_share(len(arms), space.trials)
    if arms and share * len(arms) <= space.trials:
        # How many a time budget allows is known only once the first of them have run.
        said += f", first {'as many' if time_budget else share} of each of {len(arms)} strategies"
    return said + (f", for at most {time_budget / 60:.3g} min" if time_budget else "")


def read_space(
    source: Path | Mapping[str, Any] | Space,
    settings: Sequence[str] | Mapping[str, Any] = (),
    *,
    start_from: Sequence[Path] = (),
    warm_start: bool = False,
    from_learned: bool = False,
    population: int | None = None,
    fair: bool = True,
    widen: bool = True,
    **changes: Any,
) -> Space:
    """A space with what is to be fixed or changed in it, checked against what the search is to begin with.

    settings, changes: those of `load_space`. start_from: folders of runs whose fitted alpha(t) are tried
    first. population: members of a population based training. fair: whether strategies get equal shares where the space
    says so. widen: whether ranges may be widened.

    Raises:
        UserError: the space is wrong, or cannot begin so.
    """
    space = load_space(source, settings, **changes)
    space = space.model_copy(update={"fair": space.fair if fair else None, "widen": space.widen and widen})
    check_sampler(space)
    if warm_start and space.sampler in ("random", "cmaes"):
        raise UserError(f"--warm-start: sampler {space.sampler} learns from no other sweep; choose --sampler tpe or gp")
    for start in start_from:
        space = with_fitted_point(space, start)
    if from_learned:
        check_takes_fit(space, "--from-learned")
    return population_space(space, population) if population else space


def fitted_to_data(asked: NewSweep, console: Console) -> NewSweep:
    """The sweep without the methods and fusion heads that its data rule out; says what was left out.

    Raises:
        UserError: its folder is not free, or there are no such data.
    """
    Sweep.check_free(asked.folder)
    data = working_folder(asked.space.base.data.path)
    if data == DEMO_SHARDS and not data.exists():
        return asked
    card = read_card(data)
    space, left_out = for_modalities(asked.space, card)
    space, needing_all = for_missing(space, card)
    space, changed = for_target(space, card.target.kind)
    for line in (*left_out, *needing_all, *changed):
        console.print(line, soft_wrap=True)
    return NewSweep(**{**vars(asked), "space": space})


def goes_on(folder: Path, trials: int | None, epoch_budget: int | None) -> Sweep:
    """A sweep that was interrupted, or is to have more trials, kept to this process."""
    sweep = Sweep.open(folder)
    sweep.hold()
    sweep.extend(trials, epoch_budget)
    return sweep


def make_demo(space: Space, means: Means) -> None:
    """Makes the demo's shards, where a search on them begins and they are not there."""
    if Path(space.base.data.path) == DEMO_SHARDS and not DEMO_SHARDS.exists():
        means.console.print(f"making the demo's shards in {DEMO_SHARDS}")
        prepare_demo(DEMO_SHARDS, means.address, progress=not means.console.quiet)


def begin(asked: NewSweep, card: DatasetCard, console: Console) -> Sweep:
    """Makes the folder of a new sweep on the dataset of `card`.

    Raises:
        UserError: an earlier sweep has no finished trial that fits; or a metric that is asked for is unknown.
    """
    space = asked.space
    modalities = space.base.data.modalities or card.modalities
    check_metrics(space.objective, space.relations, modalities, card.target.kind, space.pruning.by)
    prior: list[PriorTrial] = []
    for folder in asked.warm_start:
        found = prior_trials_from(Sweep.open(folder), space, card.fingerprint)
        if not found:
            raise UserError(f"--warm-start {folder}: none of its finished trials fits the space")
        by_rank = sum(one.group != "" for one in found)
        console.print(f"warm start      {len(found)} trials of {folder}, {by_rank} of them compared by rank")
        prior += found
    return Sweep.create(
        asked.folder, space, asked.seed, card.fingerprint, asked.command, cluster_hardware(), prior,
        asked.from_learned,
    )  # fmt: skip


def search_around_learned(
    sweep: Sweep, source: DataSource, resources: Resources, time_budget: TimeBudget | None, console: Console
) -> None:
    """Trains the learned run of a sweep, or goes on with it, and makes its fit the first known points.

    Raises:
        TrainingFailed: it failed, or the time was up before it had ended.
    """
    config, folder = sweep.space.learned_run(), sweep.folder / LEARNED
    console.print(f"learned run     {folder}, {config.epochs} epochs")
    with RunsProgress(console, 1) as progress:
        run_configs({folder.absolute(): config}, source, resources, [progress], None, time_budget)
    rows = read_epochs(folder)
    trained = len(rows)
    if not (rows and is_last(rows[-1], config.epochs)):
        raise TrainingFailed(
            f"the time was up after {trained} of the {config.epochs} epochs of the learned run; go on with"
            f" --resume {sweep.folder.name}"
        )
    sweep.start_around(with_fitted_point(sweep.space, folder, NEIGHBOURS))


def write_results(sweep: Sweep, cut_short: bool = False) -> None:
    """Writes the report of a sweep, its table, its best settings and its figure into its folder.

    cut_short: the time was up before all trials had ended.

    Raises:
        TrainingFailed: no trial finished; the report is there.
    """
    folder, trials = sweep.folder, sweep.trials()
    best = best_of(trials)
    write_report([folder], folder / "report.html")
    if best is None:
        ended = counts(trials)
        if not trials or any(trial.state == "running" for trial in trials):
            why = "the time was up before any trial had finished" if cut_short else "no trial finished"
            raise TrainingFailed(f"{why} ({ended or 'none started'}); {goes_on_with(sweep)} goes on")
        reason = next((f": {trial.reason}" for trial in trials if trial.state == "failed"), "")
        raise TrainingFailed(f"no trial finished ({ended}){reason}")
    write_atomically(folder / "trials.csv", sweep.table().to_csv(index=False))
    write_atomically(folder / "best.yaml", sealed(best.config.to_yaml()))
    strategies_figure(trials, folder / "strategies.png")
    push(*(file for file in folder.iterdir() if file.is_file()))
