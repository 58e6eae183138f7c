"""Ray Tune on one side, the study on the other: Tune runs the trials, the study decides.

Ray's own `OptunaSearch` tells Optuna the last value of a stopped trial as if it were final, and
keeps what it knows in the memory of the driver. These two small classes ask the study instead.
"""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from lfm_ray.search.population import Population
from lfm_ray.search.study import SETTINGS, Study

NUMBER, FAILED = "number", "failed"


class DriverOnly:
    """Pickled as nothing. Ray saves what it is given for a restore that a sweep never uses."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class StudySearcher(DriverOnly, Searcher):
    """Tune's source of trials: a trial's Tune config is its number and its drawn settings."""

    def __init__(self, study: Study) -> None:
        super().__init__(metric=next(iter(study.space.objective)), mode="max")  # Tune wants one; the study decides
        self.study = study
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial; none for now, or none any more, when the epoch budget has no room for it."""
        if not self.study.has_epochs():
            running = any(not self.study.ended(number) for number in self._numbers.values())
            return None if running else Searcher.FINISHED
        number, settings = self.study.ask()
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
            self.study.fail(number, "the trial's process died; see Ray's log files")
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

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next member that can train; None while the round waits for others."""
        following = self.population.next()
        if following is None:
            return None
        self._numbers[trial_id] = following[0]
        return {NUMBER: following[0], SETTINGS: following[1]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: a round is judged when it is over."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the population; a member that ran out of the sweep's time has not ended."""
        number = self._numbers[trial_id]
        if error or (result and FAILED in result):
            reason = "the trial's process died; see Ray's log files"
            self.population.ended(number, (result or {}).get(FAILED, reason))
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
