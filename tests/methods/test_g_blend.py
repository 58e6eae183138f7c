from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.methods.g_blend import GBlend, blend_weights
from lfm_ray.models.classifier import Outputs
from lfm_ray.settings import load


def test_weights_worked_out_from_loss_curves() -> None:
    """audio: G = 0.4, O = 0.2; image: G = 0.1, O = 0.5; text has not improved."""
    before = {"audio": (1.0, 1.2), "image": (1.0, 1.1), "text": (1.0, 1.0)}
    after = {"audio": (0.4, 0.8), "image": (0.4, 1.0), "text": (0.5, 1.2)}
    ratios = {"audio": 0.4 / 0.2**2, "image": 0.1 / 0.5**2}  # 10 and 0.4
    found = blend_weights(before, after)
    assert found == {"audio": pytest.approx(10 / 10.4), "image": pytest.approx(0.4 / 10.4), "text": 0.0}
    assert sum(ratios.values()) == pytest.approx(10.4)
    assert blend_weights(before, before) == {}


def test_the_loss_is_the_blend() -> None:
    made = outputs()
    found = GBlend(weights={"fused": 0.5, "image": 2}).classification(made, LABELS, state())
    expected = 0.5 * F.cross_entropy(made.fused, LABELS) + 2 * F.cross_entropy(made.unimodal["image"], LABELS)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    mean = torch.stack([F.cross_entropy(z, LABELS) for z in [made.fused, *made.unimodal.values()]]).mean()
    assert GBlend().classification(made, LABELS, state()).item() == pytest.approx(mean.item(), rel=1e-12)


def test_weights_are_estimated_at_the_end_of_a_super_epoch() -> None:
    """Of the training losses over the epoch's steps, and the validation losses of its row."""
    method, made = GBlend(super_epoch=2), outputs()
    at = state(model=SimpleNamespace(encoders={"audio": None, "image": None}))
    train = {"fused": made.fused, **made.unimodal}
    losses = {name: F.cross_entropy(z, LABELS).item() for name, z in train.items()}
    rows = []
    for epoch, val in enumerate([2.0, 1.8, 1.5], start=1):
        with torch.no_grad():
            method.after_backward(made, LABELS, at)
            method.after_backward(made, LABELS, at)
        metrics = {"val/fused/loss": val, "val/audio/loss": val / 2, "val/image/loss": 3.0}
        rows.append(method.on_epoch_end(replace(at, epoch=epoch), metrics))
    assert rows[0] == rows[1] == {f"weight/{name}": 1 / 3 for name in ("fused", "audio", "image")}
    before = {"fused": (losses["fused"], 2.0), "audio": (losses["audio"], 1.0), "image": (losses["image"], 3.0)}
    after = {"fused": (losses["fused"], 1.5), "audio": (losses["audio"], 0.75), "image": (losses["image"], 3.0)}
    expected = blend_weights(before, after)
    assert rows[2] == {f"weight/{name}": pytest.approx(value, rel=1e-6) for name, value in expected.items()}
    assert rows[2]["weight/audio"] == pytest.approx(2 / 3)  # G / O^2 = 1 / G where the training loss stands still


def test_weights_that_are_all_zero_are_refused() -> None:
    with pytest.raises(UserError, match="at least one weight must be above 0"):
        load(RunConfig, None, ["method=g_blend", "method.weights={audio: 0}"])


