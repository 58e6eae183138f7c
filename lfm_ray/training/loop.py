"""Algorithm 1: the training loop. It knows nothing of Ray, nor whether it is one rank of many.

run = Run(config, card)
history = fit(run, Splits(train, val, outer), on_epoch=...)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from lfm_ray.datasets.reading.batches import Batch, Batches
from lfm_ray.errors import TrainingFailed
from lfm_ray.methods import Losses
from lfm_ray.models.classifier import Outputs
from lfm_ray.optimization.schedules import Adaptive
from lfm_ray.training.metrics import evaluate
from lfm_ray.training.trainer import Row, Run

TRAIN_SAMPLES = 10_000  # of an epoch, whose outputs are kept for the metrics of the training split


@dataclass(frozen=True)
class Splits:
    """What a run reads; `outer` only when alpha is learned."""

    train: Batches
    val: Batches
    outer: Batches | None = None


def fit(run: Run, splits: Splits, on_epoch: Callable[[Run], None] = lambda run: None) -> list[Row]:
    """Trains from the epoch after `run.epoch` to the last, and returns the metrics of all epochs.

    `on_epoch` is called after every epoch, when `run.history` has its row: to save, to report.

    Raises:
        TrainingFailed: a loss is not finite.
    """
    config, adaptive = run.config, run.config.alpha if isinstance(run.config.alpha, Adaptive) else None
    run.prepare(splits.train.steps)
    for t in range(run.epoch + 1, config.epochs + 1):
        started = time.perf_counter()
        total, run.alpha_updates = Epoch(), []
        outer = endless(splits.outer, t, config.epochs)
        if not isinstance(config.alpha, Adaptive):
            run.alpha = config.alpha.alpha(t, config.epochs)
        for batch in splits.train.epoch(t):
            due = adaptive is not None and adaptive.due(run.steps + 1, splits.train.steps)
            total.add(run.update_theta(batch, before_alpha=due), run.alpha, *run.seen)
            if adaptive and due:
                run.alpha = adaptive.updated(run.alpha, run.alpha_gradient(batch, outer), t)
                run.alpha_updates.append((run.steps, run.alpha))
        row = {"epoch": t, **total.means(t), "learning_rate": run.learning_rate, "alpha_end": run.alpha}
        row |= run.learned_tau()
        row |= {f"train/{name}": value for name, value in total.metrics(run.method.predict).items()}
        row |= {f"val/{name}": value for name, value in run.evaluate(splits.val).items()}
        row |= run.end_of_epoch(row)
        run.epoch = t
        row["seconds"] = time.perf_counter() - started
        run.history.append(row)
        on_epoch(run)
    return run.history


class Epoch:
    """What the steps of an epoch tell of it: means of the losses and of alpha, and metrics of the training split."""

    def __init__(self) -> None:
        self.values = torch.zeros(3)
        self.alpha, self.steps = 0.0, 0
        self.outputs: list[Outputs] = []
        self.labels: list[Tensor] = []

    def add(self, losses: Losses, alpha: float, outputs: Outputs, labels: Tensor) -> None:
        """Adds one step; outputs and labels of its global batch, without a graph."""
        if sum(map(len, self.labels)) < TRAIN_SAMPLES:
            self.outputs.append(outputs)
            self.labels.append(labels)
        parts = torch.stack([losses.total, losses.classification, losses.matching]).detach().float()
        self.values = self.values.to(parts.device) + parts
        self.alpha, self.steps = self.alpha + alpha, self.steps + 1

    def means(self, t: int) -> Row:
        """alpha and the three training losses of epoch t, each the mean over the steps."""
        names = ("train/loss", "train/classification_loss", "train/matching_loss")
        means = dict(zip(names, (self.values / self.steps).tolist(), strict=True))
        if not all(math.isfinite(value) for value in means.values()):
            raise TrainingFailed(f"the loss became NaN or infinite in epoch {t}; a lower learning rate may help")
        return {"alpha": self.alpha / self.steps, **means}

    def metrics(self, predict: Callable[[Outputs], Tensor]) -> Row:
        """`lfm_ray.training.metrics.evaluate` of the first `TRAIN_SAMPLES` samples, a random part of the split.

        From the outputs of training itself, which cost nothing: of each sample as the model was at
        its step, with dropout and augmentation.
        """
        whole = Outputs.join(self.outputs)
        return evaluate(predict(whole), whole, torch.cat(self.labels))


def endless(batches: Batches | None, t: int, epochs: int) -> Iterator[Batch]:
    """The outer batches of epoch t, then of further epochs that no other t begins with."""
    if batches is not None:
        for turn in count():
            yield from batches.epoch(t + turn * epochs)
