"""Progress of a running sweep: trials done, running, pruned and failed, the best so far, the time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lfm_ray.config import RunConfig
from lfm_ray.console import moves
from lfm_ray.search.ray_tune.adapters import FAILED, NUMBER, DriverOnly, TimeBudget
from lfm_ray.search.spaces.objective import metric_name
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.arms import strategy_name
from lfm_ray.search.study.pruning import expected_epochs, is_paused
from lfm_ray.search.study.study import SETTINGS, Study
from lfm_ray.search.sweep import state_of

PATIENCE = 180.0  # s, of a sweep that is offered where none is asked for
ENOUGH = 6  # trials, after which those that have ended tell how long one takes


class ProgressCallback(DriverOnly, Callback):
    """A progress bar, shown in a terminal or notebook while its `with` block runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __enter__(self) -> Self:
        if moves(self._progress.console):
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class SweepProgress(ProgressCallback):
    """A live line in a terminal or notebook; elsewhere (a log file), one line per ended trial."""

    def __init__(self, console: Console, study: Study, space: Space, budget: TimeBudget | None = None) -> None:
        self.console, self.study, self.space, self.budget = console, study, space, budget
        self._started = time.monotonic()
        self._done_before: int | None = None
        self._objective, self._direction = next(iter(space.objective.items()))
        self._epochs = 0  # that trials have reported to this process
        self._told = False  # how long all trials will take
        self._best: tuple[float, str] | None = None
        for trial in study.started():
            if trial.state == TrialState.COMPLETE:
                self._keep(trial.values[0], space.config(trial.user_attrs[SETTINGS]))
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            TextColumn("{task.fields[state]}", markup=False),
        )
        super().__init__(Progress(*columns, TimeElapsedColumn(), console=console, transient=True))
        self._task = self._progress.add_task("trials", total=space.trials, state="starting")

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Keeps track of the best finished trial."""
        self._epochs += FAILED not in result
        config = self.space.config(trial.config[SETTINGS])
        if FAILED not in result and result["epoch"] == config.epochs:
            self._keep(result[self._objective], config)
        self._show()

    def _keep(self, value: float, config: RunConfig) -> None:
        found = (value, strategy_name(config))
        better = max if self._direction == "maximize" else min
        self._best = better(self._best or found, found)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Prints a line for an ended trial where no live line is shown."""
        self._show()
        if moves(self.console):
            self._tell()
            return
        frozen = self.study.trials()[trial.config[NUMBER]]
        config = self.space.config(trial.config[SETTINGS])
        result = trial.last_result or {}
        outcome = (
            result.get(FAILED)
            or f"{metric_name(self._objective)} {result.get(self._objective, float('nan')):.3f},"
            f" epoch {result.get('epoch')}"
        )
        self._tell()
        state = "paused" if is_paused(frozen) else state_of(frozen)
        self.console.print(f"trial {frozen.number:>3} {strategy_name(config):<12} {state:<8} {outcome}")

    on_trial_error = on_trial_complete

    def _tell(self) -> None:
        """Says once, when the first trial has ended, how long the others will take, and how many there is time for."""
        pace = None if self._told else self._pace()
        if pace is not None:
            self.console.print(outlook(*pace, self.budget.left if self.budget else None))
            self._told = True

    def _pace(self) -> tuple[float, int, int] | None:
        """Seconds a trial, how many have ended and how many are left; None before the first and after the last.

        The first trials are longer than most, and several run at once: until enough have ended, epochs are counted.
        """
        done = sum(trial.state.is_finished() or is_paused(trial) for trial in self.study.started())
        if self._done_before is None or not self._done_before < done < self.space.trials:
            return None
        elapsed, ended = time.monotonic() - self._started, done - self._done_before
        if ended >= ENOUGH or not self._epochs:
            return elapsed / ended, done, self.space.trials - done
        return elapsed / self._epochs * epochs_a_trial(self.space), done, self.space.trials - done

    def _left(self) -> float | None:
        """Seconds until the last trial has ended, or until the time is up; None before the first has ended."""
        pace = self._pace()
        if pace is None:
            return None
        each, _, left = pace
        return min(each * left, self.budget.left) if self.budget else each * left

    def _show(self) -> None:
        states = [state_of(trial) for trial in self.study.started()]
        done = sum(state in ("finished", "pruned", "failed") for state in states)
        self._done_before = done if self._done_before is None else self._done_before
        parts = [f"{states.count(name)} {name}" for name in ("running", "pruned", "failed") if states.count(name)]
        if self._best:
            parts.append(f"best {self._best[0]:.3f} ({self._best[1]})")
        if (left := self._left()) is not None:
            parts.append(f"about {_minutes(left)} left")
        self._progress.update(
            self._task, completed=done, state=", ".join(parts), description=f"{done}/{self.space.trials} trials"
        )


class RunsProgress(ProgressCallback):
    """How many of the runs are done."""

    def __init__(self, console: Console, runs: int) -> None:
        columns = (TextColumn("runs"), MofNCompleteColumn(), BarColumn(20), TimeElapsedColumn(), TimeRemainingColumn())
        super().__init__(Progress(*columns, console=console, transient=True))
        self._task = self._progress.add_task("runs", total=runs)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Counts a run."""
        self._progress.advance(self._task)

    on_trial_error = on_trial_complete


def epochs_a_trial(space: Space) -> float:
    """The epochs that a trial takes on average, with early stopping."""
    epochs, pruning = space.base.epochs, space.pruning
    if pruning.by == "none":
        return epochs
    return expected_epochs(space.trials, epochs, pruning.first_of(epochs), pruning.reduction) / space.trials


def outlook(each: float, done: int, left: int, time_left: float | None) -> str:
    """How long the `left` trials take after `done`, at `each` seconds, and which --trials the time allows.

    time_left: seconds until the time is up; None: it is not limited, and a sweep of `PATIENCE` is offered. The number
    of trials is never changed to fit: the same flags would then give another sweep on a faster or less busy machine.
    """
    said = f"about {_minutes(each * left)} for the other {left} trials"
    if time_left is None:
        fit = round(PATIENCE / each)
        return said if done + left <= fit or fit <= done else f"{said}; --trials {fit} takes about {_minutes(PATIENCE)}"
    return f"{said}; the time allows --trials {done + max(1, round(time_left / each))}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
