"""A dataset of made-up samples, written in milliseconds: two modalities whose means tell the class."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.datasets.shards import CARD, DatasetCard, ModalityCard, ShardFile, Shards, sha256, write_shard
from lfm_ray.datasets.targets import TargetCard

CLASSES = 3
LABELS: dict[TargetKind, Callable[[np.ndarray], np.ndarray]] = {
    "classes": lambda labels: labels,
    "multilabel": lambda labels: np.array([[1, 0], [0, 1], [1, 1]], np.uint8)[labels],
    "regression": lambda labels: 100.0 + 10 * labels,
}


def write_dataset(
    folder: Path, train: int = 48, val: int = 24, test: int = 24, noise: float = 1.0, more: tuple[str, ...] = (),
    kind: TargetKind = "classes",
) -> Path:  # fmt: skip
    """Writes shards with `audio` (1, 8, 8) float16 and `image` (1, 8, 8) uint8, three balanced classes.

    more: names of further modalities, which are images too. kind: what the labels are made of: the class; label `a` or
    `b` and, of the third class, both; or 10 times the class plus 100.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    images = ("image", *more)
    patterns = {name: random.normal(size=(CLASSES, 1, 8, 8)) for name in ("audio", *images)}
    splits = {}
    for split, rows in {"train": train, "val": val, "test": test}.items():
        labels = np.arange(rows) % CLASSES
        audio = patterns["audio"][labels] + noise * random.normal(size=(rows, 1, 8, 8))
        arrays = {"audio": audio.astype(np.float16)}
        for name in images:
            image = 128 + 30 * (patterns[name][labels] + noise * random.normal(size=(rows, 1, 8, 8)))
            arrays[name] = image.clip(0, 255).astype(np.uint8)
        file = folder / f"{split}-00000.arrow"
        write_shard(file, [f"{split}-{i}" for i in range(rows)], LABELS[kind](labels), arrays)
        splits[split] = [ShardFile(file=file.name, rows=rows, sha256=sha256(file))]
    card = DatasetCard(
        modalities={
            "audio": ModalityCard(kind="audio", shape=[1, 8, 8], dtype="float16", mean=0.0, std=1.4),
            **{
                name: ModalityCard(kind="image", shape=[1, 8, 8], dtype="uint8", mean=128.0, std=40.0)
                for name in images
            },
        },
        target=TargetCard(kind=kind, **({"mean": 110.0, "std": 8.0} if kind == "regression" else {})),
        classes={"classes": list("012"), "multilabel": list("ab"), "regression": []}[kind],
        splits=splits,
        preprocessing={},
        fingerprint="synthetic",
    )
    (folder / CARD).write_text(json.dumps(card.model_dump(mode="json")), encoding="utf-8")
    return folder


def with_gaps(folder: Path, rare: bool = False) -> Shards:
    """The dataset of `synthetic.py`, where rows lack audio or image, never both; rare: few rows have an image."""
    shards = Shards(write_dataset(folder))
    splits: dict[str, list[ShardFile]] = {}
    missing: dict[str, dict[str, int]] = {"audio": {}, "image": {}}
    for split, (file,) in shards.card.splits.items():
        columns, labels = shards.arrays(split)
        number = np.arange(len(labels))
        there = {"audio": number % 5 != 0, "image": number % 12 == 0 if rare else number % 4 != 1}
        there["audio"] |= ~there["image"]
        there["image"] |= ~there["audio"]
        path = folder / f"{split}-00001.arrow"
        write_shard(path, shards.ids(split), labels, columns, there)
        splits[split] = [file.model_copy(update={"file": path.name, "sha256": sha256(path)})]
        for name, one in there.items():
            missing[name][split] = int((~one).sum())
    modalities = {
        name: one.model_copy(update={"missing": {split: rows for split, rows in missing[name].items() if rows}})
        for name, one in shards.card.modalities.items()
    }
    card = shards.card.model_copy(update={"splits": splits, "modalities": modalities, "fingerprint": f"gaps {rare}"})
    (folder / CARD).write_text(card.to_json())
    return Shards(folder)
