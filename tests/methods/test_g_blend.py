from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.config import RunConfig
from lfm_ray.errors import UserError
from lfm_ray.methods.g_blend import GBlend, blend_weights
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
    from dataclasses import replace
    from types import SimpleNamespace

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
