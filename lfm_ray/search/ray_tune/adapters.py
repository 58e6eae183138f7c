"""Ray Tune on one side, the study on the other: Tune runs the trials, the study decides.

Ray's own `OptunaSearch` tells Optuna the last value of a stopped trial as if it were final, and
keeps what it knows in the memory of the driver. These small classes ask the study instead, and
keep the sweep's folder in order.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from lfm_ray.runtime import checkpoint
from lfm_ray.search.population import Population
from lfm_ray.search.study.study import SETTINGS, Study
from lfm_ray.search.sweep import JOURNAL, Sweep, trial_folder
from lfm_ray.storage import fetch, patiently, push, remove
from lfm_ray.training.ray_train import DIED, died_reason
from lfm_ray.training.run_folder import CHECKPOINT, EPOCHS, add_notice

NUMBER, FAILED = "number", "failed"


class DriverOnly:
    """Pickled as nothing. Ray saves what it is given for a restore that a sweep never uses."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class StudySearcher(DriverOnly, Searcher):
    """Tune's source of trials: a trial's Tune config is its number and its drawn settings."""

    def __init__(self, study: Study, folder: Path) -> None:
        super().__init__(metric=next(iter(study.space.objective)), mode="max")  # Tune wants one; the study decides
        self.study, self.folder = study, folder
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial; none for now, or none any more, when the epoch budget has no room for it."""
        if not self.study.has_epochs():
            running = any(not self.study.ended(number) for number in self._numbers.values())
            return None if running else Searcher.FINISHED
        number, settings = self.study.ask()
        patiently(lambda: push(self.folder / JOURNAL), self.folder / JOURNAL)
        self._numbers[trial_id] = number
        return {NUMBER: number, SETTINGS: settings}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Results go to the study through the scheduler, which needs its answer."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how a trial ended; one that ran out of the sweep's time is left open."""
        number = self._numbers[trial_id]
        if self.study.ended(number):
            return
        if error:
            self.study.fail(number, died_reason(trial_folder(self.folder, number)))
        elif result and FAILED in result:
            self.study.fail(number, result[FAILED])
        elif result and result.get("epoch") == self.study.epochs(number):
            self.study.finish(number, result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class StudyScheduler(DriverOnly, FIFOScheduler):
    """Tune's pruning: reports every epoch to the study, which says whether the trial goes on."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Continue or stop."""
        if FAILED in result:
            return TrialScheduler.CONTINUE
        number = trial.config[NUMBER]
        if self.study.report(number, result["epoch"], result):
            self.study.prune(number)
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class PopulationSearcher(DriverOnly, Searcher):
    """Tune's source of trials where a trial is one round of one member of a population."""

    def __init__(self, population: Population) -> None:
        super().__init__(metric=next(iter(population.space.objective)), mode="max")
        self.population = population
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next member that can train; none while the round waits for others, or none any more."""
        following = self.population.next()
        if following is None:
            return Searcher.FINISHED if self.population.over else None
        self._numbers[trial_id] = following[0]
        return {NUMBER: following[0], SETTINGS: following[1]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: a round is judged when it is over."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the population; a member that ran out of the sweep's time has not ended."""
        number = self._numbers[trial_id]
        if error:
            self.population.ended(number, died_reason(trial_folder(self.population.sweep.folder, number)))
        elif result and FAILED in result:
            self.population.ended(number, result[FAILED])
        elif result and result.get("epoch", 0) >= self.population.until:
            self.population.ended(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the population's files are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class PopulationScheduler(DriverOnly, FIFOScheduler):
    """Stops a member where its round ends."""

    def __init__(self, population: Population) -> None:
        super().__init__()
        self.population = population

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Continue or stop."""
        over = FAILED not in result and result["epoch"] >= self.population.until
        return TrialScheduler.STOP if over else TrialScheduler.CONTINUE

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the population's files are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class Recoveries(DriverOnly, Callback):
    """Notes in a trial's folder that it had to be started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Adds the notice."""
        add_notice(trial_folder(self.folder, trial.config[NUMBER]), DIED)


class Forget(DriverOnly, Callback):
    """Drops what Tune would keep of a trial that has ended: averages of each of its metrics, some 100 kB."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Drops it."""
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    on_trial_error = on_trial_complete


class Mirror(DriverOnly, Callback):
    """Keeps a copy of the journal in the store, where a sweep has one: at least every few seconds."""

    EVERY = 5.0  # s

    def __init__(self, folder: Path) -> None:
        self.journal = folder / JOURNAL
        self._pushed = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Copies it if it is time."""
        if time.monotonic() - self._pushed > self.EVERY:
            self._pushed = time.monotonic()
            patiently(lambda: push(self.journal), self.journal)


class KeepBest(DriverOnly, Callback):
    """Removes the checkpoints of trials that have ended, but for those of the best."""

    def __init__(self, sweep: Sweep, keep: int) -> None:
        self.sweep, self.keep = sweep, keep
        self._scores: dict[int, tuple[float, ...]] = {}
        self._removed: set[int] = set()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Removes what the end of a trial has made needless."""
        self.tidy()

    on_trial_error = on_trial_complete

    def tidy(self) -> None:
        """Leaves the checkpoints of the best `keep` finished trials, and of those that have not ended."""
        ended = {frozen.number: frozen for frozen in self.sweep.study.started() if frozen.state.is_finished()}
        for number in ended.keys() - self._scores.keys():
            fetch(trial_folder(self.sweep.folder, number) / EPOCHS)
            trial = self.sweep.trial(ended[number])
            self._scores[number] = trial.score if trial.state == "finished" else ()
        best = sorted(self._scores, key=lambda number: (self._scores[number], -number), reverse=True)
        kept = {number for number in best[: self.keep] if self._scores[number]}
        for number in ended.keys() - kept - self._removed:
            file = trial_folder(self.sweep.folder, number) / CHECKPOINT
            remove(file, checkpoint.previous(file))
            self._removed.add(number)


class TimeBudget(Stopper):
    """Stops what runs after so many seconds from now; setting the machine's clock makes no difference, unlike Tune's.

    One that a learned run and then the sweep are given bounds both together.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Single trials are not stopped."""
        return False

    def stop_all(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end
