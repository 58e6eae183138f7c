"""What does checking shards against their checksums cost? Opening and reading them with the check and without it.

    python benchmarks/checksums.py        about 3 minutes on 2 cores, 2 GB of disk

The clips of `data.py`, stored as they are computed (tensor) and compressed. A turn opens the shards anew, as a process
does that has not seen them yet, and takes what the row names: nothing but opening all of them, an epoch of batches
without a network, or an epoch of training the small encoders, for which half as many turns are taken. The turns with
the check and those in which `check_shard` does nothing alternate. "with / without" is the median over pairs of turns of
their CPU seconds, and "interval" is where it lies with 95 % confidence. A process checks a shard once, however many
epochs and runs it takes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from intervals import interval_of_median
from progress import begin
from rows import RunningTable

from data import BATCH, STORAGES, epoch, prepare, write_raw
from lfm_ray.config import RunConfig
from lfm_ray.datasets import shards as module
from lfm_ray.datasets.reading.batches import Order, ReadBatches, from_shards
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import Shards
from lfm_ray.ray_session import ray_session
from lfm_ray.settings import load
from lfm_ray.training.execution import Launch, run_in_process
from lfm_ray.training.source import DataSource

COLUMNS = {"shards": 10, "MB": 6, "what": 18, "CPU s": 7, "with / without": 14, "interval": 13}


def main() -> None:
    """Prints a row for each way of storage and each use."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--turns", type=int, default=11, help="pairs of each row; default 11")
    given = arguments.parse_args()
    begin("3 minutes on 2 cores")
    torch.set_num_threads(1)
    table = RunningTable(COLUMNS)
    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary) / "raw"
        write_raw(raw)
        folders = {}
        with ray_session():
            for name, storage in STORAGES.items():
                folders[name] = prepare(raw / "manifest.csv", Path(temporary) / name, storage).path
        for name, folder in folders.items():
            size = sum(file.stat().st_size for file in folder.glob("*.arrow")) / 1e6
            uses: dict[str, Callable[[Shards], object]] = {
                "opening": Shards.verify,
                "an epoch of batches": batches,
                "training, 1 epoch": lambda shards, runs=Path(temporary) / "runs": train(shards, runs),
            }
            for what, use in uses.items():
                turns = given.turns // 2 + 1 if what.startswith("training") else given.turns
                pairs = [(seconds(folder, use), without_check(folder, use)) for _ in range(turns)]
                ratios = [checked / plain for checked, plain in pairs]
                low, high = interval_of_median(ratios)
                spent = statistics.median(checked for checked, _ in pairs)
                ratio = f"{statistics.median(ratios):.3f}"
                table.add(name, f"{size:.0f}", what, f"{spent:.2f}", ratio, f"{low:.3f}-{high:.3f}")


def seconds(folder: Path, use: Callable[[Shards], object]) -> float:
    """CPU seconds of this process for one use of shards that it has not seen."""
    module._sha256_once.cache_clear()
    started = time.process_time()
    use(Shards(folder))
    return time.process_time() - started


def without_check(folder: Path, use: Callable[[Shards], object]) -> float:
    """The same, of shards that nobody checks."""
    with mock.patch.object(module, "check_shard"):
        return seconds(folder, use)


def batches(shards: Shards) -> None:
    """An epoch of batches of both modalities from mapped files."""
    order = Order(np.arange(shards.card.rows("train")), BATCH, 0, True)
    take = from_shards(shards, "train", ["audio", "video"])
    for _ in epoch(ReadBatches(take, order, Inputs.of(shards.card))):
        pass


def train(shards: Shards, folder: Path) -> None:
    """An epoch of the small encoders."""
    config = load(RunConfig, None, ["epochs=1"])
    with tempfile.TemporaryDirectory(dir=folder.parent) as run:
        run_in_process(Launch(config, DataSource(shards, {}), Path(run) / "run"), lambda row: None)


if __name__ == "__main__":
    main()
