"""A run as data frames, for notebooks; `lfm_ray.train` and `lfm_ray.load_run` return it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from lfm_ray.checksums import CHECKSUM, is_whole
from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.files import check_within
from lfm_ray.models.directions import leading
from lfm_ray.models.metrics import class_accuracies
from lfm_ray.runtime.profiling import SUMMARY
from lfm_ray.settings import load, nearest
from lfm_ray.storage import fetch, shown
from lfm_ray.training.costs import Costs, read_costs
from lfm_ray.training.run_folder import (
    CONFIG,
    EPOCHS,
    NOTICES,
    PROFILE,
    checked_epochs,
    read_alpha_updates,
    read_config,
    read_confusions,
    read_notices,
)

FITTED = "fitted.yaml"  # in the folder of a run that learned alpha(t): its settings with the fitted alpha(t)


class LoadedRun:
    """A run at the time of reading.

    run = lfm_ray.load_run("runs/mine")
    run.metrics["val/fused/accuracy"]
    run.epochs.plot(x="epoch", y=["val/audio/accuracy", "val/image/accuracy"])

    Attributes:
        folder: the folder of the run.
        config: its settings.
        epochs: a data frame, one row per epoch: `epoch` from 1, `seconds`, `alpha`,
            `learning_rate`, losses and metrics of the splits as `train/...` and `val/...`. Accuracies,
            MAP and macro F1 are shares from 0 to 1.
        metrics: the last of these rows, name -> number.
        notices: problems that the run recovered from, one line each.

    Raises:
        UserError: the folder holds no run, or one that has not completed an epoch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_within(folder)
        for name in (CONFIG, EPOCHS, NOTICES, PROFILE, FITTED):
            fetch(folder / name)
        rows = checked_epochs(folder)
        if not (folder / CONFIG).is_file() or not rows:
            raise UserError(f"{shown(folder)}: holds no run with a completed epoch ({CONFIG}, {EPOCHS})")
        self.config = read_config(folder)
        self.epochs = pd.DataFrame(rows)
        self.metrics: dict[str, float] = dict(rows[-1])
        self.notices = read_notices(folder)

    def __repr__(self) -> str:
        reached = f"epoch {len(self.epochs)} of {self.config.epochs}"
        lead = leading(self.metrics)
        return f"<run {shown(self.folder)}: {reached}, val {lead} {self.metrics[f'val/fused/{lead}']:.3f}>"

    @property
    def best_metrics(self) -> dict[str, float]:
        """The row of the best epoch, by the run's `checkpoint.best`; empty where no epoch is chosen so."""
        best = self.metrics.get("best_epoch")
        return {} if best is None else self.epochs.iloc[int(best) - 1].dropna().to_dict()

    def confusion(self, modality: str = "fused", split: str = "val") -> pd.DataFrame:
        """The confusion matrix of the run's end: rows are classes, columns what their samples were taken for.

        Raises:
            UserError: the run has not ended, or was not measured on the split, or there is no such modality.
        """
        found = read_confusions(self.folder, split)
        if found is None or not found[1]:
            raise UserError(f"{shown(self.folder)}: has no confusion matrix of split {split}")
        classes, matrices = found
        if modality not in matrices:
            raise UserError(
                f"{shown(self.folder)}: there is no modality {modality!r}{nearest(modality, list(matrices))}"
            )
        return pd.DataFrame(matrices[modality], index=classes, columns=classes)

    def class_accuracies(self, split: str = "val") -> pd.DataFrame:
        """The share of each class that is recognised at the run's end, of the fusion and of each modality alone."""
        classes = self.confusion(split=split).index
        matrices = (read_confusions(self.folder, split) or ([], {}))[1]
        return pd.DataFrame({name: class_accuracies(matrix) for name, matrix in matrices.items()}, index=classes)

    @property
    def alpha_updates(self) -> pd.Series[float]:
        """alpha after each of its updates, if it is learned; indexed by the training step on theta."""
        return pd.Series(read_alpha_updates(self.folder), name="alpha", dtype=float).rename_axis("step")

    @property
    def fitted(self) -> RunConfig | None:
        """The settings with a learned alpha(t) replaced by the polynomial fitted to it; None if there is none."""
        return load(RunConfig, self.folder / FITTED) if (self.folder / FITTED).is_file() else None

    @property
    def residual(self) -> float:
        """The root mean square residual of the polynomial fitted to alpha(t); NaN if there is none."""
        if self.fitted is None:
            return math.nan
        schedule, T = self.fitted.alpha, self.config.epochs
        squares = [(schedule.alpha(t, T) - alpha) ** 2 for t, alpha in enumerate(self.epochs["alpha"], start=1)]
        return math.sqrt(sum(squares) / len(squares))

    @property
    def costs(self) -> Costs | None:
        """Parameters, operations, time and memory of a step; None if the run has not ended."""
        return read_costs(self.folder)

    @property
    def profile(self) -> dict[str, Any] | None:
        """For a run with profile=True, where the time of training steps goes, in seconds (`runtime.profiling`)."""
        file = self.folder / PROFILE
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            whole = is_whole(content) and set(content) - {CHECKSUM} == SUMMARY
        except (ValueError, TypeError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise UserError(f"{shown(file)}: is damaged; remove it, or write it again with --profile")
        return {name: value for name, value in content.items() if name != CHECKSUM}
