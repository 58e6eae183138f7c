"""Training on the made-up dataset of `synthetic.py` in a second, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch, Batches, Order, ReadBatches, from_memory
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.runtime import checkpoint
from lfm_ray.settings import load
from lfm_ray.training.loop import Splits, fit
from lfm_ray.training.trainer import Row, Trainer

SMALL = ["epochs=4", "model.width=4", "model.embedding_size=8", "data.batch_size=16"]
# alpha is learned on held-out rows, after every step
LEARNED = [
    "alpha.strategy=learned",
    "alpha.outer=held_out",
    "alpha.inner_iters=1",
    "alpha.eta_alpha=0.01",
    "alpha.initial=0.6",
]
HELD_OUT = 6  # of the 48 training samples, in `splits_with_outer`


def small_config(*overrides: str) -> RunConfig:
    """A run of four short epochs, with dropout, so that random numbers would tell."""
    return load(RunConfig, None, [*SMALL, "model.dropout=0.3", *overrides])


def small_splits(shards: Shards, config: RunConfig, rank: int = 0, world_size: int = 1, held_out: int = 0) -> Splits:
    """All rows of training and validation, as a rank sees them; the last `held_out` of training are the outer split."""

    def batches(split: str, rows: np.ndarray, shuffle: bool) -> Batches:
        order = Order(rows, config.data.batch_size, config.seed, shuffle, rank, world_size)
        return ReadBatches(from_memory(*shards.arrays(split)), order, Inputs.of(shards.card))

    rows = np.arange(shards.card.rows("train"))
    train, outer = rows[: len(rows) - held_out], rows[len(rows) - held_out :]
    return Splits(
        train=batches("train", train, True),
        val=batches("val", np.arange(shards.card.rows("val")), False),
        outer=batches("train", outer, True) if held_out else None,
    )


def splits_with_outer(shards: Shards, config: RunConfig, rank: int = 0, world_size: int = 1) -> Splits:
    """Splits of which alpha can be learned."""
    return small_splits(shards, config, rank, world_size, HELD_OUT)


def train(shards: Shards, *overrides: str, on_epoch: Callable[[Trainer], None] = lambda run: None) -> Trainer:
    """The run after its last epoch."""
    config = small_config(*overrides)
    run = Trainer(config, shards.card)
    fit(run, small_splits(shards, config), on_epoch)
    return run


def train_with_outer(shards: Shards, *overrides: str) -> Trainer:
    """The run after its last epoch, without dropout, on `splits_with_outer`."""
    config = load(RunConfig, None, [*SMALL, *overrides])
    run = Trainer(config, shards.card)
    fit(run, splits_with_outer(shards, config))
    return run


def prepared(shards: Shards, *overrides: str) -> tuple[Trainer, list[Batch]]:
    """A run before its first step, and the batches of its first epoch."""
    config = small_config(*overrides)
    run, splits = Trainer(config, shards.card), small_splits(shards, config)
    run.prepare(splits.train.steps)
    return run, list(splits.train.epoch(1))


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    """A copy of theta, by name."""
    return {name: value.detach().clone() for name, value in run.model.named_parameters()}


def moved(run: Trainer, before: dict[str, torch.Tensor]) -> set[str]:
    """The names of the parameters that are no longer as they were."""
    return {name for name, value in run.model.named_parameters() if not torch.equal(value, before[name])}


def same_weights(one: Trainer, other: Trainer) -> bool:
    """Whether two runs have the same weights, bit for bit."""
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def same(one: Trainer, other: Trainer) -> bool:
    """Whether two runs have the same weights and the same metrics, bit for bit."""
    return same_weights(one, other) and rows(one) == rows(other)


def rows(run: Trainer) -> list[Row]:
    """The metrics of all epochs, without the seconds."""
    return without_time(run.history)


def without_time(rows: list[Row]) -> list[Row]:
    """Metrics without the seconds."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def train_until_killed(run: Trainer, its_splits: Splits, file: Path) -> None:
    """Trains until the end of epoch 2, of which `file` holds the checkpoint."""

    class Killed(Exception):
        pass

    def stop_after_two(run: Trainer) -> None:
        if run.epoch == 2:
            checkpoint.save(file, run.state_dict())
            raise Killed

    with pytest.raises(Killed):
        fit(run, its_splits, stop_after_two)
