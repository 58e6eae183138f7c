from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from method_cases import state

from lfm_ray.methods.mslr import MSLR


def test_a_rate_follows_the_accuracy_over_its_mean_of_the_last_epochs() -> None:
    """audio: 0.6 over 0.4 and 0.2, then 0.3 over 0.2 and 0.6; image never gets one right, and keeps its rate."""
    method = MSLR(strategy="dynamic", factors={"audio": 3.0, "image": 0.5}, history=2)
    at = state(model=SimpleNamespace(encoders={"audio": None, "image": None, "text": None}))
    rows = []
    for epoch, audio in enumerate([0.4, 0.2, 0.6, 0.3], start=1):
        metrics = {"val/audio/accuracy": audio, "val/image/accuracy": 0.0, "val/text/accuracy": 0.7}
        rows.append(method.on_epoch_end(replace(at, epoch=epoch), metrics))
        assert method.learning_rate_factors(at) == {
            name: rows[-1][f"{name}/learning_rate_factor"] for name in ("audio", "image", "text")
        }
    audio_factors = [row["audio/learning_rate_factor"] for row in rows]
    assert audio_factors == pytest.approx([3, 3, 3 * 2, 3 * 0.75])
    assert {row["image/learning_rate_factor"] for row in rows} == {0.5}
    assert [row["text/learning_rate_factor"] for row in rows] == pytest.approx([1.0] * 4)


def test_kept_rates_do_not_follow_anything() -> None:
    method = MSLR(factors={"audio": 3.0})
    at = state(model=SimpleNamespace(encoders={"audio": None, "image": None}))
    for epoch in range(1, 7):
        assert method.on_epoch_end(replace(at, epoch=epoch), {"val/audio/accuracy": 0.1 * epoch}) == {}
    assert method.learning_rate_factors(at) == {"audio": 3.0, "image": 1.0}
    assert not at.memory
