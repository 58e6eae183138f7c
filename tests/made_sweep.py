"""A sweep of made-up trials, as `lfm_ray.tune` would have written it, in seconds: no training, no Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from lfm_ray.config import RunConfig
from lfm_ray.optimization.schedules import Adaptive
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.study.pruning import PROTECTED
from lfm_ray.search.study.study import LABEL, REASON, SETTINGS
from lfm_ray.search.sweep import Sweep, trial_folder
from lfm_ray.training.run_folder import EPOCHS

SEARCH: dict[str, Any] = {
    "alpha.strategy": {"choice": ["constant", "heuristic", "polynomial", "learned"]},
    "alpha.value": {"uniform": [0, 1], "when": {"alpha.strategy": "constant"}},
    "alpha.coefficients": {"uniform": [0, 1], "length": 4, "when": {"alpha.strategy": "polynomial"}},
    "alpha.eta_alpha": {"loguniform": [0.001, 0.3], "when": {"alpha.strategy": "learned"}},
    "loss.matching": {"choice": ["infonce", "js"]},
    "loss.tau": {"loguniform": [0.05, 1], "when": {"loss.matching": "infonce"}},
    "optimizer.learning_rate": {"loguniform": [0.001, 0.03]},
}
MODALITIES = ("audio", "image")


class Lines(BaseJournalBackend):
    """A journal in memory, written to its file at once: a real one waits for the disk after each line."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs


def make_sweep(
    folder: Path,
    trials: int = 24,
    epochs: int = 12,
    ends: tuple[str, ...] = ("finished", "finished", "pruned", "finished", "failed", "finished"),
    modalities: tuple[str, ...] = MODALITIES,
    seed: int = 0,
    planned: int | None = None,
    reason: str = "the loss became NaN or infinite in epoch 3; a lower learning rate may help",
    question: str = "Which alpha(t) is best?",
    objective: dict[str, str] | None = None,
    **settings: Any,
) -> Sweep:
    """Writes a sweep whose trial n ends as `ends` says, in turn; the first two are alpha = 0 and the heuristic.

    planned: trials that the sweep was to have; settings: of the run, beside its epochs.
    """
    zero = {"alpha.strategy": "constant", "alpha.value": 0}
    points = {"alpha = 0": zero, "heuristic": {"alpha.strategy": "heuristic"}}
    space = Space.model_validate(
        {"question": question, "run": {"epochs": epochs, **settings}, "search": SEARCH, "points": points}
        | {"trials": planned or max(1, trials)}
        | ({"objective": objective} if objective else {})
    )
    sweep = Sweep.create(folder, space, seed, "made", "python -m lfm_ray.tune made.yaml", "2 CPUs")
    lines, random = Lines(), np.random.default_rng(seed)
    study = optuna.create_study(
        storage=JournalStorage(lines), study_name=folder.name, direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=seed),
    )  # fmt: skip
    for label, point in space.known_points().items():
        study.enqueue_trial(point, user_attrs={PROTECTED: True, LABEL: label})
    for number in range(trials):
        trial = study.ask()
        drawn = space.suggest(trial)
        trial.set_user_attr(SETTINGS, drawn)
        end = ends[number % len(ends)]
        rows = made_rows(space.config(drawn), random, modalities)
        rows = rows if end == "finished" else rows[: max(1, 4 if number % 2 else epochs // 2)]
        for row in rows:
            trial.report(row["val/unimodal_accuracy"], int(row["epoch"]))
        run = trial_folder(folder, number)
        run.mkdir(parents=True)
        (run / EPOCHS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        if end == "finished":
            study.tell(trial, [rows[-1][name] for name in space.objective])
        elif end == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        elif end == "failed":
            trial.set_user_attr(REASON, reason)
            study.tell(trial, state=TrialState.FAIL)
    text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in lines.logs)
    (folder / "study.journal").write_text(text, encoding="utf-8")
    return sweep


def made_rows(config: RunConfig, random: np.random.Generator, modalities: tuple[str, ...]) -> list[dict[str, float]]:
    """Curves that rise towards a level, with noise."""
    rows = []
    levels = {name: random.uniform(0.4, 0.9) for name in ("fused", *modalities)}
    for t in range(1, config.epochs + 1):
        share = t / config.epochs
        if isinstance(config.alpha, Adaptive):
            alpha = float(np.clip(0.95 * (1 - share) + random.normal(0, 0.01), 0, 1))
        else:
            alpha = config.alpha.alpha(t, config.epochs)
        row = {"epoch": t, "alpha": alpha, "train/loss": 2 - share}
        row |= {"train/classification_loss": 2 - share, "train/matching_loss": 1.0, "learning_rate": 0.01}
        for name, level in levels.items():
            value = float(np.clip(level * (1 - np.exp(-4 * share)) + random.normal(0, 0.01), 0, 1))
            row |= {f"val/{name}/{metric}": value for metric in ("accuracy", "map", "macro_f1")}
        alone = [row[f"val/{name}/accuracy"] for name in modalities]
        row |= {"val/fused/loss": 2 - share, "val/unimodal_accuracy": float(np.mean(alone))}
        row |= {"val/accuracy_gap": max(alone) - min(alone), "val/modality_gap": 1 - share / 2, "seconds": 0.5}
        rows.append(row)
    return rows
