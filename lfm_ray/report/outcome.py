"""Prints the outcome of a sweep: its tables, its best schedule, and what to do next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from lfm_ray.console import notice
from lfm_ray.optimization.schedules import Polynomial, formula
from lfm_ray.report import linear_baselines
from lfm_ray.report.sentences import counts, headline
from lfm_ray.report.tables import front_table, settings_table, strategy_table, unimodal_scores
from lfm_ray.search.edges import at_the_edge
from lfm_ray.search.selection import best_of, schedule_of
from lfm_ray.search.sweep import LEARNED, Sweep, trial_folder
from lfm_ray.storage import shown
from lfm_ray.training.run_folder import overcome


def print_outcome(folder: Path, console: Console, typed: Callable[[str], str]) -> None:
    """Prints what the sweep in `folder` found. typed: name of a command -> how the user calls it."""
    sweep = Sweep.open(folder)
    trials = sweep.trials()
    best = best_of(trials)
    assert best is not None  # a sweep without one has failed
    linear = linear_baselines.read(sweep.space.base.data.path, sweep.file.fingerprint)
    console.print(strategy_table(trials, linear))
    if linear:
        for line in linear.below(unimodal_scores(best.rows[-1])):
            console.print(notice(line), soft_wrap=True)
    if len(sweep.space.objective) > 1:
        console.print(front_table(trials, sweep.study.front()))
        console.print(f"the settings of each are in trials/NUMBER/config.yaml; best.yaml is trial {best.number}")
    if best.violation > 0:
        broken = [text for text, amount in sweep.space.outcomes(best.config, best.rows[-1]).items() if amount > 0]
        console.print(
            notice("no finished trial satisfies the constraints;", f" the nearest breaks {', '.join(broken)}")
        )
    console.print(headline(trials, best))
    for name, was in sweep.space.widened.items():
        console.print(f"{name}: widened from {was} to {sweep.space.search[name]}", soft_wrap=True)
    console.print(settings_table(best, sweep.space.searched_in(best.config)))
    for line in at_the_edge(sweep.space, trials):
        console.print(notice(line), soft_wrap=True)
    for line in sweep.troubles(trials):
        console.print(notice("altered or lost:", f" {line}"), soft_wrap=True)
    for trial in [trial for trial in trials if trial.state == "failed"]:
        console.print(notice(f"trial {trial.number} failed:", f" {trial.reason}"))
    folders = {f"trial {trial.number}": trial_folder(folder, trial.number) for trial in trials}
    for line in overcome({"learned run": folder / LEARNED} | folders):
        console.print(notice("overcome:", f" {line}"), soft_wrap=True)
    if not sweep.study.has_epochs():
        console.print(f"the epoch budget of {sweep.space.epoch_budget} is used: {sweep.study.epochs_taken()} epochs")
    console.print(f"{counts(trials)}. Best schedule, T = {best.config.epochs}:")
    if len(best.rows) == best.config.epochs or isinstance(best.config.alpha, Polynomial):
        schedule, residual = schedule_of(best)
        console.print(f"  {formula(schedule.power_basis(best.config.epochs))}", soft_wrap=True)
        if residual:
            console.print(f"  a cubic fitted to trial {best.number}, residual {residual:.3f}")
    else:
        console.print("  not known, as its epochs were lost")
    for what, line in {
        "best settings": str(folder / "best.yaml"),
        "report": str(folder / "report.html"),
        "train it": f"{typed('train')} {folder / 'best.yaml'}",
        "test figures": f"{typed('confirm')} {shown(folder)}",
        "use it": f"{typed('export')} {shown(folder)} --out exported/{folder.name}",
        "TensorBoard": f"tensorboard --logdir {folder / 'tensorboard'}",
    }.items():
        console.print(f"{what:<16}{line}", soft_wrap=True)
