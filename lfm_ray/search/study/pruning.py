"""Early stopping of trials by successive halving."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna

PROTECTED = "protected"  # user attribute of trials that are never pruned


class SuccessiveHalving(optuna.pruners.BasePruner):
    """ASHA's stopping rule (Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020).

    Rungs are at the epochs `first_rung * reduction**k`. A trial that reaches a rung goes on if its
    value there is among the best 1/`reduction` of all values seen at that rung so far (`goes_on`).
    What the rungs compare is decided by the caller, see `lfm_ray.search.spaces.space.Pruning.by`; the best
    is the highest, or the lowest where the study minimises.

    Everything is computed from the values in the study, so a resumed sweep decides as one that was
    never interrupted. Protected trials (known points) take part in the comparison but go on.
    """

    def __init__(self, first_rung: int, reduction: int) -> None:
        self.first_rung, self.reduction = first_rung, reduction

    def is_rung(self, epoch: int) -> bool:
        """Whether trials are compared at this epoch."""
        while epoch > self.first_rung and epoch % self.reduction == 0:
            epoch //= self.reduction
        return epoch == self.first_rung

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether the trial, which has just reported its last value, is to be stopped."""
        epoch = trial.last_step
        if epoch is None or not self.is_rung(epoch) or trial.user_attrs.get(PROTECTED):
            return False
        others = [
            other.intermediate_values[epoch]
            for other in study.get_trials(deepcopy=False)
            if epoch in other.intermediate_values and other.number != trial.number
        ]
        sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        return not goes_on(sign * trial.intermediate_values[epoch], [sign * value for value in others], self.reduction)


def goes_on(value: float, others: Sequence[float], reduction: int) -> bool:
    """Whether a value is among the best 1/`reduction` of those at a rung, its own included; higher is better.

    Every trial goes on before `reduction` of them have reached the rung.
    """
    values = sorted([*others, value], reverse=True)
    return len(values) < reduction or value >= values[math.ceil(len(values) / reduction) - 1]
