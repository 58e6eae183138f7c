"""A small dataset folder, written without Ray: two shards of train, one of val."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lfm_ray.datasets.kinds import Kind
from lfm_ray.datasets.shards import CARD, DatasetCard, ModalityCard, ShardFile, sha256, write_shard

ROWS = {"train": [5, 3], "val": [4]}


def content(rows: int, seed: int) -> dict[str, np.ndarray]:
    """The arrays of shard `seed`."""
    random = np.random.default_rng(seed)
    return {
        "sound": random.normal(size=(rows, 1, 3, 4)).astype(np.float16),
        "picture": random.integers(0, 256, (rows, 3, 2, 2), dtype=np.uint8),
        "words": random.integers(0, 257, (rows, 6)).astype(np.int16),
    }


def write(folder: Path) -> Path:
    """Writes the dataset into an existing folder."""
    splits: dict[str, list[ShardFile]] = {}
    for split, counts in ROWS.items():
        splits[split] = []
        for number, rows in enumerate(counts):
            name = f"{split}-{number:05d}.arrow"
            write_shard(folder / name, [f"{number}/{row}" for row in range(rows)], range(rows), content(rows, number))
            splits[split].append(ShardFile(file=name, rows=rows, sha256=sha256(folder / name)))
    kinds: dict[str, Kind] = {"sound": "audio", "picture": "image", "words": "text"}
    modalities = {
        name: ModalityCard(
            kind=kinds[name], shape=list(array.shape[1:]), dtype=array.dtype.name, mean=0, std=1, vocabulary=257
        )
        for name, array in content(1, 0).items()
    }
    card = DatasetCard(modalities=modalities, classes=list("abcde"), splits=splits, preprocessing={}, fingerprint="0")
    (folder / CARD).write_text(card.model_dump_json())
    return folder
