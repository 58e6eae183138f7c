"""The batch sampler, and batches read from memory or from memory-mapped files. This module does not need Ray.

The order of an epoch depends on (seed, epoch) alone, and a global batch has the same rows however
many ranks share it, so one process and eight take the same training steps.
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
    """One rank's samples of a training step, or of a step of evaluation.

    inputs: modality -> (B, ...) with the shape and dtype of the dataset's card, and of one that some rows lack (B,)
    bool under `columns.presence` of its name; labels: (B,) int64, of several
    labels (B, C) uint8, of numbers (B,) float32, standardised (`lfm_ray.datasets.targets`);
    rows: (B,) int64, the samples' row numbers in their split; None if the batch is not from a dataset.
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
        """The same batch, with the row numbers added to its inputs as `ROWS`."""
        assert self.rows is not None
        return replace(self, inputs={**self.inputs, ROWS: self.rows})


class Batches(Protocol):
    """What the training loop iterates over: one rank's share of a split."""

    @property
    def steps(self) -> int:
        """Batches per epoch, the same on every rank."""
        ...

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`, counted from 1."""
        ...


@dataclass(frozen=True)
class Order:
    """The batch sampler: the rows of every batch of an epoch, on one rank of several.

    rows: row numbers of the split to sample from; batch_size: the most rows in a global batch. The
    batches of an epoch differ in size by at most one row, and so do the ranks' shares: no row is
    dropped or repeated. Without `shuffle` the rows keep their order.
    """

    rows: np.ndarray
    batch_size: int
    seed: int
    shuffle: bool
    rank: int = 0
    world_size: int = 1

    @property
    def steps(self) -> int:
        """Batches per epoch."""
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

    take: row numbers and, for videos, the frame numbers of each row -> stored samples and labels. ahead:
    whether to read the next batch while the current one is in use, which hides disk access behind training.
    """

    take: Take
    order: Order
    inputs: Inputs
    ahead: bool = False

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self.order.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`."""
        orders = self.order.epoch(epoch)
        for rows, (columns, labels) in zip(orders, self._read(orders, epoch), strict=True):
            yield Batch(self.inputs(columns, rows, epoch), self.inputs.labels(labels), torch.from_numpy(rows))

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
    """Reads from a split held in memory, whose arrays may be read-only views of Ray's object store."""

    def take(rows: np.ndarray, frames: Mapping[str, np.ndarray]) -> tuple[Columns, np.ndarray]:
        only = np.zeros(len(rows), np.int64)
        return {name: gather([column], only, rows, frames.get(name)) for name, column in columns.items()}, labels[rows]

    return take


def from_shards(shards: Shards, split: str, modalities: Sequence[str]) -> Take:
    """Reads a split from its memory-mapped files, whose pages all processes of a machine share."""

    def take(rows: np.ndarray, frames: Mapping[str, np.ndarray]) -> tuple[Columns, np.ndarray]:
        return shards.take(split, rows, modalities, frames)

    return take
