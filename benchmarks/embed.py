"""How much faster an epoch is on features of a frozen model than with the model: ResNet-18 and ViT-S, random weights.

    python benchmarks/embed.py                             about 10 minutes on 2 cores

Images of 224 pixels beside a spectrogram with a small encoder, batches of 32, on the CPUs that this process may use:
an epoch that trains the large encoder, one that keeps it frozen in every step, and one on its features
(`lfm_ray.prepare --embed`). Validation is part of an epoch.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from progress import begin, say
from rich.console import Console
from rows import RunningTable

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import CARD, DatasetCard, ModalityCard, ShardFile, Shards, sha256, write_shard
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Trainer
from lfm_ray.workflows.embedding import embed

ROWS = {"train": 128, "val": 32}
MODELS = {
    "ResNet-18": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    ),
    "ViT-S/16": lambda: transformers.ViTModel(
        transformers.ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    ),
}


def write_dataset(folder: Path) -> Path:
    """Random images and spectrograms of two classes."""
    folder.mkdir()
    random, splits = np.random.default_rng(0), {}
    for split, rows in ROWS.items():
        file = folder / f"{split}-00000.arrow"
        arrays = {
            "image": random.integers(0, 256, (rows, 3, 224, 224), dtype=np.uint8),
            "audio": random.normal(size=(rows, 1, 64, 64)).astype(np.float16),
        }
        write_shard(file, [f"{split}{i}" for i in range(rows)], [i % 2 for i in range(rows)], arrays)
        splits[split] = [ShardFile(file=file.name, rows=rows, sha256=sha256(file))]
    modalities = {
        "image": ModalityCard(kind="image", shape=[3, 224, 224], dtype="uint8", mean=127.5, std=74),
        "audio": ModalityCard(kind="audio", shape=[1, 64, 64], dtype="float16", mean=0, std=1),
    }
    card = DatasetCard(
        modalities=modalities, classes=["a", "b"], splits=splits, preprocessing={}, fingerprint=folder.name
    )
    (folder / CARD).write_text(json.dumps(card.model_dump(mode="json")))
    return folder


def seconds_an_epoch(shards: Shards, epochs: int, *settings: str) -> float:
    """The shortest of some epochs after the first."""
    config = load(RunConfig, None, [f"epochs={epochs}", "data.batch_size=32", *settings])
    run = Trainer(config, shards.card)
    rows = fit(run, DataSource(shards, {}).splits(config))
    return min(row["seconds"] for row in rows[1:])


def main() -> None:
    """Prints the table."""
    begin("about 10 minutes on 2 cores")
    columns = ("image encoder", "trained", "frozen, every step", "features", "times faster than frozen", "embed, s")
    title = f"s an epoch of {ROWS['train']} + {ROWS['val']} rows, {os.cpu_count()} CPUs"
    table = RunningTable({name: len(name) for name in columns}, title)
    with tempfile.TemporaryDirectory() as scratch:
        source = Shards(write_dataset(Path(scratch) / "shards"))
        for name, make in MODELS.items():
            torch.manual_seed(0)
            model, out = Path(scratch) / name.replace("/", "-"), Path(scratch) / f"features-{name.replace('/', '-')}"
            make().save_pretrained(model)
            encoder = f"model.encoders.image={{name: auto, pretrained: {model}"
            frozen = seconds_an_epoch(source, 2, f"{encoder}, frozen: true}}")
            say(f"{name}: {frozen:.3g} s an epoch, frozen at every step")
            trained = seconds_an_epoch(source, 2, f"{encoder}}}")
            say(f"{name}: {trained:.3g} s an epoch, trained")
            began = time.perf_counter()
            features, _ = embed(source.path, out, {"image": str(model)}, {}, address=None, console=Console(quiet=True))
            took = time.perf_counter() - began
            alone = seconds_an_epoch(features, 4)
            cells = trained, frozen, alone
            table.add(name, *(f"{cell:.3g}" for cell in cells), f"{frozen / alone:.0f}", f"{took:.1f}")


if __name__ == "__main__":
    main()
