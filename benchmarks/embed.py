"""How much faster an epoch is on features of a frozen model than with the model: ResNet-18 and ViT-S, random weights.

    python benchmarks/embed.py                             about 10 minutes on 2 cores
    python benchmarks/embed.py --threads 1 --frozen        on one core, as a trial of a sweep, no epoch that trains it

Images of 224 pixels, batches of 32, on the CPUs that this process may use: an epoch that trains the large encoder, one
that keeps it frozen in every step, and one on its features (`lfm_ray.prepare --embed`). Validation is part of an epoch.
The other modality is a spectrogram with a small encoder, which then takes most of an epoch on features, or features
of its own, such as those of another frozen model, so that there is no encoder at all. The figures are those of the
shortest of some epochs: seconds by the clock and, in brackets, of all cores together, which a machine that does
something else as well hardly changes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
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
WIDTH = 384  # of features
BESIDE = {"audio": "a spectrogram", "vector": "features"}
MODELS = {
    "ResNet-18": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    ),
    "ViT-S/16": lambda: transformers.ViTModel(
        transformers.ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
    ),
}


def write_dataset(folder: Path) -> Path:
    """Random images, spectrograms and features of two classes."""
    folder.mkdir()
    random, splits = np.random.default_rng(0), {}
    for split, rows in ROWS.items():
        file = folder / f"{split}-00000.arrow"
        arrays = {
            "image": random.integers(0, 256, (rows, 3, 224, 224), dtype=np.uint8),
            "audio": random.normal(size=(rows, 1, 64, 64)).astype(np.float16),
            "vector": random.normal(size=(rows, WIDTH)).astype(np.float32),
        }
        write_shard(file, [f"{split}{i}" for i in range(rows)], [i % 2 for i in range(rows)], arrays)
        splits[split] = [ShardFile(file=file.name, rows=rows, sha256=sha256(file))]
    modalities = {
        "image": ModalityCard(kind="image", shape=[3, 224, 224], dtype="uint8", mean=127.5, std=74),
        "audio": ModalityCard(kind="audio", shape=[1, 64, 64], dtype="float16", mean=0, std=1),
        "vector": ModalityCard(kind="feature", shape=[WIDTH], dtype="float32", mean=0, std=1),
    }
    card = DatasetCard(
        modalities=modalities, classes=["a", "b"], splits=splits, preprocessing={}, fingerprint=folder.name
    )
    (folder / CARD).write_text(json.dumps(card.model_dump(mode="json")))
    return folder


@dataclass(frozen=True)
class Seconds:
    """The shortest of some epochs after the first: by the clock, and of all cores together."""

    clock: float
    cores: float

    def __str__(self) -> str:
        return f"{self.clock:.3g} ({self.cores:.3g})"


def seconds_an_epoch(shards: Shards, epochs: int, *settings: str) -> Seconds:
    """Of a run with these settings."""
    config = load(RunConfig, None, [f"epochs={epochs}", "data.batch_size=32", *settings])
    run, cores = Trainer(config, shards.card), [time.process_time()]
    rows = fit(run, DataSource(shards, {}).splits(config), lambda _: cores.append(time.process_time()))
    return Seconds(min(row["seconds"] for row in rows[1:]), float(np.diff(cores)[1:].min()))


def main() -> None:
    """Prints the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    arguments.add_argument("--frozen", action="store_true", help="leave out the epochs that train the large encoder")
    arguments.add_argument("--threads", type=int, help="of PyTorch; 1 as in a trial of a sweep; default: all CPUs")
    given = arguments.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    begin("about 10 minutes on 2 cores")
    columns = {
        "image encoder, beside": 24,
        "trained": 16,
        "frozen, every step": 18,
        "features": 16,
        "times faster than frozen": 24,
        "embed, s": 8,
    }
    table = RunningTable(columns, f"s an epoch of {ROWS['train']} + {ROWS['val']} rows, {os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as scratch:
        source = Shards(write_dataset(Path(scratch) / "shards"))
        for name in given.models:
            torch.manual_seed(0)
            model, out = Path(scratch) / name.replace("/", "-"), Path(scratch) / f"features-{name.replace('/', '-')}"
            MODELS[name]().save_pretrained(model)
            encoder = f"model.encoders.image={{name: auto, pretrained: {model}"
            began = time.perf_counter()
            features, _ = embed(source.path, out, {"image": str(model)}, {}, address=None, console=Console(quiet=True))
            took = time.perf_counter() - began
            for other, what in BESIDE.items():
                both = f"data.modalities=[image,{other}]"
                alone = seconds_an_epoch(features, 20, both)
                say(f"{name} beside {what}: {alone} s an epoch on features")
                frozen = seconds_an_epoch(source, 3, both, f"{encoder}, frozen: true}}")
                say(f"{name} beside {what}: {frozen} s an epoch, frozen at every step")
                trained = None if given.frozen else seconds_an_epoch(source, 2, both, f"{encoder}}}")
                faster = f"{frozen.clock / alone.clock:.0f} ({frozen.cores / alone.cores:.0f})"
                cells = str(trained or ""), str(frozen), str(alone), faster
                table.add(f"{name}, {what}", *cells, f"{took:.1f}")


if __name__ == "__main__":
    main()
