from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state
from tiny_run import SMALL
from tiny_run import splits_with_outer as splits
from torch import nn

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.methods import State
from lfm_ray.methods.greedy import Greedy, speed
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Channel
from lfm_ray.settings import load
from lfm_ray.training.trainer import Trainer


def test_a_speed_worked_out_by_hand() -> None:
    one, two = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(2, 1, bias=False)
    one.weight.data, two.weight.data = torch.tensor([[2.0]]), torch.tensor([[1.0, 1.0]])
    one.weight.grad, two.weight.grad = torch.tensor([[3.0]]), torch.tensor([[0.0, 1.0]])
    assert float(speed([one, two]).detach()) == pytest.approx((9 + 1) / (4 + 2))


def test_the_modality_that_learns_most_from_others_is_then_trained_alone(shards: Shards) -> None:
    config = load(RunConfig, None, [*SMALL, "method=greedy", "method.window=2", "method.first_epoch=1"])
    run = Trainer(config, shards.card)
    run.prepare(3)
    batch = next(splits(shards, config).train.epoch(1))
    method, head = Greedy(window=2, first_epoch=1), run.model.head
    assert isinstance(head, Channel)
    for name, parameter in run.model.named_parameters():
        rescales_image = name.startswith("head.excite.image")
        parameter.grad = torch.full_like(parameter, 10.0 if rescales_image else 0.1)
    outputs: Outputs = run.model(batch.inputs)
    state = run.state()
    with torch.no_grad():
        method.after_backward(outputs, batch.labels, state)
    assert state.memory["alone"] == "image"
    assert state.memory["speed/image"] > state.memory["speed/audio"] + 0.01
    mean = head.scales(outputs.embeddings)["image"].mean(dim=0)
    alone = head.classifiers["image"](mean * outputs.embeddings["image"])
    expected = F.cross_entropy(outputs.unimodal["audio"], batch.labels) + F.cross_entropy(alone, batch.labels)
    found = method.classification(outputs, batch.labels, state)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    (of_squeeze,) = torch.autograd.grad(found, head.excite["image"].weight, allow_unused=True)
    assert of_squeeze is None  # nothing reaches it from the others
    with torch.no_grad():
        for left in (1, 0):
            method.after_backward(outputs, batch.labels, state)
            assert (state.memory["left"], state.memory["alone"]) == (left, "image" if left else "")


def test_the_conditional_speed_of_two_steps_worked_out_by_hand(shards: Shards) -> None:
    """log10 of (0.2^2 + 0.4^2) / (0.1^2 + 0.3^2) for audio, the weights being 1; image learns ten times as much."""
    run = Trainer(load(RunConfig, None, [*SMALL, "method=greedy"]), shards.card)
    batch = next(splits(shards, run.config).train.epoch(1))
    outputs: Outputs = run.model(batch.inputs)
    gradients = {"head.squeeze": 0.2, "head.excite.audio": 0.2, "head.excite.image": 0.2}
    with torch.no_grad():
        for factors in ((1.0, 1.0), (2.0, 3.0)):
            for name, parameter in run.model.named_parameters():
                shared = next((value for start, value in gradients.items() if name.startswith(start)), None)
                parameter.fill_(1.0)
                own = 0.1 * factors[1] * (10**0.5 if "image" in name else 1.0)
                parameter.grad = torch.full_like(parameter, own if shared is None else shared * factors[0])
            run.method.after_backward(outputs, batch.labels, run.state())
    assert run.memory["speed/audio"] == pytest.approx(math.log10(2), rel=1e-4)
    assert run.memory["speed/image"] == pytest.approx(math.log10(0.2), rel=1e-4)


