"""Early stopping of trials by successive halving."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna

PROTECTED = "protected"  # user attribute of trials that are never pruned
ARM = "arm"  # user attribute: the arm that a trial belongs to
FIRST_SHARE = "first share"  # user attribute of the baseline's trials that are compared with others of their arm only


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
    """

    def __init__(self, first_rung: int, reduction: int) -> None:
        self.first_rung, self.reduction = first_rung, reduction

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
        within = trial.user_attrs.get(ARM) if trial.user_attrs.get(FIRST_SHARE) else None
        others = [
            other.intermediate_values[epoch]
            for other in study.get_trials(deepcopy=False)
            if epoch in other.intermediate_values
            and other.number != trial.number
            and within in (None, other.user_attrs.get(ARM))
        ]
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        return not goes_on(sign * trial.intermediate_values[epoch], [sign * value for value in others], self.reduction)


def goes_on(value: float, others: Sequence[float], reduction: int) -> bool:
    """Whether a value is among the best 1/`reduction` at a rung, counting itself; higher is better.

    So the first at a rung continues, and until `reduction` have reached it, whatever is better than all before.
    """
    values = sorted([*others, value], reverse=True)
    return value >= values[math.ceil(len(values) / reduction) - 1]


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
