"""Which trials of a sweep are best, by its objective. Only the validation split decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from lfm_ray.optimization.schedules import Polynomial
from lfm_ray.search.study.arms import COMPARED
from lfm_ray.search.sweep import Trial


def best_of(trials: list[Trial]) -> Trial | None:
    """The finished trial with the highest `Trial.score`: constraints first, then the objective."""
    return max((trial for trial in trials if trial.state == "finished"), key=lambda trial: trial.score, default=None)


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The finished trials, the best first."""
    return sorted((trial for trial in trials if trial.state == "finished"), key=lambda trial: trial.score, reverse=True)


def by_strategy(trials: list[Trial]) -> dict[str, Trial]:
    """The best finished trial of each strategy, the best strategy last."""
    names = {trial.strategy for trial in trials}
    best = {name: best_of([trial for trial in trials if trial.strategy == name]) for name in names}
    found = {name: trial for name, trial in best.items() if trial is not None}
    return dict(sorted(found.items(), key=lambda item: item[1].score))


@dataclass(frozen=True)
class Pool:
    """Candidates for confirmation: finished trials, the best first, and how many of them are wanted."""

    trials: list[Trial]
    wanted: int

    def best(self, known: Mapping[int, Sequence[Trial]]) -> list[Trial]:
        """The `wanted` trials with the best mean score.

        known: trial number -> what its mean is taken over: the trial itself, or its runs with other seeds.
        """
        scores = {n: tuple(map(mean, zip(*(one.score for one in runs), strict=True))) for n, runs in known.items()}
        return sorted(self.trials, key=lambda trial: scores[trial.number], reverse=True)[: self.wanted]


def pools(trials: list[Trial], top: int, among: int) -> list[Pool]:
    """Pools to confirm from: `top` of the `among` best trials, and one of the `among` best of each baseline and arm."""
    finished = ranked(trials)
    groups = [[trial for trial in finished if trial.strategy == name] for name in COMPARED]
    arms = dict.fromkeys(trial.arm for trial in finished if trial.arm and trial.arm not in COMPARED)
    groups += [[trial for trial in finished if trial.arm == arm] for arm in arms]
    found = [Pool(finished[:among], top), *(Pool(group[:among], 1) for group in groups)]
    return [pool for pool in found if pool.trials]


def schedule_of(trial: Trial) -> tuple[Polynomial, float]:
    """A trial's alpha(t) as a polynomial, and the root mean square residual.

    Exact for a polynomial trial; for any other, a cubic fitted to its alpha in each epoch.
    """
    if isinstance(trial.config.alpha, Polynomial):
        return trial.config.alpha, 0.0
    return Polynomial.fit([row["alpha"] for row in trial.rows], degree=3)
