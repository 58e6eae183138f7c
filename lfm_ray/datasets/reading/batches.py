"""Batches: which rows make up which step, and batches from memory or from mapped files. No Ray here.

The order of an epoch is a function of (seed, epoch) alone, and a global batch is the same rows
however many ranks share it, so one process and eight take the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lfm_ray.datasets.columns import Columns, gather
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards

ROWS = "/rows"  # no modality has such a name


@dataclass(frozen=True)
class Batch:
    """One step's samples on one rank.

    inputs: modality -> (B, ...) of the shape and dtype that the dataset's card says; labels: (B,) int64;
    rows: (B,) int64, the samples' row numbers in their split; None where the batch is of no dataset.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    rows: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        rows = None if self.rows is None else self.rows.to(device, non_blocking=True)
        return Batch(inputs, self.labels.to(device, non_blocking=True), rows)

    def with_rows(self) -> Batch:
        """The same batch, whose inputs hold the row numbers too, as `ROWS`."""
        assert self.rows is not None
        return replace(self, inputs={**self.inputs, ROWS: self.rows})


class Batches(Protocol):
    """What the loop reads: a split as one rank sees it."""

    @property
    def steps(self) -> int:
        """Batches an epoch, the same on every rank."""
        ...

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


Take = Callable[[np.ndarray, Mapping[str, np.ndarray]], tuple[Columns, np.ndarray]]


@dataclass(frozen=True)
class ReadBatches:
    """The batches of `order`, read and prepared in this process, on its own threads.

    take: row numbers and, for videos, the frames of each -> stored samples and their labels. ahead:
    the next batch is read while the last one is used, which hides the disk behind the training.
    """

    take: Take
    order: Order
    inputs: Inputs
    ahead: bool = False

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return self.order.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`."""
        orders = self.order.epoch(epoch)
        for rows, (columns, labels) in zip(orders, self._read(orders, epoch), strict=True):
            yield Batch(self.inputs(columns, rows, epoch), torch.from_numpy(labels), torch.from_numpy(rows))

    def _read(self, orders: list[np.ndarray], epoch: int) -> Iterator[tuple[Columns, np.ndarray]]:
        def read(rows: np.ndarray) -> tuple[Columns, np.ndarray]:
            return self.take(rows, self.inputs.frames(rows, epoch))

        if not self.ahead:
            yield from map(read, orders)
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(read, orders[0])
            for following in [*orders[1:], None]:
                found = coming.result()
                if following is not None:
                    coming = reader.submit(read, following)
                yield found


def from_memory(columns: Columns, labels: np.ndarray) -> Take:
    """Reads from a whole split in memory, which may be read-only views of Ray's object store."""

    def take(rows: np.ndarray, frames: Mapping[str, np.ndarray]) -> tuple[Columns, np.ndarray]:
        only = np.zeros(len(rows), np.int64)
        return {name: gather([column], only, rows, frames.get(name)) for name, column in columns.items()}, labels[rows]

    return take


def from_shards(shards: Shards, split: str, modalities: Sequence[str]) -> Take:
    """Reads a split from its memory-mapped files, whose pages all processes of a machine share."""

    def take(rows: np.ndarray, frames: Mapping[str, np.ndarray]) -> tuple[Columns, np.ndarray]:
        return shards.take(split, rows, modalities, frames)

    return take
