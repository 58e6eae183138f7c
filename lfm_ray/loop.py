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
from typing import Any

import torch
from torch import Tensor, nn

from lfm_ray import checkpoint, distributed
from lfm_ray.config import RunConfig
from lfm_ray.datasets.batches import Batch, Batches
from lfm_ray.datasets.shards import DatasetCard
from lfm_ray.errors import TrainingFailed
from lfm_ray.hypergradient import hypergradient, undisturbed
from lfm_ray.methods import METHODS, Losses
from lfm_ray.metrics import evaluate
from lfm_ray.models.classifier import MultimodalClassifier, Outputs
from lfm_ray.optimizer import build_optimizer
from lfm_ray.schedules import Learned

Row = dict[str, float]


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
    config, learned = run.config, run.config.alpha if isinstance(run.config.alpha, Learned) else None
    run.prepare(splits.train.steps)
    for t in range(run.epoch + 1, config.epochs + 1):
        started = time.perf_counter()
        total = Sums()
        outer = endless(splits.outer, t, config.epochs)
        if not isinstance(config.alpha, Learned):
            run.alpha = config.alpha.alpha(t, config.epochs)
        for batch in splits.train.epoch(t):
            losses = run.losses(batch, through=run.network)
            total.add(losses, run.alpha)
            run.update_theta(losses.total)
            if learned and run.steps % learned.inner_iters == 0:
                with undisturbed(run.model):
                    inner = run.losses(batch)
                    held_out = inner if learned.outer == "inner" else run.losses(next(outer))
                    gradient = hypergradient(
                        inner.classification, inner.matching, held_out.classification, run.parameters
                    )
                run.alpha = min(max(run.alpha - learned.eta_alpha * gradient, learned.low), learned.high)
        run.epoch = t
        row = {"epoch": t, **total.means(t), "learning_rate": run.learning_rate, "alpha_end": run.alpha}
        row |= {f"val/{name}": value for name, value in run.evaluate(splits.val).items()}
        row["seconds"] = time.perf_counter() - started
        run.history.append(row)
        on_epoch(run)
    return run.history


class Run:
    """The state of a training run: theta, its optimiser, alpha, the epoch and what was measured.

    config: what to run; card: the dataset's description. `wrap` turns the model into what the
    forward pass of training goes through (DistributedDataParallel where there are several ranks).
    """

    def __init__(
        self, config: RunConfig, card: DatasetCard, wrap: Callable[[nn.Module], nn.Module] | None = None
    ) -> None:
        self.config = config
        self.device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
        if config.device == "cuda" and self.device.type != "cuda":
            raise TrainingFailed("device: cuda was asked for, and there is no usable GPU")
        torch.manual_seed(config.seed)
        modalities = {name: card.modalities[name] for name in config.data.modalities or card.modalities}
        self.model = MultimodalClassifier(modalities, len(card.classes), config.model).to(self.device)
        self.network = wrap(self.model) if wrap else self.model
        self.method = METHODS[config.method]
        self.parameters = list(self.model.parameters())
        self.alpha = config.alpha.initial if isinstance(config.alpha, Learned) else 0.0
        self.epoch = 0
        self.steps = 0
        self.history: list[Row] = []
        self._restored: dict[str, Any] | None = None

    def prepare(self, steps_an_epoch: int) -> None:
        """Makes the optimiser, whose schedule needs the number of steps, and restores its state."""
        self.optimizer, self.scheduler = build_optimizer(
            self.config.optimizer, self.parameters, steps_an_epoch, self.config.epochs
        )
        if self._restored:
            self.optimizer.load_state_dict(self._restored["optimizer"])
            self.scheduler.load_state_dict(self._restored["scheduler"])
            checkpoint.set_random_state(self._restored["random"], self.device)
            self._restored = None

    def losses(self, batch: Batch, through: nn.Module | None = None) -> Losses:
        """The losses of the global batch of which `batch` is this rank's share."""
        batch = batch.to(self.device)
        outputs: Outputs = (through or self.model)(batch.inputs)
        labels = distributed.gather_rows(batch.labels)
        return self.method.loss(outputs.map(distributed.gather_rows), labels, self.alpha, self.config.loss)

    def update_theta(self, loss: Tensor) -> None:
        """One step of the optimiser on theta."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.optimizer.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.gradient_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.steps += 1

    def evaluate(self, batches: Batches) -> Row:
        """The metrics of a whole split, the same on every rank; see `lfm_ray.metrics.evaluate`."""
        self.model.eval()
        parts: list[Outputs] = []
        labels: list[Tensor] = []
        with torch.no_grad():
            for batch in batches.epoch(1):
                batch = batch.to(self.device)
                outputs: Outputs = self.model(batch.inputs)
                parts.append(outputs.map(distributed.gather_rows))
                labels.append(distributed.gather_rows(batch.labels))
        self.model.train()
        whole = Outputs(
            torch.cat([part.fused for part in parts]),
            {name: torch.cat([part.unimodal[name] for part in parts]) for name in parts[0].unimodal},
            {name: torch.cat([part.embeddings[name] for part in parts]) for name in parts[0].embeddings},
        )
        return evaluate(self.method.predict(whole), whole, torch.cat(labels))

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on bit for bit after this epoch."""
        return {
            "config": self.config.model_dump(mode="json"),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": checkpoint.random_state(self.device),
            "alpha": self.alpha,
            "epoch": self.epoch,
            "steps": self.steps,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`; call it before `fit`."""
        self.model.load_state_dict(state["model"])
        self.alpha, self.epoch, self.steps = state["alpha"], state["epoch"], state["steps"]
        self.history = list(state["history"])
        self._restored = state


class Sums:
    """Means over an epoch's steps of the losses and of alpha."""

    def __init__(self) -> None:
        self.values = torch.zeros(3)
        self.alpha, self.steps = 0.0, 0

    def add(self, losses: Losses, alpha: float) -> None:
        """Adds one step."""
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


def endless(batches: Batches | None, t: int, epochs: int) -> Iterator[Batch]:
    """The outer batches of epoch t, then of further epochs that no other t begins with."""
    if batches is not None:
        for turn in count():
            yield from batches.epoch(t + turn * epochs)
