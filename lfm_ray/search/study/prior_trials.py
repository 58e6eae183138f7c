"""Trials of earlier sweeps that the sampler of a new sweep learns from (`tune --warm-start SWEEP`).

Values of different sweeps are not on the same scale: on other data, or with another number of
epochs, accuracies differ, so that raw values could make every old trial look better than every new
one, or worse. Values are therefore replaced, sweep by sweep, with normal scores: the value of rank r
of n becomes Phi^-1((r - 1/2) / n), as in quantile-based transfer (Salinas, Shen and Perrone, "A
quantile-based approach for hyperparameter transfer learning", ICML 2020). Prior trials on the same
data with the same fixed settings are ranked together with the new ones.

The study on disk keeps only the sweep's own trials, with their own values; the pooled study lives in
memory for a single draw. Prior trials are copied into the sweep's folder, so that the sweep can be
resumed without the folders that they came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from lfm_ray.checksums import line_of, record_of
from lfm_ray.errors import UserError
from lfm_ray.files import write_atomically
from lfm_ray.search.spaces.space import Space


@dataclass(frozen=True)
class PriorTrial:
    """One finished trial of an earlier sweep.

    group: the sweep that its values are ranked within; empty to rank them with the new sweep's own.
    params: Optuna's parameters; values: of the new sweep's objective; constraints: above 0 if violated.
    """

    group: str
    params: dict[str, Any]
    values: list[float]
    constraints: dict[str, float]


def write_prior_trials(file: Path, prior_trials: Iterable[PriorTrial]) -> None:
    """Writes the trials, one JSON object per line."""
    lines = (line_of(asdict(one), number) for number, one in enumerate(prior_trials, start=1))
    write_atomically(file, "".join(lines))


def read_prior_trials(file: Path) -> list[PriorTrial]:
    """Reads what `write_prior_trials` wrote; empty if there is no file."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(PriorTrial(**record_of(line, number)[0]))
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"{file}, line {number}: is not as it was written; put a copy of the file back") from None
    return found


def pooled(
    space: Space, own: Sequence[FrozenTrial], prior_trials: Sequence[PriorTrial], sampler: BaseSampler
) -> optuna.Study:
    """An in-memory study of the prior trials and a sweep's own trials, with normal scores for values."""
    finished = [trial for trial in own if trial.state == TrialState.COMPLETE]
    values = {"": [trial.values for trial in finished]}
    for one in prior_trials:
        values.setdefault(one.group, []).append(one.values)
    scores = {group: normal_scores(of_group) for group, of_group in values.items()}
    own_scores = scores[""][: len(finished)]
    scores[""] = scores[""][len(finished) :]

    study = optuna.create_study(directions=list(space.objective.values()), sampler=sampler)
    for one in prior_trials:
        study.add_trial(
            create_trial(
                params=one.params,
                distributions={name: space.parameters[name] for name in one.params},
                values=scores[one.group].pop(0),
                constraints=one.constraints,
            )
        )
    for trial in own:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            continue
        study.add_trial(
            create_trial(
                state=trial.state,
                params=trial.params,
                distributions={name: space.parameters[name] for name in trial.params},  # ranges may have been widened
                values=own_scores.pop(0) if trial.state == TrialState.COMPLETE else None,
                intermediate_values=trial.intermediate_values,
                constraints=trial.constraints,
            )
        )
    return study


def normal_scores(values: Sequence[Sequence[float]]) -> list[list[float]]:
    """Values (n, objectives) -> Phi^-1((rank - 1/2) / n), each objective on its own; ties share a rank."""
    from scipy.stats import rankdata

    if not values:
        return []
    ranks = rankdata(values, axis=0)
    normal = NormalDist()
    return [[normal.inv_cdf((rank - 0.5) / len(values)) for rank in line] for line in ranks]
