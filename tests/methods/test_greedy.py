from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_run import SMALL
from tiny_run import splits_with_outer as splits

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
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
