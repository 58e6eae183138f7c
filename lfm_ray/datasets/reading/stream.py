"""Shards -> batches through Ray Data, on CPUs other than those of the training workers."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.data
import torch

from lfm_ray.datasets.reading.batches import Batch, Order
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.storage import name_of

LABELS = "label"
READER_CPUS = 0.99  # per task, which leaves a little for the drivers of trials with several workers


@dataclass(frozen=True)
class StreamBatches:
    """The batches of `order`, each read and prepared by a Ray Data task while earlier ones are in use.

    They equal those of `ReadBatches`. A task takes one CPU (`READER_CPUS`), and at most `cpus` of them run at once.
    """

    shards: Shards
    split: str
    order: Order
    inputs: Inputs
    cpus: int

    @property
    def steps(self) -> int:
        """Batches per epoch."""
        return self.order.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`."""
        quiet()
        batches = self.order.epoch(epoch)
        prepared = self._prepared([rows for rows in batches if len(rows)], epoch)
        for rows in batches:
            # A rank's share of a small batch can be empty; there is nothing to fetch then.
            values = next(prepared) if len(rows) else _prepare(self.shards, self.split, self.inputs, rows, epoch)
            labels = self.inputs.labels(values.pop(LABELS))
            inputs = {name: torch.from_numpy(value) for name, value in values.items()}
            yield Batch(inputs, labels, torch.from_numpy(rows))

    def _prepared(self, batches: list[np.ndarray], epoch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields for each batch, in order, modality -> (B, ...) writable array, and the labels."""
        if not batches:
            return
        dataset = ray.data.from_items([{"rows": rows} for rows in batches], override_num_blocks=len(batches))
        dataset.context.execution_options.preserve_order = True
        key = (name_of(self.shards.path), self.shards.card.fingerprint)
        split, inputs = self.split, self.inputs

        def task(item: dict[str, Any]) -> dict[str, np.ndarray]:
            torch.set_num_threads(1)  # the task asked for one CPU
            return _prepare(_opened(*key), split, inputs, item["rows"], epoch)

        compute = ray.data.TaskPoolStrategy(size=self.cpus)
        for row in dataset.map(task, num_cpus=READER_CPUS, compute=compute).iter_rows():
            yield {name: np.array(value) for name, value in row.items()}


def quiet() -> None:
    """Keeps Ray Data's progress bars and notices off the terminal; its log files stay complete."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)


def _prepare(shards: Shards, split: str, inputs: Inputs, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
    columns, labels = shards.take(split, rows, list(inputs.modalities), inputs.frames(rows, epoch))
    return {name: value.numpy() for name, value in inputs(columns, rows, epoch).items()} | {LABELS: labels}


@functools.lru_cache(maxsize=4)
def _opened(path: str, fingerprint: str) -> Shards:
    """This process's view of a dataset, cached so that its files stay open from task to task."""
    return Shards(path, trusted=True)  # the command has looked at it
