from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import SMALL, same_weights, train_until_killed, without_time
from tiny_run import splits_with_outer as splits
from tiny_run import train_with_outer as train
from torch import nn

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.optimization.optimizer import OptimizerSettings, after_epoch, after_step, build_optimizer
from lfm_ray.runtime import checkpoint
from lfm_ray.settings import load
from lfm_ray.training.loop import fit
from lfm_ray.training.trainer import Trainer

# So slow that no epoch's loss is 0.01 % below the first one's.
STILL = ["optimizer.name=sgd", "optimizer.schedule=plateau", "optimizer.learning_rate=1e-6", "optimizer.patience=2"]


def one_weight(**settings: Any) -> tuple[nn.Parameter, Any, Any]:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(2.0)
    return model.weight, *build_optimizer(OptimizerSettings(**settings), model, steps_an_epoch=3, epochs=10)


def test_adam_adds_the_weight_decay_to_the_gradient_and_adamw_does_not() -> None:
    """The first step of Adam is the learning rate times the sign of what it takes for the gradient."""
    found = {}
    for name in ("adam", "adamw"):
        weight, optimizer, _ = one_weight(name=name, learning_rate=0.1, weight_decay=0.5, schedule="constant")
        weight.grad = torch.full_like(weight, -0.25)
        optimizer.step()
        found[name] = weight.item()
    assert found["adam"] == pytest.approx(2 - 0.1, abs=1e-6)  # -0.25 + 0.5 * 2 is positive
    assert found["adamw"] == pytest.approx(2 * (1 - 0.1 * 0.5) + 0.1, abs=1e-6)


def test_a_plateau_divides_the_learning_rate_by_ten_after_patience_is_over() -> None:
    _, optimizer, scheduler = one_weight(name="sgd", learning_rate=0.5, schedule="plateau", patience=1)
    losses = [1.0, 0.9, 0.89995, 0.95, 0.91, 0.8, 0.85, 0.79999, 0.7]
    # 0.89995 is less than 0.01 % below 0.9: the first that is let pass, 0.95 divides; 0.91 passes; 0.8 is
    # better; 0.85 passes, 0.79999 is not better enough and divides again.
    expected = [0.5, 0.5, 0.5, 0.05, 0.05, 0.05, 0.05, 0.005, 0.005]
    rates = []
    for loss in losses:
        for _ in range(3):
            optimizer.step()
            after_step(scheduler)
        after_epoch(scheduler, loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(expected)


def test_other_schedules_follow_the_step_and_not_the_loss() -> None:
    _, optimizer, scheduler = one_weight(name="sgd", learning_rate=0.5, schedule="step")
    for epoch in range(1, 11):
        for _ in range(3):
            optimizer.step()
            after_step(scheduler)
        after_epoch(scheduler, float(epoch))  # ever higher
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 if epoch < 4 else 0.05 if epoch < 7 else 0.005)


def test_a_run_that_stopped_on_a_plateau_goes_on_with_its_patience_bit_for_bit(shards: Shards, tmp_path: Path) -> None:
    whole = train(shards, *STILL, "epochs=5")
    assert [row["learning_rate"] for row in whole.history] == pytest.approx([1e-6, 1e-6, 1e-6, 1e-6, 1e-7])
    train_until_killed(Trainer(whole.config, shards.card), splits(shards, whole.config), tmp_path / "checkpoint.pt")
    again = Trainer(whole.config, shards.card)
    again.load_state_dict(checkpoint.load(tmp_path / "checkpoint.pt"))
    fit(again, splits(shards, whole.config))
    assert same_weights(again, whole)
    assert without_time(again.history) == without_time(whole.history)


def test_every_rank_takes_the_loss_of_rank_zero(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of ranks may differ by rounding on GPUs; a rate that fell on one of them only would part them for good."""
    run = Trainer(load(RunConfig, None, [*SMALL, *STILL]), shards.card)
    run.prepare(3)
    monkeypatch.setattr("lfm_ray.runtime.distributed.from_rank_zero", lambda value, device: 0.5)
    run.end_of_epoch({"train/loss": 0.75})
    assert run.scheduler.best == 0.5


def test_a_table_of_learning_rates_is_spread_evenly_over_the_steps() -> None:
    _, optimizer, scheduler = one_weight(learning_rate=0.1, schedule="table", table=[1.0, 0.5, 2.0, 0.0, 1.0])
    rates = []
    for _ in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after_step(scheduler)
    assert rates == pytest.approx([0.1] * 6 + [0.05] * 6 + [0.2] * 6 + [0.0] * 6 + [0.1] * 6)
    with pytest.raises(ValueError, match="go together"):
        OptimizerSettings(schedule="table")
    with pytest.raises(ValueError, match="go together"):
        OptimizerSettings(table=[1.0])


def test_the_epochs_in_which_the_rate_drops_can_be_given() -> None:
    """Three steps an epoch, ten epochs: a tenth from the first step of epoch 3, a hundredth from that of epoch 9."""
    _, optimizer, scheduler = one_weight(name="sgd", learning_rate=1.0, schedule="step", step_at=[3, 9])
    rates = []
    for _ in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after_step(scheduler)
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 18 + [0.01] * 6)
    with pytest.raises(ValueError, match="step_at belongs to schedule: step"):
        OptimizerSettings(step_at=[3])
