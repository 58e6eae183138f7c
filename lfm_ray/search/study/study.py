"""The Optuna study of a sweep: a single journal file records every decision of the search.

The journal is appended to as things happen, so a sweep whose driver was killed resumes from it:
finished trials are known, and trials that were running are handed out again under their old number.
Since the sampler of trial n is seeded with (seed, n), interruptions do not change what it draws.
optuna-dashboard and Optuna's plots open the same file:

    storage = JournalStorage(JournalFileBackend("sweeps/NAME/study.journal"))
    optuna.visualization.matplotlib.plot_param_importances(optuna.load_study(study_name=None, storage=storage))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.search.spaces.space import Space, entries
from lfm_ray.search.study.arms import (
    COMPARED,
    JOINT,
    Standing,
    arm_of,
    arms_of,
    first_share,
    left,
    next_arm,
    strategy_name,
)
from lfm_ray.search.study.journal import CheckedJournal, PatientJournal
from lfm_ray.search.study.prior_trials import PriorTrial, pooled
from lfm_ray.search.study.pruning import (
    ARM,
    FIRST_SHARE,
    PAUSED,
    PROMOTED,
    PROTECTED,
    SuccessiveHalving,
    is_paused,
)
from lfm_ray.search.study.samplers import sampler_for
from lfm_ray.storage import shown
from lfm_ray.training.run_folder import STOPPED_EARLY, row_of

SETTINGS, LABEL, REASON, EPOCHS = "settings", "label", "reason", "epochs"
SWEEP = "sweep"  # an attribute of the study: the identity of its sweep
ROW = "row"  # the metrics of the last epoch
REMOVED = "removed"  # an attribute of the study: number of a trial -> what was removed of it, and when
KNOWN_SHARE = 0.1  # of the time, after which it is known how many trials there is time for


def read_trials(journal: Path, identity: str = "") -> list[FrozenTrial]:
    """The trials in a study's journal, by number. Only reads, so another process may be writing.

    identity: of the sweep; where it is empty, nothing is checked.

    Raises:
        UserError: the journal was altered, or is that of another sweep.
    """
    if not journal.exists():
        return []
    storage = opened(CheckedJournal, journal)
    studies = storage.get_all_studies()
    if studies:
        check_is_of(identity, studies[0].user_attrs, journal)
    return storage.get_all_trials(studies[0]._study_id, deepcopy=False) if studies else []


def check_is_of(identity: str, attributes: Mapping[str, Any], journal: Path) -> None:
    """Checks that a journal is that of a sweep; attributes: of its study.

    Raises:
        UserError: it is that of another one.
    """
    if identity and attributes.get(SWEEP, identity) != identity:
        raise UserError(f"{shown(journal)}: is of another sweep than the sweep.yaml beside it; put the right file back")


def removed_parts(journal: Path) -> dict[int, str]:
    """The trials of which something was removed on purpose (`lfm_ray.search.removal`), and what and when."""
    if not journal.exists():
        return {}
    storage = opened(CheckedJournal, journal)
    studies = storage.get_all_studies()
    said = studies[0].user_attrs.get(REMOVED, {}) if studies else {}
    return {int(number): str(text) for number, text in said.items()}


def note_removed(journal: Path, numbers: Sequence[int], text: str) -> None:
    """Writes down what is removed of some trials. Only the holder of the sweep may; Optuna lets no ended trial change,
    so that it is an attribute of the study."""
    if numbers:
        said = {str(number): known for number, known in removed_parts(journal).items()}
        storage = opened(PatientJournal, journal)
        study = storage.get_all_studies()[0]._study_id
        storage.set_study_user_attr(study, REMOVED, said | {str(number): text for number in numbers})


def opened(backend: type[CheckedJournal], journal: Path) -> JournalStorage:
    """A journal as Optuna's storage.

    Raises:
        UserError: it was altered.
    """
    try:
        return JournalStorage(backend(journal))
    except (LookupError, ValueError, TypeError, AttributeError, AssertionError):  # of Optuna, on reading it
        raise UserError(
            f"{shown(journal)}: is not the journal of a search: its records do not fit together; put a copy of it back"
        ) from None


class Study:
    """Hands out trials of a space and records their results.

    Optuna is told that a stopped trial was pruned, with the values it reported until then. TPE ranks
    such trials behind all finished ones, by how far they got, and never takes an early accuracy for
    a final one. They tell it where not to look, which is all we know about them: a final value
    extrapolated from an early one would again favour fast starters.

    A draw that violates the space's constraints is reported to Optuna but never handed out; it has a
    number but no settings.

    A paused trial (`Pruning.promotion`) is a running one to Optuna, which lets no ended trial change; TPE
    takes running trials for bad ones, as it does pruned ones. `ask` hands it out again when it is
    promoted, before any new trial.

    prior_trials: trials of earlier sweeps that the sampler also learns from (`lfm_ray.search.study.prior_trials`).
    identity: of the sweep, which its journal has too.
    """

    def __init__(
        self, journal: Path, space: Space, seed: int, prior_trials: Sequence[PriorTrial] = (), identity: str = ""
    ) -> None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        self.space, self.seed, self.prior_trials = space, seed, prior_trials
        self.arms = arms_of(space)
        self.expected = space.trials
        pruning = space.pruning
        self._halving = SuccessiveHalving(pruning.first_of(space.base.epochs), pruning.reduction, pruning.promotion)
        storage = opened(PatientJournal, journal)
        names = optuna.get_all_study_names(storage)  # the folder may have been renamed since
        self._study = optuna.create_study(
            storage=storage,
            study_name=names[0] if names else journal.parent.name,
            directions=list(space.objective.values()),
            pruner=optuna.pruners.NopPruner() if pruning.by == "none" else self._halving,
            load_if_exists=True,
        )
        if not names:
            self._study.set_metric_names(list(space.objective))
            if identity:
                self._study.set_user_attr(SWEEP, identity)
        check_is_of(identity, self._study.user_attrs, journal)
        if not self.trials():
            whole = self._whole_points()
            for label, point in list(space.known_points().items())[: space.trials]:
                self._study.enqueue_trial(point, user_attrs={PROTECTED: label in whole, LABEL: label})
        self._reached: dict[int, int] = {trial.number: trial.user_attrs[PAUSED] for trial in self._paused()}
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        self._again = [trial.number for trial in running if SETTINGS in trial.user_attrs and not is_paused(trial)]
        for trial in running:
            if SETTINGS not in trial.user_attrs:
                self.fail(trial.number, "interrupted before its settings were drawn")
        self._before = len(self.started())
        self._configs: dict[int, RunConfig] = {}  # validated configurations

    def _whole_points(self) -> set[str]:
        """The known points that are never stopped early: the baselines, and the first of every arm."""
        found, arms = set(), set()
        for label, settings in self.space.points.items():
            arm = arm_of(self.arms, settings, self.space)
            if strategy_name(self.space.config(settings)) in COMPARED or (arm is not None and arm not in arms):
                found.add(label)
            arms.add(arm)
        return found

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number, including forbidden draws and known points that are still waiting."""
        return self._study.get_trials(deepcopy=False)

    def started(self) -> list[FrozenTrial]:
        """The trials that have been handed out, by number."""
        return [trial for trial in self.trials() if SETTINGS in trial.user_attrs]

    def remaining(self) -> int:
        """How many trials are still to be handed out, counting interrupted ones."""
        return max(0, self.space.trials - len(self.started())) + len(self._again)

    @property
    def promotes(self) -> bool:
        """Whether trials are paused and promoted; else those that are stopped are pruned at once."""
        return self._halving.promotion

    def prune_at_once(self) -> None:
        """Nothing is paused from now on, whatever the space says."""
        self._halving.promotion = False

    def has_next(self) -> bool:
        """Whether `ask` has a trial to hand out: an interrupted, a promoted or a new one."""
        return bool(self.remaining()) or self._promoted() is not None

    def running(self) -> list[int]:
        """The numbers of the trials that were handed out and have neither ended nor paused."""
        return [t.number for t in self.started() if not t.state.is_finished() and not is_paused(t)]

    def _paused(self) -> list[FrozenTrial]:
        return [trial for trial in self.started() if is_paused(trial)]

    def _promoted(self) -> FrozenTrial | None:
        """The paused trial that goes on next, if one does; none of an arm that was dropped."""
        paused = self._paused() if self.promotes else []
        if paused and self.arms:
            dropped = self.arms.keys() - set(left(self.standings(), self.expected))
            paused = [trial for trial in paused if trial.user_attrs.get(ARM) not in dropped]
        return self._halving.promoted(self._study, paused, at_the_end=not self.remaining()) if paused else None

    def epochs_taken(self) -> int:
        """Epochs of all trials: those trained by trials that ended or paused, and all that running trials may train."""

        def taken(trial: FrozenTrial) -> int:
            known = PAUSED if is_paused(trial) else EPOCHS
            return int(trial.user_attrs[known]) if known in trial.user_attrs else self.epochs(trial.number)

        return sum(taken(trial) for trial in self.started() if trial.number not in self._again)

    def has_epochs(self) -> bool:
        """Whether the epoch budget has room for the promoted trial, or else for one of the greatest possible length."""
        if self.space.epoch_budget is None:
            return True
        promoted = None if self._again else self._promoted()
        if promoted is not None:
            needed = self.epochs(promoted.number) - promoted.user_attrs[PAUSED]
            return self.epochs_taken() + needed <= self.space.epoch_budget
        return self.epochs_taken() + self.space.longest <= self.space.epoch_budget

    def front(self) -> list[int]:
        """The numbers of the trials on the Pareto front, among those that satisfy all constraints."""
        return [trial.number for trial in self._study.best_trials]

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The number and the settings of the next trial: an interrupted one, else a promoted one, else a new one."""
        if self._again:
            frozen = self.trials()[self._again.pop(0)]
            return frozen.number, frozen.user_attrs[SETTINGS]
        if (promoted := self._promoted()) is not None:
            self._trial(promoted.number).set_user_attr(PROMOTED, promoted.user_attrs[PAUSED])
            return promoted.number, promoted.user_attrs[SETTINGS]
        while True:
            trial = self._next()
            settings = self.space.suggest(trial)
            forbidden = self.space.broken(settings)
            if not forbidden:
                self._note_arm(trial, settings)
                trial.set_user_attr(SETTINGS, settings)
                return trial.number, settings
            for constraint, amount in forbidden.items():
                trial.set_constraint(constraint, amount)
            self._set_reason(trial.number, f"never run: breaks {', '.join(forbidden)}")
            self._study.tell(trial, state=TrialState.PRUNED)

    def _next(self) -> optuna.Trial:
        """A new Optuna trial: the next known point, or a draw of the sampler."""
        number = next((t.number for t in self.trials() if t.state == TrialState.WAITING), len(self.trials()))
        sampler = sampler_for(self.space, self.seed, number)
        if (self.prior_trials or self.arms or self.space.widened) and number == len(self.trials()):
            self._study.enqueue_trial(self._drawn(sampler))
        self._study.sampler = sampler
        return self._study.ask()

    def _drawn(self, sampler: BaseSampler) -> dict[str, Any]:
        """Optuna's parameters of a trial that the sampler draws in a pooled study, of the next arm if there are arms.

        Other arms are prior trials, whose values are ranked within each: so the sampler learns from them which of the
        shared settings are good, and not that those of the better arms are.
        """
        if self.space.sampler == "cmaes":  # its state is in the trials of the study itself
            return self._fixed(next_arm(self.standings(), self.expected)) if self.arms else {}
        if not self.arms:
            draw = pooled(self.space, self.trials(), self.prior_trials, sampler).ask()
            self.space.suggest(draw)
            return draw.params
        arm = next_arm(self.standings(), self.expected)
        own = [trial for trial in self.trials() if trial.user_attrs.get(ARM) == arm]
        others = [
            PriorTrial(f"arm {name}", trial.params, trial.values, trial.constraints)
            for trial in self.trials()
            if trial.state == TrialState.COMPLETE and (name := trial.user_attrs.get(ARM)) not in (None, arm)
        ]
        pool = pooled(self.space, own, [*self.prior_trials, *others], sampler)
        pool.enqueue_trial(self._fixed(arm))
        draw = pool.ask()
        self.space.suggest(draw)
        return draw.params

    def _fixed(self, arm: str) -> dict[str, Any]:
        """Optuna's parameters of what the trials of an arm share."""
        drawn = [self.space.search[name].drawn(name, value) for name, value in self.arms[arm].items()]
        return {name: value for one in drawn for name, value in one.items()}

    def best_first(self) -> list[dict[str, Any]]:
        """The settings of the finished trials by their (first) objective, lists as entries `PATH.0`, `PATH.1`, ..."""
        finished = [trial for trial in self.started() if trial.state == TrialState.COMPLETE]
        sign = -1 if self._study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
        return [
            entries(trial.user_attrs[SETTINGS]) for trial in sorted(finished, key=lambda trial: sign * trial.values[0])
        ]

    def expect(self, share: float) -> None:
        """Tells how much of the time that this process has is used up: the sweep may end before its last trial."""
        started = len(self.started()) - self._before
        if share >= KNOWN_SHARE and started:
            self.expected = min(self.space.trials, self._before + math.ceil(started / share))

    def standings(self) -> dict[str, Standing]:
        """How each arm stands."""
        sign = 1 if self._study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else -1
        found, started = {}, self.started()
        for name in self.arms:
            own = [trial for trial in started if trial.user_attrs.get(ARM) == name]
            values = [
                sign * trial.values[0]
                for trial in own
                if trial.state == TrialState.COMPLETE and not any(amount > 0 for amount in trial.constraints.values())
            ]
            unknown = -math.inf if all(trial.state.is_finished() or is_paused(trial) for trial in own) else math.inf
            found[name] = Standing(len(own), max(values, default=unknown))
        return found

    def _note_arm(self, trial: optuna.Trial, settings: Mapping[str, Any]) -> None:
        arm = arm_of(self.arms, settings, self.space)
        if arm is not None:
            share = first_share(len(self.arms), self.expected)
            had = sum(one.user_attrs.get(ARM) == arm for one in self.started())
            trial.set_user_attr(ARM, arm)
            trial.set_user_attr(FIRST_SHARE, arm == JOINT and had < share)

    def change(self, number: int, settings: dict[str, Any]) -> None:
        """Replaces the settings of a running trial, as members of a population do."""
        self._trial(number).set_user_attr(SETTINGS, settings)
        self._configs.pop(number, None)

    def report(self, number: int, epoch: int, row: Mapping[str, float]) -> bool:
        """Records an epoch of a trial. Returns whether to stop the trial."""
        self._reached[number] = epoch
        if self.space.pruning.by == "none":
            return False
        frozen = self.trials()[number]
        told = frozen.intermediate_values
        if epoch in told and epoch < max(told):  # a resumed trial reports old epochs again
            return False
        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        if epoch not in told:
            # Optuna ranks pruned trials by these values in the direction of the objective.
            sign = 1 if self._study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
            trial.report(sign * row[f"val/{self.space.pruning.by}"], epoch)
        return epoch < self.epochs(number) and STOPPED_EARLY not in row and trial.should_prune()

    def epochs(self, number: int) -> int:
        """The number of epochs T of a trial."""
        return self._config(number).epochs

    def ended(self, number: int) -> bool:
        """Whether the study has recorded how the trial ended."""
        return self.trials()[number].state.is_finished()

    def finish(self, number: int, row: Mapping[str, float]) -> None:
        """Records that the trial finished with these metrics."""
        values = [row[name] for name in self.space.objective]
        if not all(math.isfinite(value) for value in values):
            self.fail(number, f"{', '.join(self.space.objective)}: not a finite number")
            return
        trial = self._trial(number)
        for constraint, amount in self.space.outcomes(self._config(number), row).items():
            trial.set_constraint(constraint, amount)
        self._set_epochs(number)
        trial.set_user_attr(ROW, row_of(row))
        self._study.tell(number, values)

    def stop(self, number: int) -> None:
        """Records that the trial was stopped at the rung just reached: it pauses, or is pruned if nothing is promoted.

        Of the paused trials, those that cannot be promoted any more are pruned.
        """
        if not self.promotes:
            self.prune(number)
            return
        self._trial(number).set_user_attr(PAUSED, self._reached[number])
        for trial in self._halving.hopeless(self._study, self._paused(), self.space.trials):
            self.prune(trial.number)

    def end_paused(self) -> None:
        """Records the paused trials as pruned, when the sweep has ended."""
        for trial in self._paused():
            self.prune(trial.number)

    def prune(self, number: int) -> None:
        """Records that the trial was stopped early, for good."""
        self._set_epochs(number)
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Records that the trial failed, and why."""
        self._set_reason(number, reason)
        self._set_epochs(number)
        self._study.tell(number, state=TrialState.FAIL)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.trial.Trial(self._study, self.trials()[number]._trial_id)

    def _set_reason(self, number: int, reason: str) -> None:
        self._trial(number).set_user_attr(REASON, reason)

    def _set_epochs(self, number: int) -> None:
        self._trial(number).set_user_attr(EPOCHS, self._reached.get(number, 0))

    def _config(self, number: int) -> RunConfig:
        if number not in self._configs:
            self._configs[number] = self.space.config(self.trials()[number].user_attrs[SETTINGS])
        return self._configs[number]