def test_weights_are_those_of_what_two_epochs_generalise_and_overfit() -> None:
    """Training losses ln 2 and then ln 4/3, of both; validation losses of the fusion fall by 0.4, of audio by 0.1.

    O is -0.4 + ln 3/2 and -0.1 + ln 3/2. Then ln 5/4, and 0.1 and 0.05 less: O is -0.1 + ln 16/15 and -0.05 + ln 16/15.
    """
    method, labels = GBlend(super_epoch=1), torch.zeros(1, dtype=torch.int64)
    at = state(model=SimpleNamespace(encoders={"audio": None}))
    rows = []
    for epoch, (chance, fused, audio) in enumerate([(1 / 2, 1.0, 1.0), (3 / 4, 0.6, 0.9), (4 / 5, 0.5, 0.85)], start=1):
        logits = torch.tensor([[chance, 1 - chance]], dtype=torch.float64).log()
        for _ in range(epoch):
            method.after_backward(Outputs(logits, {"audio": logits}, {}), labels, at)
        now = replace(at, epoch=epoch)
        rows.append(method.on_epoch_end(now, {"val/fused/loss": fused, "val/audio/loss": audio}))
    assert rows[0] == {"weight/fused": 0.5, "weight/audio": 0.5}
    ratios = [0.4 / (math.log(1.5) - 0.4) ** 2, 0.1 / (math.log(1.5) - 0.1) ** 2]
    expected = {"weight/fused": ratios[0] / sum(ratios), "weight/audio": ratios[1] / sum(ratios)}
    assert rows[1] == pytest.approx(expected, rel=1e-5)
    ratios = [0.1 / (math.log(16 / 15) - 0.1) ** 2, 0.05 / (math.log(16 / 15) - 0.05) ** 2]
    assert rows[2]["weight/fused"] == pytest.approx(ratios[0] / sum(ratios), rel=1e-5)
    assert "steps" not in at.memory
    assert method.blended(["fused", "audio"], at) == {
        "fused": rows[2]["weight/fused"],
        "audio": rows[2]["weight/audio"],
    }


def test_a_change_of_the_overfitting_counts_by_its_size_and_as_a_thousandth_at_least() -> None:
    before = {"audio": (1.0, 1.0), "image": (1.0, 1.0), "text": (1.0, 1.0)}
    after = {"audio": (0.5, 0.7), "image": (0.9, 0.7), "text": (0.9, 0.9)}
    # G = 0.3, 0.3, 0.1; O = 0.2, -0.2, 0: ratios 7.5, 7.5 and 0.1 / 0.001^2
    found = blend_weights(before, after)
    total = 15 + 1e5
    assert found == pytest.approx({"audio": 7.5 / total, "image": 7.5 / total, "text": 1e5 / total}, rel=1e-6)


def test_given_weights_stay_and_nothing_is_remembered() -> None:
    method, made = GBlend(weights={"audio": 2.0}), outputs()
    at = state(model=SimpleNamespace(encoders={"audio": None, "image": None}))
    method.after_backward(made, LABELS, at)
    row = method.on_epoch_end(replace(at, epoch=6), {})
    assert row == {"weight/fused": 0.0, "weight/audio": 2.0, "weight/image": 0.0}
    assert not at.memory


def test_a_loss_of_weight_zero_reaches_nothing_and_labels_are_made_uniform() -> None:
    made = outputs()
    found = GBlend(weights={"audio": 1.0}).classification(made, LABELS, state(uniform_labels=0.3))
    expected = F.cross_entropy(made.unimodal["audio"], LABELS, label_smoothing=0.3)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.autograd.grad(found, made.fused, allow_unused=True) == (None,)


def test_weights_of_which_one_is_not_zero_are_taken() -> None:
    assert load(RunConfig, None, ["method=g_blend", "method.weights={audio: 0, image: 0.1}"])


def test_a_super_epoch_of_three_compares_the_first_epoch_with_the_fourth() -> None:
    method, made = GBlend(super_epoch=3), outputs()
    at = state(model=SimpleNamespace(encoders={"audio": None}))
    rows = []
    for epoch, fused in enumerate([2.0, 0.1, 5.0, 1.5, 0.2, 0.2], start=1):
        with torch.no_grad():
            method.after_backward(made, LABELS, at)
        metrics = {"val/fused/loss": fused, "val/audio/loss": 3 - 0.25 * (epoch == 4)}
        rows.append(method.on_epoch_end(replace(at, epoch=epoch), metrics)["weight/fused"])
    assert rows[:3] == [0.5, 0.5, 0.5]
    assert rows[3:] == [pytest.approx(1 / 3, rel=1e-5)] * 3  # G = 0.5 and 0.25 and O = -G: ratios 2 and 4
