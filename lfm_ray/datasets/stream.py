"""Shards -> arrays or batches through Ray Data, for data that should not be read by one process alone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import ray.data
import torch

from lfm_ray.datasets.batches import Batch, Order
from lfm_ray.datasets.shards import Arrays, Shards

LABELS = "label"
BLOCK_BYTES = 64 * 2**20


def load_arrays(shards: Shards, split: str, modalities: Sequence[str] | None = None) -> tuple[Arrays, np.ndarray]:
    """A whole split, in order, read by the cluster's tasks; types as in `Shards.arrays`."""
    rows = shards.card.rows(split)
    arrays, labels = shards.take(split, np.zeros(0, np.int64), modalities)
    arrays = {name: np.empty((rows, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
    labels = np.empty(rows, labels.dtype)
    blocks = np.array_split(np.arange(rows), max(1, -(-shards.nbytes(split, modalities) // BLOCK_BYTES)))
    for block, fetched in zip(blocks, _fetch(shards, split, modalities, blocks), strict=True):
        labels[block] = fetched.pop(LABELS)
        for name, values in fetched.items():
            arrays[name][block] = values
    return arrays, labels


class StreamBatches:
    """The batches of `order`, each fetched by a task of Ray Data while earlier ones are used.

    It gives what `ArrayBatches` gives for the same order, without holding the split in memory.
    """

    def __init__(self, shards: Shards, split: str, modalities: Sequence[str] | None, order: Order) -> None:
        self.shards, self.split, self.modalities, self.order = shards, split, modalities, order
        self.steps = order.steps

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of epoch `epoch`."""
        batches = self.order.epoch(epoch)
        fetched = _fetch(self.shards, self.split, self.modalities, [rows for rows in batches if len(rows)])
        for rows in batches:
            if len(rows):
                arrays = next(fetched)
                labels = arrays.pop(LABELS)
            else:  # a rank's share of a small batch
                arrays, labels = self.shards.take(self.split, rows, self.modalities)
            yield Batch({name: torch.from_numpy(array) for name, array in arrays.items()}, torch.from_numpy(labels))


def quiet() -> None:
    """Keeps Ray Data's progress bars and notices off the terminal; its log files stay complete."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)


def _fetch(
    shards: Shards, split: str, modalities: Sequence[str] | None, blocks: Iterable[np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """The given blocks of rows in order: modality -> writable array, and the labels."""
    items = [{"rows": rows} for rows in blocks]
    if not items:
        return
    quiet()
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    dataset.context.execution_options.preserve_order = True
    # Fetching asks for no CPU: trials that hold all of them would otherwise wait for it for ever.
    compute = ray.data.TaskPoolStrategy(size=max(1, min(len(items), int(ray.cluster_resources().get("CPU", 1)))))
    names = list(shards.card.modalities) if modalities is None else list(modalities)
    key = (str(shards.path.absolute()), shards.card.fingerprint)
    fetched = dataset.map(lambda item: _take(*key, split, item["rows"], names), num_cpus=0, compute=compute)
    for row in fetched.iter_rows():
        yield {name: np.array(value) for name, value in row.items()}


def _take(path: str, fingerprint: str, split: str, rows: np.ndarray, names: list[str]) -> dict[str, Any]:
    arrays, labels = _opened(path, fingerprint).take(split, rows, names)
    return {**arrays, LABELS: labels}


@functools.lru_cache(maxsize=4)
def _opened(path: str, fingerprint: str) -> Shards:
    """A worker's own view of a dataset, whose files stay open from task to task."""
    return Shards(path)
