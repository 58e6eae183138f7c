"""Adapters between Ray Tune, which runs the trials, and the study, which makes the decisions.

Ray's own `OptunaSearch` reports the last value of a stopped trial to Optuna as if it were final, and
keeps its state in the driver's memory. These small classes ask the study instead, and keep the
sweep's folder in order.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from lfm_ray.interruption import Stop
from lfm_ray.ray_daemons import daemon_ended
from lfm_ray.runtime import checkpoint
from lfm_ray.search.edges import widened
from lfm_ray.search.population import Population
from lfm_ray.search.study.study import SETTINGS, Study
from lfm_ray.search.sweep import JOURNAL, Sweep, trial_folder
from lfm_ray.storage import fetch, patiently, push, remove
from lfm_ray.training.ray_train import DIED, died_reason
from lfm_ray.training.run_folder import BEST, CHECKPOINT, EPOCHS, add_notice, is_last

NUMBER, FAILED = "number", "failed"


class DriverOnly:
    """Pickled as a plain object: Ray would only save it for a restore, which a sweep never uses."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class RayHasEnded(BaseException):
    """Ray itself is no more. Not an Exception, as Tune would ask it to tidy up."""


def ray_has_ended() -> bool:
    """Whether Ray's own processes on this machine have ended, or no node of the cluster lives any more."""
    import ray

    try:
        return daemon_ended() or not any(node["Alive"] for node in ray.nodes())
    except Exception:  # whatever Ray raises that is no more
        return True


class StudySearcher(DriverOnly, Searcher):
    """Gives Tune its trials; the Tune config of a trial is its number and its drawn settings."""

    def __init__(self, sweep: Sweep, budget: TimeBudget | None = None) -> None:
        study = sweep.study
        super().__init__(metric=next(iter(study.space.objective)), mode="max")  # Tune requires one; the study decides
        self.sweep, self.study, self.folder, self.budget = sweep, study, sweep.folder, budget
        self._numbers: dict[str, int] = {}
        self.ended = False  # Ray itself
        self._widen()  # after trials that were killed before it was done

    def suggest(self, trial_id: str) -> Any:
        """The next trial, new or promoted; while there is none, or no room for it in the epoch budget, None, or
        FINISHED once no trial is running."""
        if self.ended:
            return Searcher.FINISHED
        if self.budget is not None:
            self.study.expect(self.budget.used)
        if not self.study.has_next() or not self.study.has_epochs():
            running = set(self._numbers.values()).intersection(self.study.running())
            return None if running else Searcher.FINISHED
        number, settings = self.study.ask()
        patiently(lambda: push(self.folder / JOURNAL), self.folder / JOURNAL)
        self._numbers[trial_id] = number
        return {NUMBER: number, SETTINGS: settings}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Does nothing: the scheduler passes results to the study, since it needs the answer."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study how a trial ended; one cut short by the time budget, or with Ray itself, stays open."""
        number = self._numbers[trial_id]
        if self.study.ended(number):
            return
        if error and ray_has_ended():
            self.ended = True
        elif error:
            self.study.fail(number, died_reason(trial_folder(self.folder, number)))
        elif result and FAILED in result:
            self.study.fail(number, result[FAILED])
        elif result and is_last(result, self.study.epochs(number)):
            self.study.finish(number, result)
            self._widen()

    def _widen(self) -> None:
        """Widens the ranges at whose end the best trials crowd, where the space allows it."""
        space = self.study.space
        if space.widen and space.sampler != "cmaes":
            wider = widened(space, self.study.best_first())
            if wider is not space:
                self.sweep.widen(wider)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study's journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, likewise."""


class StudyScheduler(DriverOnly, FIFOScheduler):
    """Prunes trials: reports every epoch to the study, which decides whether the trial continues.

    Tune's own pause (`TrialScheduler.PAUSE`) is not used: it would keep what it knows of a paused trial in the driver's
    memory, and its checkpoint in a storage of its own. A paused trial has ended for Tune, and is another one when it
    goes on from the checkpoint in its folder; in an actor that is used again, as every trial but the first.
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Tells Tune to continue or stop the trial."""
        if FAILED in result:
            return TrialScheduler.CONTINUE
        number = trial.config[NUMBER]
        if self.study.report(number, result["epoch"], result):
            self.study.stop(number)
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study's journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, likewise."""


