"""The epoch that counts, where `checkpoint.best` chooses one, and patience, which waits for a better one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from lfm_ray.runtime.checkpoint import CheckpointSettings
from lfm_ray.training.run_folder import STOPPED_EARLY


class BestEpoch:
    """The best epoch of a run so far, with its weights on the CPU; the same on every rank.

    `kept` is None, or has its epoch, value and weights. It is saved with the run's state.
    """

    def __init__(self, settings: CheckpointSettings, epochs: int) -> None:
        self.settings, self.epochs = settings, epochs
        self.kept: dict[str, Any] | None = None

    @property
    def epoch(self) -> int | None:
        """Its number, from 1."""
        return self.kept["epoch"] if self.kept else None

    def choose(self, row: dict[str, float], model: nn.Module) -> dict[str, float]:
        """Keeps an epoch's weights if it was the best so far; returns what is added to its row of metrics."""
        if self.settings.best is None:
            return {}
        epoch, value = int(row["epoch"]), row[self.settings.best]
        if self.kept is None or self.settings.improves(value, self.kept["value"]):
            weights = {name: one.detach().to("cpu", copy=True) for name, one in model.state_dict().items()}
            self.kept = {"epoch": epoch, "value": value, "weights": weights}
        patience = self.settings.patience
        stops = patience is not None and epoch - self.kept["epoch"] >= patience and epoch < self.epochs
        return {"best_epoch": self.kept["epoch"]} | ({STOPPED_EARLY: 1.0} if stops else {})

    @contextmanager
    def loaded(self, model: nn.Module) -> Iterator[None]:
        """Inside, the model has the weights of the best epoch, where one is kept."""
        if self.kept is None:
            yield
            return
        last = {name: one.detach().clone() for name, one in model.state_dict().items()}
        model.load_state_dict(self.kept["weights"])
        try:
            yield
        finally:
            model.load_state_dict(last)
