"""Records learning curves of random configurations, which `benchmarks/search.py` replays in seconds.

    OMP_NUM_THREADS=1 nice python benchmarks/record_curves.py PATH/TO/av-digits     an hour or two on one core
    python benchmarks/record_curves.py --pack benchmarks/curves.parquet             what is recorded so far

PATH/TO/av-digits is what benchmarks/av_digits.py takes, prepared as it does. Configurations are drawn
at random from search_spaces/alpha_schedule.yaml, its known points first, and trained for 24 epochs.
Every epoch is recorded with all validation metrics, and with two closed-form probes of the embeddings
that are fitted to 500 training samples (ridge regression, nearest class mean). Then the same
configurations are trained again with their whole schedule compressed into 6, 12, 4 and 8 epochs, and
some with other seeds. It can be interrupted at any time, and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch
from progress import begin
from rich.console import Console
from torch import Tensor

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batches, Order
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import TrainingFailed
from lfm_ray.models.classifier import Outputs
from lfm_ray.resources import shipped_file
from lfm_ray.search.spaces.space import Space
from lfm_ray.search.spaces.space_file import load_space
from lfm_ray.settings import flatten
from lfm_ray.training.loop import fit
from lfm_ray.training.source import DataSource
from lfm_ray.training.trainer import Row, Trainer

EPOCHS, COMPRESSED = 24, (6, 12, 4, 8)
CONFIGURATIONS, MORE, OTHER_SEEDS, SEEDED = 80, 120, (1, 2), 20
PROBED = 500  # training samples that the probes are fitted to
PREPARE = [
    "limit.train=1000", "audio.n_fft=256", "audio.hop=160", "audio.n_mels=32", "audio.seconds=0.64",
    "noise.audio=0.8", "noise.image=1.5",
]  # fmt: skip


def jobs() -> Iterator[tuple[int, int, int]]:
    """What is trained, most important first: number of the configuration, T, seed."""
    first = range(CONFIGURATIONS)
    yield from ((n, EPOCHS, 0) for n in first)
    for epochs in COMPRESSED[:2]:
        yield from ((n, epochs, 0) for n in first)
    yield from ((n, EPOCHS, seed) for seed in OTHER_SEEDS for n in range(SEEDED))
    for epochs in COMPRESSED[2:]:
        yield from ((n, epochs, 0) for n in first)
    yield from ((n, epochs, 0) for epochs in (EPOCHS, *COMPRESSED) for n in range(CONFIGURATIONS, MORE))


def drawn(space: Space) -> list[dict[str, object]]:
    """The settings of every configuration: the space's known points, then random ones."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.known_points().values():
        study.enqueue_trial(point)
    return [space.suggest(study.ask()) for _ in range(MORE)]


def record(config: RunConfig, source: DataSource) -> list[Row]:
    """Trains a configuration; every epoch's row, with the probes of its embeddings."""
    rows = np.arange(source.shards.card.rows("train"))
    some = source.batches("train", Order(np.random.default_rng(0).permutation(rows)[:PROBED], 250, 0, False), config)
    val = source.evaluation("val", config)

    def add_probes(run: Trainer) -> None:
        train, train_labels = embeddings(run, some)
        held_out, labels = embeddings(run, val)
        for name in train:
            for probe in (ridge, class_mean):
                scores = probe(train[name], train_labels, held_out[name])
                run.history[-1][f"{probe.__name__}/{name}"] = float((scores.argmax(dim=1) == labels).double().mean())

    return fit(Trainer(config, source.shards.card), source.splits(config), add_probes)


def embeddings(run: Trainer, batches: Batches) -> tuple[dict[str, Tensor], Tensor]:
    """Of each modality (N, d), and of all side by side under `fused`; labels (N,)."""
    run.model.eval()
    with torch.no_grad():
        parts = [(run.model(batch.inputs), batch.labels) for batch in batches.epoch(1)]
    run.model.train()
    found = {name: value.double() for name, value in Outputs.join([outputs for outputs, _ in parts]).embeddings.items()}
    return {"fused": torch.cat(list(found.values()), dim=1), **found}, torch.cat([labels for _, labels in parts])


