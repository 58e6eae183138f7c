from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import same, small_config, splits_with_outer
from torch import nn

from lfm_ray.datasets.shards import Shards
from lfm_ray.training.costs import COSTS, Costs, Counter, Meter, read_costs, write_costs
from lfm_ray.training.loop import fit
from lfm_ray.training.trainer import Trainer


def measured(shards: Shards, *overrides: str) -> tuple[Trainer, Costs]:
    config = small_config("epochs=3", *overrides)
    run = Trainer(config, shards.card)
    meter, splits = Meter(run), splits_with_outer(shards, config)
    fit(run, replace(splits, train=meter.steps_of(splits.train)))
    return run, meter.costs()


def test_operations_are_those_of_pytorchs_own_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))
    inputs = torch.randn(6, 1, 8, 8)
    with FlopCounterMode(display=False) as theirs:
        model(inputs).logsumexp(dim=1).sum().backward()
    with Counter() as ours:
        model(inputs).logsumexp(dim=1).sum().backward()
    # forward 2 (4 9 64 + 256 5) a sample; backward twice that, but for the gradient of the input
    assert ours.flops == theirs.get_total_flops() == 6 * (3 * 2 * (4 * 9 * 64 + 256 * 5) - 2 * 4 * 9 * 64)


def test_the_peak_is_of_what_is_held_at_once_and_was_made_inside() -> None:
    before = torch.ones(1000)
    with Counter() as counter:
        before.add_(1)
        kept = before + 1
        for _ in range(3):
            passing = kept * 2
            del passing
    assert counter.peak == 2 * 4000
    assert counter._now == 4000


def test_counting_changes_nothing_about_a_run(shards: Shards) -> None:
    for overrides in (["alpha=learned", "alpha.inner_iters=2"], ["method=mla"], ["alpha=heuristic"]):
        run, costs = measured(shards, *overrides)
        config = small_config("epochs=3", *overrides)
        other = Trainer(config, shards.card)
        fit(other, splits_with_outer(shards, config))
        assert same(run, other)
        assert costs.flops
        assert costs.memory
        assert costs.seconds


def test_the_costs_of_a_run(shards: Shards) -> None:
    run, joint = measured(shards)
    assert joint.parameters == joint.trained == sum(one.numel() for one in run.model.parameters())
    assert joint.flops
    assert joint.training_flops
    assert 2 * joint.flops < joint.training_flops < 4 * joint.flops
    weights = 4 * joint.parameters
    assert joint.memory
    assert joint.memory > 4 * weights  # the model, two moments of Adam, gradients
    run, frozen = measured(shards, "model.encoders={audio: {frozen: true}}")
    assert frozen.trained < joint.parameters
    assert frozen.training_flops
    assert frozen.training_flops < joint.training_flops


def test_the_updates_of_alpha_count_as_often_as_they_are_made(shards: Shards) -> None:
    """An update of the identity solver costs two more backward passes and a forward pass on the outer batch."""
    fixed = measured(shards, "alpha=heuristic")[1].training_flops
    often, seldom = (measured(shards, "alpha=learned", f"alpha.inner_iters={n}")[1].training_flops for n in (1, 3))
    assert fixed
    assert often
    assert seldom
    assert fixed < seldom < often
    assert seldom - fixed == pytest.approx((often - fixed) / 3, rel=0.35)  # 8 steps or so, of which 2 or 3


@pytest.mark.parametrize("solver", ["neumann", "cg", "nystrom"])
def test_second_derivatives_bear_being_counted(shards: Shards, solver: str) -> None:
    _, costs = measured(shards, "alpha=learned", f"alpha.solver={solver}", "alpha.damping=0.1", "alpha.inner_iters=2")
    identity = measured(shards, "alpha=learned", "alpha.inner_iters=2")[1]
    assert costs.training_flops
    assert identity.training_flops
    assert costs.training_flops > identity.training_flops


def test_a_step_that_fails_leaves_nothing_behind(shards: Shards) -> None:
    config = small_config("epochs=3")
    run = Trainer(config, shards.card)
    meter, splits = Meter(run), splits_with_outer(shards, config)
    batches = meter.steps_of(splits.train).epoch(1)
    run.prepare(splits.train.steps)
    for _ in range(2):
        next(batches)
    meter.stop()
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 0
    meter.stop()


def test_costs_are_read_back_and_altered_ones_are_not(tmp_path: Path) -> None:
    costs = Costs(10, 8, 1.0, 3.0, 0.5, None)
    assert read_costs(tmp_path) is None
    write_costs(tmp_path, costs)
    assert read_costs(tmp_path) == costs
    content = json.loads((tmp_path / COSTS).read_text())
    (tmp_path / COSTS).write_text(json.dumps({**content, "parameters": 3}))
    assert read_costs(tmp_path) is None
