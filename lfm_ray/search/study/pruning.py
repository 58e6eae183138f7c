"""Early stopping of trials by successive halving."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

PROTECTED = "protected"  # user attribute of trials that are never pruned
ARM = "arm"  # user attribute: the arm that a trial belongs to
FIRST_SHARE = "first share"  # user attribute of the baseline's trials that are compared with others of their arm only
PAUSED = "paused"  # user attribute: the epoch of the rung at which a trial was paused, the last of them
PROMOTED = "promoted"  # user attribute: the epoch of the rung from which it went on after all, likewise


class SuccessiveHalving(optuna.pruners.BasePruner):
    """ASHA's stopping rule (Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020).

    Rungs are at the epochs `first_rung * reduction**k`. A trial that reaches a rung continues if its
    value there is among the best 1/`reduction` of all values at that rung so far (`goes_on`). The
    caller decides which value is compared (`lfm_ray.search.spaces.space.Pruning.by`); the best is the
    highest, or the lowest if the study minimises.

    The first share of joint training (`lfm_ray.search.study.arms`) is compared with its own trials, so
    that the baseline is tuned; all others are compared with all. Everything is computed from the values
    in the study, so a resumed sweep makes the same decisions as an uninterrupted one. Protected trials
    (known points of baselines) take part in the comparison, but always continue.

    With promotion, a trial that does not continue is only paused, and `promoted` names it when it is among the best
    after all, since more have come to its rung and a third of more is more. That is the rule which the paper calls
    ASHA itself; only that there every trial pauses at every rung, while here those that are ahead go on at once.
    As none is lost by waiting, a third is rounded down then (n // `reduction`), where the stopping rule has to round
    up: no early one goes on just because few have come. It is also rounded up until one trial has finished, so that
    there is a result soon, and at the end, when no more trials come.
    """

    def __init__(self, first_rung: int, reduction: int, promotion: bool = False) -> None:
        self.first_rung, self.reduction, self.promotion = first_rung, reduction, promotion

    def is_rung(self, epoch: int) -> bool:
        """Whether trials are compared at this epoch."""
        while epoch > self.first_rung and epoch % self.reduction == 0:
            epoch //= self.reduction
        return epoch == self.first_rung

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether to stop the trial, given the value it has just reported."""
        epoch = trial.last_step
        if epoch is None or not self.is_rung(epoch) or trial.user_attrs.get(PROTECTED):
            return False
        if epoch <= trial.user_attrs.get(PROMOTED, 0):  # told again by a trial that goes on from there
            return False
        return not self._among_best(study, study.get_trials(deepcopy=False), trial, epoch)

    def promoted(
        self, study: optuna.Study, paused: Iterable[FrozenTrial], at_the_end: bool = False
    ) -> FrozenTrial | None:
        """The one of the paused trials that goes on next: among the best of its rung by now; None if there is none.

        Of several, the one at the highest rung, and there the best. at_the_end: no more trials come.
        """
        sign, known = _sign(study), study.get_trials(deepcopy=False)
        passed_over: set[tuple[int, str | None]] = set()  # who is worse than another there need not be looked at

        def place(trial: FrozenTrial) -> tuple[int, float]:
            return trial.user_attrs[PAUSED], sign * trial.intermediate_values[trial.user_attrs[PAUSED]]

        for trial in sorted(paused, key=place, reverse=True):
            epoch = trial.user_attrs[PAUSED]
            if (epoch, _within(trial)) in passed_over:
                continue
            if self._among_best(study, known, trial, epoch, at_the_end):
                return trial
            passed_over.add((epoch, _within(trial)))
        return None

    def hopeless(self, study: optuna.Study, paused: Iterable[FrozenTrial], trials: int) -> list[FrozenTrial]:
        """Those of the paused trials that are never among the best of their rung, if only `trials` come there in all.

        So many are better already as could go on then, and no place is ever won back.
        """
        places, known = math.ceil(trials / self.reduction), study.get_trials(deepcopy=False)
        found = []
        for trial in paused:
            value, others = _compared(study, known, trial, trial.user_attrs[PAUSED])
            if sum(other > value for other in others) >= places:
                found.append(trial)
        return found

    def _among_best(
        self,
        study: optuna.Study,
        known: Sequence[FrozenTrial],
        trial: FrozenTrial,
        epoch: int,
        at_the_end: bool = False,
    ) -> bool:
        """Whether the trial's value at a rung is among the best 1/`reduction` of those it is compared with.

        known: all trials of the study.
        """
        value, others = _compared(study, known, trial, epoch)
        down = self.promotion and not at_the_end and any(other.state == TrialState.COMPLETE for other in known)
        return goes_on(value, others, self.reduction, math.floor if down else math.ceil)


def _compared(
    study: optuna.Study, known: Sequence[FrozenTrial], trial: FrozenTrial, epoch: int
) -> tuple[float, list[float]]:
    """The trial's value at a rung and those that it is compared with, where higher is better."""
    within, sign = _within(trial), _sign(study)
    others = [
        sign * other.intermediate_values[epoch]
        for other in known
        if epoch in other.intermediate_values
        and other.number != trial.number
        and within in (None, other.user_attrs.get(ARM))
    ]
    return sign * trial.intermediate_values[epoch], others


def _within(trial: FrozenTrial) -> str | None:
    """The arm whose trials alone a trial is compared with; None: with all."""
    return trial.user_attrs.get(ARM) if trial.user_attrs.get(FIRST_SHARE) else None


def is_paused(trial: FrozenTrial) -> bool:
    """Whether a trial was paused at a rung, and has not gone on since."""
    paused, promoted = (trial.user_attrs.get(name, 0) for name in (PAUSED, PROMOTED))
    return not trial.state.is_finished() and paused > promoted


def _sign(study: optuna.Study) -> int:
    return 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1


def goes_on(value: float, others: Sequence[float], reduction: int, rounded: Callable[[float], int] = math.ceil) -> bool:
    """Whether a value is among the best 1/`reduction` at a rung, counting itself; higher is better.

    Rounded up, the first at a rung continues, and until `reduction` have reached it, whatever is better than all
    before; rounded down, none does before `reduction` have reached it.
    """
    values = sorted([*others, value], reverse=True)
    places = rounded(len(values) / reduction)
    return places > 0 and value >= values[places - 1]


def expected_epochs(trials: int, epochs: int, first_rung: int, reduction: int) -> float:
    """How many epochs so many trials of `epochs` epochs take in all, on average, if they come in random order.

    The i-th at the first rung then goes on with probability ceil(i / reduction) / i. Those that come late to
    further rungs had more to beat before, and go on somewhat more often than by this.
    """
    total, before, rung, there = 0.0, 0, first_rung, float(trials)
    while rung < epochs:
        total += there * (rung - before)
        there = sum(math.ceil(i / reduction) / i for i in range(1, round(there) + 1))
        before, rung = rung, rung * reduction
    return total + there * (epochs - before)
