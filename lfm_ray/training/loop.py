"""Algorithm 1: the training loop. It knows nothing of Ray, nor whether it is one rank of many.

trainer = Trainer(config, card)
history = fit(trainer, Splits(train, val, outer), on_epoch=...)
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
from lfm_ray.models.classifier import Outputs
from lfm_ray.training.trainer import Row, Step, Trainer

TRAIN_SAMPLES = 10_000  # of an epoch, whose outputs are kept for the metrics of the training split


@dataclass(frozen=True)
class Splits:
    """What a run reads; `outer` only when alpha is learned."""

    train: Batches
    val: Batches
    outer: Batches | None = None


def fit(trainer: Trainer, splits: Splits, on_epoch: Callable[[Trainer], None] = lambda trainer: None) -> list[Row]:
    """Trains from the epoch after `trainer.epoch` to the last, or as long as there is patience; returns all metrics.

    `on_epoch` is called after every epoch, when `trainer.history` has its row: to save, to report.

    Raises:
        TrainingFailed: a loss is not finite.
    """
    alpha, T = trainer.alpha, trainer.config.epochs
    trainer.prepare(splits.train.steps)
    for t in range(trainer.epoch + 1, T + 1):
        if trainer.ended:  # out of patience
            break
        started, epoch, outer = time.perf_counter(), Epoch(), endless(splits.outer, t, T)
        alpha.begin_epoch(t)
        if alpha.due_before_epochs:
            alpha.move(trainer.alpha_gradient_before_epoch(first(splits.outer)), trainer.steps)
        for batch in splits.train.epoch(t):
            if trainer.steps == 0 and alpha.starts_balanced:
                alpha.balance(*trainer.gradient_norms(batch))
            due = alpha.due(trainer.steps + 1, splits.train.steps)
            step = trainer.training_step(batch, before_alpha=due)
            epoch.add(step, alpha.value)
            if due:
                alpha.move(trainer.alpha_gradient(batch, outer, step.d), trainer.steps)
        row = {"epoch": t, **epoch.means(t), "learning_rate": trainer.learning_rate, "alpha_end": alpha.value}
        row |= trainer.learned_tau()
        row |= {f"train/{name}": value for name, value in trainer.measured(*epoch.seen()).items()}
        row |= {f"val/{name}": value for name, value in trainer.evaluate(splits.val).items()}
        row |= trainer.end_of_epoch(row)
        row |= trainer.best.choose(row, trainer.evaluated)
        trainer.epoch = t
        row["seconds"] = time.perf_counter() - started
        trainer.history.append(row)
        on_epoch(trainer)
    return trainer.history


class Epoch:
    """What the steps of an epoch tell of it: means of the losses and of alpha, and metrics of the training split."""

    def __init__(self) -> None:
        self.values = torch.zeros(3)
        self.alpha, self.steps = 0.0, 0
        self.outputs: list[Outputs] = []
        self.labels: list[Tensor] = []

    def add(self, step: Step, alpha: float) -> None:
        """Adds one step, taken with this alpha."""
        if sum(map(len, self.labels)) < TRAIN_SAMPLES:
            self.outputs.append(step.outputs)
            self.labels.append(step.labels)
        losses = step.losses
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

    def seen(self) -> tuple[Outputs, Tensor]:
        """Outputs and labels of the first `TRAIN_SAMPLES` samples, a random part of the split.

        They are those of training itself, which cost nothing: of each sample as the model was at its step, with
        dropout and augmentation.
        """
        return Outputs.join(self.outputs), torch.cat(self.labels)


def first(batches: Batches | None) -> Batch:
    """The first outer batch, the same at every call."""
    assert batches is not None
    return next(batches.epoch(1))


def endless(batches: Batches | None, t: int, epochs: int) -> Iterator[Batch]:
    """The outer batches of epoch t, then of further epochs that no other t begins with."""
    if batches is not None:
        for turn in count():
            yield from batches.epoch(t + turn * epochs)
