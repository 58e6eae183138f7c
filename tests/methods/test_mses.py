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
