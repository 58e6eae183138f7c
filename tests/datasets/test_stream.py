from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ray
import small_shards
import torch

from lfm_ray.datasets import stream
from lfm_ray.datasets.batches import ArrayBatches, Order
from lfm_ray.datasets.shards import Shards

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(small_shards.write(tmp_path))


def test_load_arrays_is_the_split_in_order(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_BYTES", 200)  # several blocks, across the shards' boundary
    for names in (None, ["picture"]):
        arrays, labels = stream.load_arrays(shards, "train", names)
        expected, expected_labels = shards.arrays("train", names)
        assert list(arrays) == list(expected)
        for name, array in arrays.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])
        np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("rank", [0, 1])
def test_stream_batches_are_the_array_batches(shards: Shards, rank: int) -> None:
    order = Order(np.array([7, 1, 2, 4, 5]), batch_size=3, seed=3, shuffle=True, rank=rank, world_size=2)
    streamed = stream.StreamBatches(shards, "train", None, order)
    held = ArrayBatches(*shards.arrays("train"), order)
    assert streamed.steps == held.steps == 2
    for epoch in (1, 2):
        for ours, theirs in zip(streamed.epoch(epoch), held.epoch(epoch), strict=True):
            assert torch.equal(ours.labels, theirs.labels)
            assert list(ours.inputs) == list(theirs.inputs)
            for name, values in theirs.inputs.items():
                assert ours.inputs[name].dtype == values.dtype
                assert torch.equal(ours.inputs[name], values)


def test_many_batches_keep_their_order(shards: Shards) -> None:
    rows = np.tile(np.arange(8), 5)
    order = Order(rows, batch_size=2, seed=0, shuffle=True)
    streamed = [batch.labels.tolist() for batch in stream.StreamBatches(shards, "train", ["words"], order).epoch(1)]
    held = [batch.labels.tolist() for batch in ArrayBatches(*shards.arrays("train", ["words"]), order).epoch(1)]
    assert streamed == held


def test_an_empty_share_is_an_empty_batch(shards: Shards) -> None:
    order = Order(np.arange(3), batch_size=2, seed=0, shuffle=False, rank=2, world_size=3)
    batches = list(stream.StreamBatches(shards, "train", None, order).epoch(1))
    assert [len(batch.labels) for batch in batches] == [0, 0]
    assert batches[0].inputs["sound"].shape == (0, 1, 3, 4)
    assert batches[0].inputs["sound"].dtype == torch.float16


def test_fetching_does_not_wait_for_a_cpu(shards: Shards) -> None:
    @ray.remote(num_cpus=2)
    def trial() -> list[int]:
        order = Order(np.arange(8), batch_size=4, seed=0, shuffle=False)
        return [len(batch.labels) for batch in stream.StreamBatches(shards, "train", None, order).epoch(1)]

    assert ray.get(trial.remote(), timeout=60) == [4, 4]
