from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_shards
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfm_ray.datasets.media.audio import AudioSettings
from lfm_ray.datasets.reading.batches import Order, ReadBatches, from_memory, from_shards
from lfm_ray.datasets.reading.inputs import Inputs
from lfm_ray.datasets.shards import ModalityCard, Shards

sizes = st.integers(1, 60)
batch_sizes = st.integers(2, 20)
worlds = st.integers(1, 5)


def orders(count: int, batch_size: int, world: int, shuffle: bool = True, seed: int = 0) -> list[Order]:
    return [Order(np.arange(count) * 3, batch_size, seed, shuffle, rank, world) for rank in range(world)]


@given(sizes, batch_sizes, worlds, st.integers(1, 3))
def test_every_row_is_taken_once_over_all_ranks_and_batches(count: int, size: int, world: int, epoch: int) -> None:
    taken = np.concatenate([rows for order in orders(count, size, world) for rows in order.epoch(epoch)])
    assert sorted(taken) == list(range(0, 3 * count, 3))


@given(sizes, batch_sizes, worlds)
def test_a_global_batch_is_the_same_for_any_number_of_ranks(count: int, size: int, world: int) -> None:
    alone = orders(count, size, 1)[0].epoch(2)
    shared = zip(*[order.epoch(2) for order in orders(count, size, world)], strict=True)
    for whole, parts in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))
        assert len(whole) <= size
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(sizes, batch_sizes)
def test_batches_differ_by_one_row_at_most_and_number_steps(count: int, size: int) -> None:
    order = orders(count, size, 1)[0]
    lengths = [len(rows) for rows in order.epoch(1)]
    assert len(lengths) == order.steps
    assert max(lengths) - min(lengths) <= 1


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def rows(seed: int, epoch: int, shuffle: bool = True) -> list[int]:
        return np.concatenate(orders(50, 8, 1, shuffle, seed)[0].epoch(epoch)).tolist()

    assert rows(0, 1) == rows(0, 1)
    assert rows(0, 1) != rows(0, 2)
    assert rows(0, 1) != rows(1, 1)
    assert rows(0, 1, shuffle=False) == rows(5, 9, shuffle=False) == list(range(0, 150, 3))


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("ahead", [False, True])
def test_batches_are_the_rows_of_the_order(world: int, ahead: bool) -> None:
    array = np.arange(400, dtype=np.float16).reshape(100, 2, 2)
    array.flags.writeable = False
    card = ModalityCard(kind="image", shape=[2, 2], dtype="float16", mean=0, std=1)
    inputs = Inputs({"x": card}, 3, AudioSettings())
    for order in orders(33, 8, world):
        batches = ReadBatches(from_memory({"x": array}, np.arange(100)), order, inputs, ahead)
        assert batches.steps == order.steps
        for rows, batch in zip(order.epoch(4), batches.epoch(4), strict=True):
            assert batch.labels.tolist() == rows.tolist()
            assert batch.inputs["x"].dtype == torch.float16
            np.testing.assert_array_equal(batch.inputs["x"].numpy(), array[rows])


def test_mapped_shards_give_what_memory_gives(tmp_path: Path) -> None:
    shards = Shards(small_shards.write(tmp_path))
    inputs, order = Inputs.of(shards.card), Order(np.array([7, 1, 2, 4, 5]), batch_size=2, seed=3, shuffle=True)
    mapped = ReadBatches(from_shards(shards, "train", ["sound", "picture", "words"]), order, inputs, ahead=True)
    held = ReadBatches(from_memory(*shards.arrays("train")), order, inputs)
    for ours, theirs in zip(mapped.epoch(2), held.epoch(2), strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        for name, values in theirs.inputs.items():
            assert torch.equal(ours.inputs[name], values)


def test_what_goes_wrong_while_reading_ahead_is_raised(tmp_path: Path) -> None:
    shards = Shards(small_shards.write(tmp_path))
    order = Order(np.array([0, 1, 2, 99]), batch_size=1, seed=0, shuffle=False)
    batches = ReadBatches(
        from_shards(shards, "train", list(shards.card.modalities)), order, Inputs.of(shards.card), ahead=True
    ).epoch(1)
    with pytest.raises(IndexError, match="0 to 7"):
        list(batches)
