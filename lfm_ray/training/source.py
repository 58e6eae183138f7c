"""What a run reads: the shards of a sweep, in memory or on disk, and its splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
import rich.progress

from lfm_ray import storage
from lfm_ray.config import RunConfig
from lfm_ray.console import console
from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.datasets.reading.batches import Batches, Order, ReadBatches, from_memory, from_shards
from lfm_ray.datasets.reading.inputs import Inputs, seen
from lfm_ray.datasets.reading.stream import StreamBatches
from lfm_ray.datasets.shards import Shards
from lfm_ray.errors import UserError
from lfm_ray.models.classifier import check_model
from lfm_ray.models.evaluation import evaluated_names
from lfm_ray.optimization.schedules import Adaptive
from lfm_ray.runtime import distributed
from lfm_ray.settings import nearest
from lfm_ray.training.loop import Splits


def check_best(config: RunConfig, modalities: Iterable[str], kind: TargetKind = "classes") -> None:
    """Checks that a run has the metric by which its best epoch is chosen.

    Raises:
        UserError: it has none of that name.
    """
    best = config.checkpoint.best
    known = [f"val/{name}" for name in (*evaluated_names(list(modalities), kind), *config.metrics)]
    if best is not None and best not in known:
        raise UserError(f"checkpoint.best: unknown metric {best}{nearest(best, known)}")


@dataclass(frozen=True)
class DataSource:
    """The shards of a sweep, in the object store when they are small, else read from disk as they are needed.

    In both cases all trials of a node share one copy: views of the object store, or pages of mapped
    files. Each prepares its batches in its own process, on the CPUs that were reserved for it; with
    `data.reader_cpus`, tasks of Ray Data do, on CPUs that are reserved beside those.
    """

    shards: Shards
    in_memory: dict[str, ray.ObjectRef[Any]]

    @classmethod
    def open(cls, config: RunConfig, splits: tuple[str, ...] = ("train", "val")) -> DataSource:
        """Opens the shards that `config` names, and loads them if they are small enough.

        Raises:
            UserError: the folder is no dataset, or lacks a modality or a split.
        """
        shards = Shards(storage.working_folder(config.data.path).absolute())
        if storage.in_store(shards.path):
            text = f"copying {config.data.path} to this machine"
            shards.fetch(splits, partial(rich.progress.track, description=text, console=console, transient=True))
        modalities = config.data.modalities
        size = sum(shards.nbytes(split, modalities) for split in splits)
        check_best(config, modalities or shards.card.modalities, shards.card.target.kind)
        config.check_target(shards.card)
        config.check_missing(shards.card)
        config.method.check_modalities(list(modalities or shards.card.modalities))
        check_model(config.model, seen(shards.card, config.data))
        store = ray.cluster_resources().get("object_store_memory", 0.0)
        in_memory = {}
        if size <= config.data.memory_share * store and not config.data.reader_cpus:
            in_memory = {split: ray.put(shards.arrays(split, modalities)) for split in splits}
        return cls(shards, in_memory)

    def fetch(self, measure: str | None = None) -> None:
        """Copies what a run reads to this node, where it is in an object store of the shards and not here yet."""
        if not self.in_memory:
            self.shards.fetch(("train", "val", *([measure] if measure else [])))

    def batches(self, split: str, order: Order, config: RunConfig, training: bool = False) -> Batches:
        """The batches of a split in the given order; `training` says whether they are augmented."""
        inputs = Inputs.of(self.shards.card, config.data, config.seed, training)
        if config.data.reader_cpus:
            return StreamBatches(self.shards, split, order, inputs, config.data.reader_cpus)
        if split in self.in_memory:
            return ReadBatches(from_memory(*ray.get(self.in_memory[split])), order, inputs)
        return ReadBatches(from_shards(self.shards, split, list(inputs.modalities)), order, inputs, ahead=True)

    def class_counts(self, modalities: Sequence[str] | None = None) -> list[int]:
        """How many rows of the training split each class has, of those with one of these modalities (None: of all)."""
        if "train" in self.in_memory:
            labels = ray.get(self.in_memory["train"])[1]
        else:
            labels = self.shards.take("train", np.arange(self.shards.card.rows("train")), [])[1]
        labels = labels[self.shards.usable("train", modalities)]
        return np.bincount(labels, minlength=len(self.shards.card.classes)).tolist()

    def evaluation(self, split: str, config: RunConfig) -> Batches:
        """A whole split, in its own order, for evaluation; rows that have none of the run's modalities are left out."""
        rank, world_size = distributed.rank_and_world_size()
        rows = self.shards.usable(split, config.data.modalities)
        return self.batches(split, Order(rows, max(256, config.data.batch_size), 0, False, rank, world_size), config)

    def splits(self, config: RunConfig) -> Splits:
        """What a run of `config` reads, as this rank sees it."""
        rank, world_size = distributed.rank_and_world_size()
        size, seed = config.data.batch_size, config.seed
        train = self.shards.usable("train", config.data.modalities)
        outer = None
        if isinstance(config.alpha, Adaptive):
            batch, held_out = config.alpha.outer_batch_size(size), config.alpha.held_out_rows(len(train))
            if held_out >= len(train):
                raise UserError(
                    f"{config.data.path}: {len(train)} training samples leave none beside {held_out} held out"
                )
            if held_out:
                shuffled = np.random.default_rng((seed, 0)).permutation(train)
                rows, train = np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])
                order = Order(rows, batch, seed, True, rank, world_size)
                if fixed := config.alpha.before_epochs:
                    order = Order(shuffled[:batch], batch, seed, False, rank, world_size)
                outer = self.batches("train", order, config, training=fixed)
            elif config.fits_validation:
                rows = self.shards.usable("val", config.data.modalities)
                outer = self.batches("val", Order(rows, batch, seed, True, rank, world_size), config)
        return Splits(
            train=self.batches("train", Order(train, size, seed, True, rank, world_size), config, training=True),
            val=self.evaluation("val", config),
            outer=outer,
        )
