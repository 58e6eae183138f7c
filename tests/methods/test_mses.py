from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state
from tiny_run import SMALL
from tiny_run import splits_with_outer as splits

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.methods.mses import MSES
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.trainer import Trainer


def test_a_modality_stops_after_epochs_without_progress_and_its_loss_with_it() -> None:
    method, made = MSES(patience=2, unimodal_weight=0.5), outputs()
    at = state(model=SimpleNamespace(encoders={"audio": None, "image": None}))
    stopped = []
    for audio, image in [(1.0, 1.0), (0.9, 1.1), (1.0, 0.9), (0.9, 0.8), (0.1, 0.7)]:  # 0.9 again is no progress
        method.on_epoch_end(at, {"val/audio/loss": audio, "val/image/loss": image})
        stopped.append([name for name in ("audio", "image") if method.stopped(name, at)])
    assert stopped == [[], [], [], ["audio"], ["audio"]]
    assert method.learning_rate_factors(at) == {"audio": 0.0}
    expected = F.cross_entropy(made.fused, LABELS) + 0.5 * F.cross_entropy(made.unimodal["image"], LABELS)
    assert method.classification(made, LABELS, at).item() == pytest.approx(expected.item(), rel=1e-12)


def test_what_has_stopped_does_not_change_and_the_rest_does(shards: Shards) -> None:
    config = load(RunConfig, None, [*SMALL, "method=mses", "epochs=2", "method.patience=1"])
    run = Trainer(config, shards.card)
    run.memory |= {"waited/audio": 1, "lowest/audio": 0.0}
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    fit(run, splits(shards, config))
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]) == ("audio" in name), name


def test_the_row_says_what_has_stopped_and_waiting_begins_anew_with_every_progress() -> None:
    method = MSES(patience=2)
    at = state(model=SimpleNamespace(encoders={"audio": None, "image": None}))
    rows = []
    for audio in (1.0, 1.1, 0.9, 1.0, 0.95, 0.8):  # the last comes too late
        rows.append(method.on_epoch_end(at, {"val/audio/loss": audio, "val/image/loss": -len(rows)}))
    assert [row["audio/stopped"] for row in rows] == [0, 0, 0, 0, 1, 1]
    assert [row["image/stopped"] for row in rows] == [0] * 6
    assert (at.memory["lowest/audio"], at.memory["waited/audio"]) == (0.9, 2)


def test_losses_are_compared_as_a_mean_of_two_epochs_where_that_is_asked_for() -> None:
    """Raw losses 1, 0.5, 0.7 are 1, 0.8, 0.58 with 0.6 of the epoch before: no rise."""
    at = state(model=SimpleNamespace(encoders={"audio": None}))
    for loss in (1.0, 0.5, 0.7):
        MSES(patience=1, smoothing=0.6).on_epoch_end(at, {"val/audio/loss": loss})
    assert at.memory["lowest/audio"] == pytest.approx(0.58)
    assert not MSES(patience=1).stopped("audio", at)


def test_without_unimodal_losses_nothing_stops_and_training_is_joint() -> None:
    method, made = MSES(patience=1, unimodal_weight=0), outputs()
    at = state(model=SimpleNamespace(encoders={"audio": None, "image": None}), uniform_labels=0.3)
    for _ in range(3):
        row = method.on_epoch_end(at, {"val/audio/loss": 1.0, "val/image/loss": 1.0})
    assert row == {"audio/stopped": 0.0, "image/stopped": 0.0}
    assert method.learning_rate_factors(at) == {}
    expected = F.cross_entropy(made.fused, LABELS, label_smoothing=0.3)
    assert method.classification(made, LABELS, at).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_loss_is_the_fused_one_and_that_of_each_modality() -> None:
    made = outputs()
    each = [F.cross_entropy(z, LABELS, label_smoothing=0.3).item() for z in (made.fused, *made.unimodal.values())]
    found = MSES(unimodal_weight=0.5).classification(made, LABELS, state(uniform_labels=0.3))
    assert found.item() == pytest.approx(each[0] + 0.5 * (each[1] + each[2]), rel=1e-12)


def test_a_first_loss_that_is_not_finite_is_an_epoch_without_progress() -> None:
    method, at = MSES(patience=2), state(model=SimpleNamespace(encoders={"audio": None}))
    rows = [method.on_epoch_end(at, {"val/audio/loss": float("inf")})["audio/stopped"] for _ in range(3)]
    assert rows == [0, 1, 1]
