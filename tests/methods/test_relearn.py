from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from method_cases import state
from tiny_run import moved, prepared, train, weights
from torch import nn

from lfm_ray.datasets.shards import Shards
from lfm_ray.methods.relearn import Relearn, cluster_purity, purity
from lfm_ray.models.classifier import Outputs


def test_purity_worked_out_by_hand() -> None:
    """Main classes: two of three, two of two, one of one."""
    clusters, labels = np.array([0, 0, 0, 5, 5, 2]), np.array([1, 1, 2, 0, 0, 2])
    assert cluster_purity(clusters, labels) == pytest.approx(5 / 6)


def test_clusters_that_are_the_classes_are_pure_at_any_scale() -> None:
    labels = torch.arange(30) % 3
    centres = torch.tensor([[0.0, 0.0], [1000.0, 0.0], [0.0, 0.001]])
    z = centres[labels] + torch.randn(30, 2) * torch.tensor([1.0, 1e-6])
    assert purity(z, labels, 3) == 1
    assert purity(torch.randn(200, 2), torch.arange(200) % 2, 2) < 0.7


def test_there_may_be_fewer_samples_than_classes() -> None:
    assert purity(torch.randn(2, 3), torch.tensor([0, 1]), 5) == 1


def test_it_happens_after_every_period_and_at_most_so_many_times() -> None:
    def epochs(method: Relearn) -> list[int]:
        return [epoch for epoch in range(1, 100) if method.due(replace(state(), epoch=epoch))]

    assert epochs(Relearn()) == [21, 41, 61]
    assert epochs(Relearn(period=3, times=2)) == [4, 7]
    assert epochs(Relearn(times=0)) == epochs(Relearn(gap_weight=0)) == []


def test_an_encoder_is_set_back_by_its_gap() -> None:
    model = nn.Module()
    model.encoders = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ("audio", "image")})
    nn.init.constant_(model.encoders["audio"].weight, 3.0)
    nn.init.constant_(model.encoders["image"].weight, 3.0)
    memory = {f"first/{name}.weight": torch.tensor([[1.0]]) for name in ("audio", "image")}
    row = {"train/audio/purity": 0.9, "val/audio/purity": 0.6, "train/image/purity": 0.5, "val/image/purity": 0.5}
    now = replace(state(model=model, memory=memory), epoch=3)
    shown = Relearn(gap_weight=2, period=2).on_epoch_end(now, row)
    w = math.tanh(0.6)
    assert shown == pytest.approx({"relearn/audio": w, "relearn/image": 0})
    assert model.encoders["audio"].weight.item() == pytest.approx(w + 3 * (1 - w))
    assert model.encoders["image"].weight.item() == 3
    assert Relearn(gap_weight=2, period=2).on_epoch_end(replace(now, epoch=2), row) == {}


def test_what_is_measured_is_the_purity_of_each_modality() -> None:
    z = {"audio": torch.randn(9, 2), "image": torch.randn(9, 2)}
    labels = torch.arange(9) % 3
    found = Relearn().measures(Outputs(torch.zeros(9, 3), {}, z), labels)
    assert found == {f"{name}/purity": purity(value, labels, 3) for name, value in z.items()}
    assert Relearn(gap_weight=0).measures(Outputs(torch.zeros(9, 3), {}, z), labels) == {}


def test_the_first_weights_are_those_before_the_first_step(shards: Shards) -> None:
    run, batches = prepared(shards, "method=relearn", "method.period=1")
    first = weights(run)
    for batch in batches[:2]:
        run.training_step(batch)
    assert moved(run, first)
    kept = {key.removeprefix("first/"): value for key, value in run.memory.items()}
    assert set(kept) == {name.removeprefix("encoders.") for name in first if name.startswith("encoders.")}
    assert all(torch.equal(value, first[f"encoders.{name}"]) for name, value in kept.items())


def test_a_run_shows_purities_and_when_it_was_set_back(shards: Shards) -> None:
    run = train(shards, "method=relearn", "method.period=1", "method.times=1")
    assert all(0 < row[f"{split}/audio/purity"] <= 1 for row in run.history for split in ("train", "val"))
    assert [row["epoch"] for row in run.history if "relearn/audio" in row] == [2]
