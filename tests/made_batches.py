"""Runs on three made-up batches of sound and images, without shards and without Ray."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tiny_run import SMALL

from lfm_ray.config import RunConfig
from lfm_ray.datasets.reading.batches import Batch
from lfm_ray.datasets.shards import DatasetCard, ModalityCard
from lfm_ray.settings import load
from lfm_ray.training.loop import Splits, fit
from lfm_ray.training.trainer import Trainer

TINY = [*SMALL, "data.batch_size=8", "device=cpu"]
RESNETS = ["model.encoders={audio: {name: resnet18, width: 4}, image: {name: resnet18, width: 4}}"]
SGD = ["optimizer.name=sgd", "optimizer.schedule=constant", "optimizer.learning_rate=0.05"]
LEARNED = ["alpha.strategy=learned", "alpha.outer=held_out", "alpha.inner_iters=1", "alpha.eta_alpha=0.1"]
CARD = DatasetCard(
    modalities={
        "audio": ModalityCard(kind="audio", shape=[1, 33, 40], dtype="float32", mean=0.1, std=1.1),
        "image": ModalityCard(kind="image", shape=[3, 32, 32], dtype="float32", mean=-0.1, std=0.9),
    },
    classes=["a", "b", "c"],
    splits={},
    preprocessing={},
    fingerprint="0",
)


def run_of(*overrides: str) -> Trainer:
    """A run on the CPU, unless it is told otherwise, before its first step."""
    return Trainer(load(RunConfig, None, [*TINY, *overrides]), CARD)


class Made:
    """The same three batches in every epoch."""

    steps = 3

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = []
        for _ in range(self.steps):
            labels = torch.randint(0, 3, (8,), generator=generator)
            inputs = {
                name: torch.randn(8, *card.shape, generator=generator) + labels.view(8, 1, 1, 1)
                for name, card in CARD.modalities.items()
            }
            self.batches.append(Batch(inputs, labels))

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches."""
        yield from self.batches


def trained(*overrides: str) -> Trainer:
    """A run after its last epoch."""
    run = run_of(*overrides)
    fit(run, Splits(Made(), Made(), Made()))
    return run