class PopulationSearcher(DriverOnly, Searcher):
    """Gives Tune its trials; here each is one round of one member of a population."""

    def __init__(self, population: Population) -> None:
        super().__init__(metric=next(iter(population.space.objective)), mode="max")
        self.population = population
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next member to train; None while the round waits for others, FINISHED at the end."""
        following = self.population.next()
        if following is None:
            return Searcher.FINISHED if self.population.over else None
        self._numbers[trial_id] = following[0]
        return {NUMBER: following[0], SETTINGS: following[1]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Does nothing: members are compared when the round is over."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells the population how a member did; one cut short by the time budget stays open."""
        number = self._numbers[trial_id]
        if error:
            self.population.ended(number, died_reason(trial_folder(self.population.sweep.folder, number)))
        elif result and FAILED in result:
            self.population.ended(number, result[FAILED])
        elif result and result.get("epoch", 0) >= self.population.until:
            self.population.ended(number)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the population's files are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, likewise."""


class PopulationScheduler(DriverOnly, FIFOScheduler):
    """Stops a member at the end of its round."""

    def __init__(self, population: Population) -> None:
        super().__init__()
        self.population = population

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Tells Tune to continue or stop the trial."""
        over = FAILED not in result and result["epoch"] >= self.population.until
        return TrialScheduler.STOP if over else TrialScheduler.CONTINUE

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the population's files are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, likewise."""


class Recoveries(DriverOnly, Callback):
    """Notes in a trial's folder that the trial had to be restarted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Adds the notice."""
        add_notice(trial_folder(self.folder, trial.config[NUMBER]), DIED)


class Forget(DriverOnly, Callback):
    """Frees what Tune keeps about an ended trial: running averages of every metric, about 100 kB."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Frees it."""
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    on_trial_error = on_trial_complete


class Mirror(DriverOnly, Callback):
    """Copies the journal of a sweep in an object store there every few seconds."""

    EVERY = 5.0  # s

    def __init__(self, folder: Path) -> None:
        self.journal = folder / JOURNAL
        self._pushed = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Copies it if it is due."""
        if time.monotonic() - self._pushed > self.EVERY:
            self._pushed = time.monotonic()
            patiently(lambda: push(self.journal), self.journal)


class KeepBest(DriverOnly, Callback):
    """Removes the checkpoints of ended trials, except those of the best."""

    def __init__(self, sweep: Sweep, keep: int) -> None:
        self.sweep, self.keep = sweep, keep
        self._scores: dict[int, tuple[float, ...]] = {}
        self._removed: set[int] = set()

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Removes checkpoints that are no longer needed."""
        self.tidy()

    on_trial_error = on_trial_complete

    def tidy(self) -> None:
        """Removes all checkpoints except those of the best `keep` finished trials and of trials that have not ended."""
        ended = {frozen.number: frozen for frozen in self.sweep.study.started() if frozen.state.is_finished()}
        for number in ended.keys() - self._scores.keys():
            fetch(trial_folder(self.sweep.folder, number) / EPOCHS)
            trial = self.sweep.trial(ended[number])
            self._scores[number] = trial.score if trial.state == "finished" else ()
        best = sorted(self._scores, key=lambda number: (self._scores[number], -number), reverse=True)
        kept = {number for number in best[: self.keep] if self._scores[number]}
        for number in ended.keys() - kept - self._removed:
            file = trial_folder(self.sweep.folder, number) / CHECKPOINT
            remove(file, checkpoint.previous(file), file.with_name(BEST))
            self._removed.add(number)


class StopOrBudget(Stopper):
    """Stops all trials when the time is up, or when a signal asks for it.

    Tune asks it again and again; so it also raises `RayHasEnded` when the Ray that this process started has.
    """

    def __init__(self, budget: TimeBudget | None) -> None:
        self.budget, self.asked = budget, Stop()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether either is the case."""
        if daemon_ended():
            raise RayHasEnded
        return bool(self.asked) or (self.budget is not None and self.budget.stop_all())


class TimeBudget(Stopper):
    """Stops a sweep some seconds after this object is made; unlike Tune's stopper, it ignores clock changes.

    A learned run and the sweep that follows can share one, which then limits their total time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def used(self) -> float:
        """The share of the time that is used up."""
        return 1 - self.left / self.seconds

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stops a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._end
