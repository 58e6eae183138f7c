"""Which trials of a sweep are best, by its objective. Only the validation split decides."""

from __future__ import annotations

from lfm_ray.schedules import Polynomial
from lfm_ray.search.sweep import Trial

COMPARED = ("alpha = 0", "heuristic")  # what `lfm_ray.confirm` trains beside the best


def best_of(trials: list[Trial]) -> Trial | None:
    """The finished trial of the highest rank: constraints first, then the objective (`Trial.rank`)."""
    return max((trial for trial in trials if trial.state == "finished"), key=lambda trial: trial.rank, default=None)


def by_strategy(trials: list[Trial]) -> dict[str, Trial]:
    """For each strategy its best finished trial, best strategy last."""
    names = {trial.strategy for trial in trials}
    best = {name: best_of([trial for trial in trials if trial.strategy == name]) for name in names}
    found = {name: trial for name, trial in best.items() if trial is not None}
    return dict(sorted(found.items(), key=lambda item: item[1].rank))


def candidates(trials: list[Trial], top: int) -> list[Trial]:
    """What is worth confirming: the `top` best finished trials and the best of each baseline."""
    finished = sorted(
        (trial for trial in trials if trial.state == "finished"), key=lambda trial: trial.rank, reverse=True
    )
    baselines = [trial for name, trial in by_strategy(trials).items() if name in COMPARED]
    chosen = {trial.number: trial for trial in [*finished[:top], *baselines]}
    return list(chosen.values())


def schedule_of(trial: Trial) -> tuple[Polynomial, float]:
    """A trial's alpha(t) as a polynomial, and the root mean square of what it leaves out.

    Exact for a polynomial trial; for any other a cubic fitted to the alpha of its epochs.
    """
    if isinstance(trial.config.alpha, Polynomial):
        return trial.config.alpha, 0.0
    return Polynomial.fit([row["alpha"] for row in trial.rows], degree=3)
