from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from method_cases import LABELS, outputs, state
from tiny_run import SMALL

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import Shards
from lfm_ray.methods.ogm_ge import OGMGE, deviation
from lfm_ray.models.classifier import Outputs
from lfm_ray.settings import load
from lfm_ray.training.trainer import Trainer


def test_coefficients_worked_out_by_hand() -> None:
    """Probabilities of the label: audio 0.6 and 0.6, image 0.3 and 0.5, so rho = 1.5 and 2 / 3."""
    audio, image = torch.tensor([[0.6, 0.4], [0.4, 0.6]]), torch.tensor([[0.3, 0.7], [0.5, 0.5]])
    made = Outputs(torch.zeros(2, 2), {"audio": audio.log(), "image": image.log()}, {})
    factors = OGMGE(modulation=0.4).gradient_factors(made, torch.tensor([0, 1]), state())
    assert float(factors["audio"]) == pytest.approx(1 - 0.5370496)  # tanh(0.4 * 1.5)
    assert float(factors["image"]) == 1.0


def test_the_noise_is_a_function_of_seed_and_step() -> None:
    def drawn(seed: int, steps: int) -> list[float]:
        at = replace(state(), seed=seed, steps=steps)
        return torch.randn(3, generator=at.generator(torch.device("cpu"))).tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert drawn(1, 2) != drawn(1, 3)
    assert drawn(1, 2) != drawn(2, 2)


def test_epochs_outside_the_given_ones_are_not_modulated() -> None:
    made = outputs()
    assert OGMGE(last_epoch=1).gradient_factors(made, LABELS, state())
    assert not OGMGE(first_epoch=2).gradient_factors(made, LABELS, state())


def test_encoders_alone_are_modulated_and_noise_has_the_size_of_their_gradient(shards: Shards) -> None:
    run = Trainer(load(RunConfig, None, [*SMALL, "model.width=32", "method=ogm_ge"]), shards.card)
    weight = max(run.model.encoders["audio"].parameters(), key=torch.numel)
    for parameter in run.parameters:
        parameter.grad = torch.ones_like(parameter)
    before = torch.randn_like(weight) * 3
    weight.grad = before.clone()
    made = outputs()
    factor = OGMGE().gradient_factors(made, LABELS, run.state())["audio"]
    OGMGE().after_backward(made, LABELS, run.state())
    noise = (weight.grad - factor.float() * before).detach()
    assert weight.numel() > 1000
    assert float(noise.std()) == pytest.approx(3, rel=0.1)
    for parameter in run.model.head.parameters():
        assert torch.equal(cast(torch.Tensor, parameter.grad), torch.ones_like(parameter))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_deviation_is_that_of_the_entries(memory_format: torch.memory_format) -> None:
    gradient = 2 + 3 * torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    found = deviation(gradient.to(memory_format=memory_format))
    assert found.item() == pytest.approx(gradient.std().item(), rel=1e-5)
    assert deviation(torch.full((3, 2), 0.1)).item() == pytest.approx(0, abs=1e-4)
