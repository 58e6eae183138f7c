"""The text of the report's page: what a sweep found, how far to trust it, and how to reproduce it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from lfm_ray.optimization.schedules import Polynomial, formula
from lfm_ray.report.confirmation import PER_CENT
from lfm_ray.report.numbers import spread
from lfm_ray.report.page_tables import ENDED
from lfm_ray.report.sweep_view import SweepView
from lfm_ray.report.tables import unimodal_scores
from lfm_ray.search.edges import at_the_edge
from lfm_ray.search.selection import best_of, by_strategy, schedule_of
from lfm_ray.search.spaces.objective import metric_name
from lfm_ray.search.study.arms import JOINT
from lfm_ray.search.sweep import Trial
from lfm_ray.storage import shown as shown_path


def counts(trials: Iterable[Trial]) -> str:
    """`17 finished, 6 pruned, 1 failed`."""
    states = Counter(trial.state for trial in trials)
    return ", ".join(f"{states[state]} {state}" for state in (*ENDED, "running") if states[state])


def headline(trials: list[Trial], best: Trial) -> str:
    """How the best trial stands to joint training as tuned in the same sweep."""
    joint = by_strategy(trials).get(JOINT)
    tuned = sum(trial.strategy == JOINT for trial in trials)
    by = f"{JOINT}, as tuned by {tuned} trial{'s' if tuned > 1 else ''}"
    name = metric_name(next(iter(best.space.objective)))
    if joint is None:
        return f"no finished trial has {JOINT}, so this does not say whether {best.strategy} is better than none"
    if joint.number == best.number:
        return f"joint training wins: no strategy is better than {by}; unconfirmed"
    objective = next(iter(best.space.objective))
    difference = best.rows[-1][objective] - joint.rows[-1][objective]
    return f"{best.strategy}: {name} {difference:+.3f} against {by}; unconfirmed until confirm has run"


def summary(view: SweepView) -> list[str | Markup]:
    """What was done, what was found, and how far to trust it, in a sentence each."""
    space, trials, folder = view.sweep.space, view.trials, view.sweep.folder
    if not trials:
        return [f"No trial has started yet; {space.trials} are planned on {space.base.data.path}."]
    began = [trial.frozen.datetime_start for trial in trials if trial.frozen.datetime_start]
    ended = [trial.frozen.datetime_complete for trial in trials if trial.frozen.datetime_complete]
    took = f" in {_duration(max(ended) - min(began))}" if began and ended else ""
    lengths = sorted({trial.config.epochs for trial in trials})
    length = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    planned = f" of {space.trials}" if len(trials) < space.trials else ""
    first = (
        f"{len(trials)}{planned} trials of {length} epochs on {space.base.data.path} trained for"
        f" {view.epochs:,} epochs{took}: {counts(trials)}."
    )
    if view.best is None:
        reasons = [trial.reason for trial in trials if trial.state == "failed"]
        return [first, f"No trial has finished{f'; the first reason: {reasons[0]}' if reasons else ''}."]
    row = view.best.rows[-1]
    alone = ", ".join(f"{name} {row[f'val/{name}/{view.lead}']:.3f}" for name in view.modalities)
    by = (
        ""
        if view.objective == f"val/fused/{view.lead}"
        else f" by {metric_name(view.objective)} ({row[view.objective]:.3f})"
    )
    second = (
        f"The best{by}, trial {view.best.number} ({view.best.strategy}), reaches a fused validation"
        f" {metric_name(view.lead)} of {view.best.reached:.3f} ({alone}; gap {row[f'val/{view.lead}_gap']:.3f})"
    )
    joint = by_strategy(trials).get(JOINT)
    if joint is not None and joint.number != view.best.number:
        tuned = sum(trial.strategy == JOINT for trial in trials)
        second += f", {view.best.reached - joint.reached:+.3f} against the best of {tuned} of joint training ({JOINT})"
    third = Markup("The best of many trials looks better than it is; <code>python -m lfm_ray.confirm {}</code>")
    third = third.format(shown_path(folder)) + " retrains it with other seeds."
    for split, confirmed in view.confirmed[0]:
        ours = confirmed[confirmed["trial"] == view.best.number][f"{split}/fused/{view.lead}"]
        if len(ours):
            theirs = _joint(confirmed, split, view.lead)
            against = f", against {_spread(theirs, view.lead)} for joint training" if len(theirs) else ""
            if view.best.strategy == JOINT:
                against = "; it is joint training itself, which no strategy of this sweep beats"
            seeds = f"with {len(ours)} other seeds"
            third = escape(f"Retrained {seeds}, it reaches {_spread(ours, view.lead)} on the {split} split{against}.")
            break
    return [first, f"{second}.", third]


def warnings(views: Sequence[SweepView]) -> list[str]:
    """What a reader has to know before trusting the page."""
    said = []
    for view in views:
        running = sum(trial.state == "running" for trial in view.trials)
        if running or len(view.trials) < view.sweep.space.trials:
            how = "1 trial is running, or was" if running == 1 else f"{running} trials are running, or were"
            said.append(
                f"{view.name} has not ended{f': {how} interrupted' if running else ''} (continue with"
                f" python -m lfm_ray.tune --resume {view.name}). Write the report again to update it."
            )
        named = f"{view.name}: " if len(views) > 1 else ""
        said += [f"{named}{line}." for line in view.sweep.troubles(view.trials)]
        said += [f"{named}{line}." for line in view.confirmed[1]]
        said += [f"{named}{line}." for line in at_the_edge(view.sweep.space, view.trials)]
        said += [
            f"{named}{name}: the range was widened during the sweep, from {was} to {view.sweep.space.search[name]}."
            for name, was in view.sweep.space.widened.items()
        ]
        if view.linear and view.best:
            said += [f"{named}{line}." for line in view.linear.below(unimodal_scores(view.best.rows[-1]))]
    if len({view.sweep.file.fingerprint for view in views}) > 1:
        said.append("These sweeps use different data: their figures cannot be compared.")
    if len({view.sweep.space.base.epochs for view in views}) > 1:
        said.append("These sweeps train for different numbers of epochs, which may explain part of a difference.")
    return said


def formulas(view: SweepView) -> list[Markup]:
    """alpha(t) of the best trial and of the best polynomial, written as in the paper."""
    said = []
    polynomials = [trial for trial in view.trials if isinstance(trial.config.alpha, Polynomial)]
    found = {trial.number: trial for trial in (view.best, best_of(polynomials)) if trial and len(trial.rows) > 1}
    for trial in found.values():
        schedule, residual = schedule_of(trial)
        text = str(escape(formula(schedule.power_basis(trial.config.epochs))))
        text = re.sub(r"t\^(\d+)", r"<i>t</i><sup>\1</sup>", text.replace("omega_hat(t)", "ω̂(<i>t</i>)"))
        text = re.sub(r"(?<=\d) t(?= |$)", " <i>t</i>", text)
        fitted = f", fitted with a residual of {residual:.3f}" if residual else ""
        said.append(
            Markup(f"{text} <span class='faint'>")
            + f"trial {trial.number}, {trial.strategy}, T = {trial.config.epochs}{fitted}"
            + Markup("</span>")
        )
    return said


def again(view: SweepView) -> dict[str, Any]:
    """The commands, versions, seed, data and hardware needed to reproduce a sweep."""
    file, folder = view.sweep.file, view.sweep.folder
    commands = [file.command] if file.command else []
    where = shown_path(folder)
    commands += [f"python -m lfm_ray.train {folder / 'best.yaml'}", f"python -m lfm_ray.confirm {where}"]
    commands.append(f"tensorboard --logdir {folder / 'tensorboard'}")
    facts = {
        "started": file.created,
        "seed": str(file.seed),
        "data": file.space.base.data.path,
        "fingerprint": file.fingerprint,
        "hardware": file.hardware or "not recorded",
        "versions": ", ".join(f"{name} {version}" for name, version in file.versions.items()),
    }
    return {
        "name": view.name,
        "commands": "\n".join(commands),
        "facts": facts,
        "space": file.space.to_yaml(defaults=False),
    }


def _joint(frame: pd.DataFrame, split: str, lead: str) -> pd.Series[float]:
    joint = frame[frame["strategy"] == JOINT]
    best = joint[joint["selected_by"] == joint["selected_by"].max()] if "selected_by" in joint else joint
    return best[f"{split}/fused/{lead}"]


def _spread(values: pd.Series[float], lead: str) -> str:
    """Mean and deviation of the leading metric, in per cent where it is usual."""
    if lead not in PER_CENT:
        return spread(values.mean(), values.std(), 3)
    return f"{spread(100 * values.mean(), 100 * values.std())} %"


def _duration(time: timedelta) -> str:
    minutes = time.total_seconds() / 60
    return (
        f"{minutes * 60:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    )