def ridge(train: Tensor, labels: Tensor, held_out: Tensor, strength: float = 1.0) -> Tensor:
    """Scores (N, C) of a ridge regression on one-hot labels; features are standardised, as on `train`."""
    mean, std = train.mean(dim=0), train.std(dim=0) + 1e-6
    x, z = (train - mean) / std, (held_out - mean) / std
    y = torch.nn.functional.one_hot(labels).double()
    penalty = strength * len(x) / 100 * torch.eye(x.shape[1], dtype=torch.float64)
    return z @ torch.linalg.solve(x.T @ x + penalty, x.T @ (y - y.mean(dim=0))) + y.mean(dim=0)


def class_mean(train: Tensor, labels: Tensor, held_out: Tensor) -> Tensor:
    """Minus the distance (N, C) to the mean of each class."""
    means = torch.stack([train[labels == c].mean(dim=0) for c in range(int(labels.max()) + 1)])
    return -torch.cdist(held_out, means)


def prepared(data: Path, out: Path) -> Path:
    """The shards; made unless they are there."""
    shards = out / "shards"
    if not (shards / "dataset.json").exists():
        settings = [word for setting in PREPARE for word in ("--set", setting)]
        media = [data / "manifest.csv", "--audio", "audio", "--image", "image", "--out", shards]
        subprocess.run([sys.executable, "-m", "lfm_ray.prepare", *map(str, media), *settings], check=True)
    return shards


def pack(recorded: list[dict], file: Path) -> None:
    """Writes the compact table: one row for each epoch of each training, settings beside its metrics."""
    rows = [
        {"configuration": line["configuration"], "T": line["T"], "seed": line["seed"]}
        | {f"setting/{name}": value for name, value in line["settings"].items()}
        | row
        for line in recorded
        for row in line["rows"]
    ]
    frame = pd.DataFrame(rows)
    coefficients = frame.pop("setting/alpha.coefficients")
    for i in range(4):
        frame[f"setting/alpha.coefficients.{i}"] = [c[i] if isinstance(c, list) else np.nan for c in coefficients]
    numbers = frame.select_dtypes("float").columns
    frame[numbers] = frame[numbers].astype("float32")
    for name in ("configuration", "T", "seed", "epoch"):
        frame[name] = frame[name].astype("int16")
    frame.to_parquet(file, compression="zstd", index=False)


def main() -> None:
    """Records what is not yet recorded, or packs it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, nargs="?")
    arguments.add_argument("--out", type=Path, default=Path("runs/curves"), help="shards and curves.jsonl")
    arguments.add_argument("--pack", type=Path, metavar="FILE", help="write the compact table, and record nothing")
    given = arguments.parse_args()
    console, file = Console(highlight=False), given.out / "curves.jsonl"
    recorded = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    if given.pack:
        pack(recorded, given.pack)
        console.print(f"{len(recorded)} trainings, {given.pack.stat().st_size / 1e6:.2f} MB in {given.pack}")
        return

    begin("an hour or two on one core; what is recorded is not repeated")
    torch.set_num_threads(1)
    shards = prepared(given.data, given.out)
    source = DataSource(Shards(shards.absolute()), {})
    space = load_space(shipped_file("search_spaces/alpha_schedule.yaml"), [f"data.path={shards}"])
    settings = drawn(space)
    done = {(line["configuration"], line["T"], line["seed"]) for line in recorded}
    for n, epochs, seed in jobs():
        if (n, epochs, seed) in done:
            continue
        started = time.perf_counter()
        config = space.config({**settings[n], "epochs": epochs, "seed": seed})
        try:
            rows = record(config, source)
        except TrainingFailed:
            rows = []
        line = {"configuration": n, "T": epochs, "seed": seed, "settings": chosen(config), "rows": rows}
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        reached = f"{rows[-1]['val/fused/accuracy']:.3f}" if rows else "failed"
        seconds = time.perf_counter() - started
        console.print(f"{n:3d} T {epochs:2d} seed {seed} {config.alpha.strategy:10s} {reached}  {seconds:.1f} s")


def chosen(config: RunConfig) -> dict[str, object]:
    """The settings that differ between configurations."""
    values = flatten(config.model_dump(mode="json"))
    names = ("alpha.", "loss.matching", "loss.tau", "optimizer.learning_rate")
    return {name: value for name, value in values.items() if name.startswith(names)}


if __name__ == "__main__":
    main()