def at_rest(**at: int) -> State:
    """Weights of 1 and gradients such that audio learns with log10 2 from the others, and image with log10 0.2."""
    head, model = Channel(["audio", "image"], 5, 3).double(), nn.Module()
    model.encoders = nn.ModuleDict({"audio": nn.Linear(2, 2), "image": nn.Linear(2, 2)}).double()
    model.head = head
    for name, parameter in model.named_parameters():
        parameter.data.fill_(1.0)
        shared = name.startswith(("head.squeeze", "head.excite"))
        parameter.grad = torch.full_like(parameter, (0.2 if shared else 0.02 if "audio" in name else 0.2) ** 0.5)
    model.head.classifiers["audio"].weight.grad.fill_(0.1**0.5)
    model.head.classifiers["audio"].bias.grad.fill_(0.1**0.5)
    for parameter in model.encoders["audio"].parameters():
        parameter.grad.fill_(0.1**0.5)
    for module in (model.encoders["image"], model.head.classifiers["image"]):
        for parameter in module.parameters():
            parameter.grad.fill_(1.0)
    return replace(state(model=model), **at)


def step(method: Greedy, at: State) -> State:
    with torch.no_grad():
        method.after_backward(outputs(), LABELS, at)
    return at


def test_speeds_are_compared_with_the_tolerance_from_the_first_epoch_on() -> None:
    at = step(Greedy(tolerance=0.99, first_epoch=2, window=7), at_rest(epoch=2))
    assert (at.memory["speed/audio"], at.memory["speed/image"]) == pytest.approx((math.log10(2), math.log10(0.2)))
    assert (at.memory["alone"], at.memory["left"]) == ("audio", 7)
    assert not step(Greedy(tolerance=1.01, first_epoch=2), at_rest(epoch=2)).memory.get("alone")
    assert not step(Greedy(tolerance=0.99, first_epoch=3), at_rest(epoch=2)).memory.get("alone")
    without = step(Greedy(tolerance=None), at_rest(epoch=2)).memory
    assert set(without) == {"scale/audio", "scale/image"}


def test_speeds_add_up_over_the_steps_that_are_not_on_one_modality_alone() -> None:
    method, at = Greedy(tolerance=100, first_epoch=1), at_rest()
    for _ in range(3):
        step(method, at)
    assert float(at.memory["own/image"]) == pytest.approx(3)
    assert float(at.memory["shared/audio"]) == pytest.approx(3 * 0.2)
    at.memory["alone"], at.memory["left"] = "image", 2
    step(method, at)
    assert float(at.memory["own/image"]) == pytest.approx(3)
    assert (at.memory["alone"], at.memory["left"]) == ("image", 1)
    assert method.on_epoch_end(at, {}) == {
        "speed/audio": pytest.approx(math.log10(2)), "speed/image": pytest.approx(math.log10(0.2)),
    }  # fmt: skip


def test_the_scales_are_averaged_over_all_steps() -> None:
    method, at, means = Greedy(tolerance=None), at_rest(), []
    nn.init.normal_(at.model.head.excite["audio"].weight, generator=torch.Generator().manual_seed(0))
    for steps in range(3):
        made = outputs()
        made.embeddings["audio"].data.mul_(steps - 1)
        with torch.no_grad():
            method.after_backward(made, LABELS, replace(at, steps=steps))
            means.append(at.model.head.scales(made.embeddings)["audio"].mean(dim=0))
    torch.testing.assert_close(at.memory["scale/audio"], torch.stack(means).mean(dim=0))
    assert means[0].std() > 0


def test_the_loss_is_that_of_all_modalities_with_uniform_labels() -> None:
    made = outputs()
    expected = [F.cross_entropy(z, LABELS, label_smoothing=0.3).item() for z in made.unimodal.values()]
    found = Greedy().classification(made, LABELS, state(uniform_labels=0.3))
    assert found.item() == pytest.approx(sum(expected), rel=1e-12)


def test_a_parameter_without_a_gradient_has_no_speed() -> None:
    one = nn.Linear(1, 1)
    one.weight.data, one.bias.data = torch.tensor([[2.0]]), torch.tensor([5.0])
    one.weight.grad = torch.tensor([[3.0]])
    assert float(speed([one]).detach()) == pytest.approx(9 / 4)
