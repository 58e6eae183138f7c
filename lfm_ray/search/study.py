"""The Optuna study of a sweep: every decision of the search is in one journal file.

The journal is appended to as things happen, so a sweep whose driver was killed goes on from it:
trials that had finished are known, those that were running are handed out again under their old
number, and the sampler for trial n is seeded by (seed, n), so it does not matter how often the
sweep was interrupted. optuna-dashboard and Optuna's plots open the same file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lfm_ray.search.pruning import PROTECTED, SuccessiveHalving
from lfm_ray.search.space import Space

SETTINGS, LABEL, REASON = "settings", "label", "reason"
OBJECTIVE = "val/fused/accuracy"

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
logging.getLogger("optuna").setLevel(logging.ERROR)


def read_trials(journal: Path) -> list[FrozenTrial]:
    """The trials in a study's journal, by number. Only reads, so another process may write meanwhile."""
    if not journal.exists():
        return []
    storage = JournalStorage(JournalFileBackend(str(journal)))
    studies = storage.get_all_studies()
    return storage.get_all_trials(studies[0]._study_id, deepcopy=False) if studies else []


class Study:
    """Hands out trials of a space and is told how they went.

    What Optuna learns of a stopped trial: that it was pruned, with the values it reported up to
    then. TPE ranks such trials behind all finished ones, by how far they came; it never takes an
    early accuracy for a final one.
    """

    def __init__(self, journal: Path, space: Space, seed: int) -> None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        self.space, self.seed = space, seed
        pruning = space.pruning
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name=journal.parent.name,
            direction="maximize",
            pruner=optuna.pruners.NopPruner()
            if pruning.by == "none"
            else SuccessiveHalving(pruning.first_rung, pruning.reduction),
            load_if_exists=True,
        )
        if not self.trials():
            for label, point in list(space.known_points().items())[: space.trials]:
                self._study.enqueue_trial(point, user_attrs={PROTECTED: True, LABEL: label})
        self._again = [trial.number for trial in self.trials() if trial.state == TrialState.RUNNING]

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self._study.get_trials(deepcopy=False)

    def remaining(self) -> int:
        """How many trials are still to be handed out, those that were interrupted included."""
        started = sum(trial.state != TrialState.WAITING for trial in self.trials())
        return max(0, self.space.trials - started) + len(self._again)

    def ask(self) -> tuple[int, dict[str, Any]]:
        """The number and the settings of the next trial."""
        while self._again:
            frozen = self.trials()[self._again.pop(0)]
            if SETTINGS in frozen.user_attrs:
                return frozen.number, frozen.user_attrs[SETTINGS]
            self.fail(frozen.number, "interrupted before its settings were drawn")
        number = next((t.number for t in self.trials() if t.state == TrialState.WAITING), len(self.trials()))
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        settings = self.space.suggest(trial)
        trial.set_user_attr(SETTINGS, settings)
        return trial.number, settings

    def change(self, number: int, settings: dict[str, Any]) -> None:
        """Gives a running trial other settings, which members of a population take on."""
        optuna.trial.Trial(self._study, self.trials()[number]._trial_id).set_user_attr(SETTINGS, settings)

    def report(self, number: int, epoch: int, row: Mapping[str, float]) -> bool:
        """Records an epoch of a trial. Returns whether the trial is to be stopped."""
        if self.space.pruning.by == "none":
            return False
        frozen = self.trials()[number]
        told = frozen.intermediate_values
        if epoch in told and epoch < max(told):  # a resumed trial tells again what was decided before
            return False
        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        if epoch not in told:
            trial.report(row[f"val/{self.space.pruning.by}"], epoch)
        return epoch < self.epochs(number) and trial.should_prune()

    def epochs(self, number: int) -> int:
        """T of a trial."""
        return self.space.config(self.trials()[number].user_attrs[SETTINGS]).epochs

    def ended(self, number: int) -> bool:
        """Whether the study knows how the trial ended."""
        return self.trials()[number].state.is_finished()

    def finish(self, number: int, accuracy: float) -> None:
        """The trial ended with this fused validation accuracy."""
        self._study.tell(number, accuracy)

    def prune(self, number: int) -> None:
        """The trial was stopped early."""
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """The trial could not go on."""
        self._set_reason(number, reason)
        self._study.tell(number, state=TrialState.FAIL)

    def _set_reason(self, number: int, reason: str) -> None:
        optuna.trial.Trial(self._study, self.trials()[number]._trial_id).set_user_attr(REASON, reason)

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        if self.space.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
