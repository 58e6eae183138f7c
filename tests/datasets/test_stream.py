from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ray
import small_shards
import torch
from synthetic import with_gaps

from lfm_ray.datasets.columns import presence
from lfm_ray.datasets.reading.augmentation import AugmentationSettings
from lfm_ray.datasets.reading.batches import Order, ReadBatches, from_memory
from lfm_ray.datasets.reading.inputs import DataSettings, Inputs
from lfm_ray.datasets.reading.stream import StreamBatches
from lfm_ray.datasets.shards import Shards

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(small_shards.write(tmp_path))


@pytest.mark.parametrize("rank", [0, 1])
def test_stream_batches_are_those_read_in_process_augmented_alike(shards: Shards, rank: int) -> None:
    data = DataSettings(augmentation=AugmentationSettings(flip=0.5, smallest_crop=0.3, time_mask=0.6))
    inputs = Inputs.of(shards.card, data, seed=5, training=True)
    order = Order(np.array([7, 1, 2, 4, 5]), batch_size=3, seed=3, shuffle=True, rank=rank, world_size=2)
    streamed = StreamBatches(shards, "train", order, inputs, cpus=1)
    held = ReadBatches(from_memory(*shards.arrays("train")), order, inputs)
    assert streamed.steps == held.steps == 2
    for epoch in (1, 2):
        for ours, theirs in zip(streamed.epoch(epoch), held.epoch(epoch), strict=True):
            assert torch.equal(ours.labels, theirs.labels)
            assert list(ours.inputs) == list(theirs.inputs)
            for name, values in theirs.inputs.items():
                assert ours.inputs[name].dtype == values.dtype
                assert torch.equal(ours.inputs[name], values)


def test_streams_say_which_samples_lack_a_modality(tmp_path: Path) -> None:
    gaps = with_gaps(tmp_path / "gaps")
    inputs = Inputs.of(gaps.card)
    order = Order(np.arange(24), batch_size=12, seed=0, shuffle=True)
    held = ReadBatches(from_memory(*gaps.arrays("train")), order, inputs)
    for ours, theirs in zip(StreamBatches(gaps, "train", order, inputs, cpus=1).epoch(1), held.epoch(1), strict=True):
        assert list(ours.inputs) == list(theirs.inputs) and presence("image") in ours.inputs
        assert all(torch.equal(ours.inputs[name], values) for name, values in theirs.inputs.items())
        assert ours.inputs[presence("image")].dtype == torch.bool


def test_many_batches_keep_their_order(shards: Shards) -> None:
    inputs = Inputs.of(shards.card, DataSettings(modalities=["words"]))
    order = Order(np.tile(np.arange(8), 5), batch_size=2, seed=0, shuffle=True)
    streamed = [batch.labels.tolist() for batch in StreamBatches(shards, "train", order, inputs, cpus=2).epoch(1)]
    held = [
        batch.labels.tolist() for batch in ReadBatches(from_memory(*shards.arrays("train")), order, inputs).epoch(1)
    ]
    assert streamed == held


def test_an_empty_share_is_an_empty_batch(shards: Shards) -> None:
    order = Order(np.arange(3), batch_size=2, seed=0, shuffle=False, rank=2, world_size=3)
    batches = list(StreamBatches(shards, "train", order, Inputs.of(shards.card), cpus=1).epoch(1))
    assert [len(batch.labels) for batch in batches] == [0, 0]
    assert batches[0].inputs["sound"].shape == (0, 1, 3, 4)
    assert batches[0].inputs["sound"].dtype == torch.float16


@pytest.mark.slow
def test_a_task_runs_on_a_cpu_beside_the_trials(shards: Shards) -> None:
    order = Order(np.arange(8), batch_size=4, seed=0, shuffle=False)

    @ray.remote(num_cpus=1)
    def trial() -> list[int]:
        stream = StreamBatches(shards, "train", order, Inputs.of(shards.card), cpus=1)
        return [len(batch.labels) for batch in stream.epoch(1)]

    assert ray.get(trial.remote(), timeout=60) == [4, 4]
