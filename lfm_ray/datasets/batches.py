"""Batches: which rows make up which step, and batches from arrays in memory. No Ray here.

The order of an epoch is a function of (seed, epoch) alone, and a global batch is the same rows
however many ranks share it, so one process and eight take the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One step's samples on one rank.

    inputs: modality -> (B, ...) in the dtype of the shards; labels: (B,) int64.
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        return Batch(inputs, self.labels.to(device, non_blocking=True))


class Batches(Protocol):
    """What the loop reads: a split as one rank sees it."""

    steps: int
    """Batches an epoch, the same on every rank."""

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`, counted from 1."""
        ...


@dataclass(frozen=True)
class Order:
    """Which rows every step of an epoch takes, on one rank of several.

    rows: the row numbers of the split that take part; a global batch has at most `batch_size` of
    them. The batches of an epoch differ by at most one row, and so do the shares of the ranks: no
    row is dropped and none is taken twice. An unshuffled order keeps the rows as they stand.
    """

    rows: np.ndarray
    batch_size: int
    seed: int
    shuffle: bool
    rank: int = 0
    world_size: int = 1

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return -(-len(self.rows) // self.batch_size)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Row numbers of this rank's share of each batch; a share can be empty."""
        rows = self.rows
        if self.shuffle:
            rows = np.random.default_rng((self.seed, epoch)).permutation(rows)
        return [np.array_split(batch, self.world_size)[self.rank] for batch in np.array_split(rows, self.steps)]


class ArrayBatches:
    """Batches from a whole split in memory: modality -> (N, ...) array, labels (N,) int64.

    The arrays may be read-only views of a memory map or of Ray's object store; rows are copied out
    of them one batch at a time.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], labels: np.ndarray, order: Order) -> None:
        self.arrays, self.labels, self.order = arrays, labels, order
        self.steps = order.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`."""
        for rows in self.order.epoch(epoch):
            inputs = {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items()}
            yield Batch(inputs, torch.from_numpy(self.labels[rows]))
