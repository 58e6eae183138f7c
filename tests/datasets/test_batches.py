from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfm_ray.datasets.batches import ArrayBatches, Order

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
def test_array_batches_are_the_rows_of_the_order(world: int) -> None:
    arrays = {"x": np.arange(400, dtype=np.float16).reshape(100, 2, 2)}
    arrays["x"].flags.writeable = False
    labels = np.arange(100)
    for order in orders(33, 8, world):
        batches = ArrayBatches(arrays, labels, order)
        assert batches.steps == order.steps
        for rows, batch in zip(order.epoch(4), batches.epoch(4), strict=True):
            assert batch.labels.tolist() == rows.tolist()
            assert batch.inputs["x"].dtype == torch.float16
            np.testing.assert_array_equal(batch.inputs["x"].numpy(), arrays["x"][rows])
