from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from method_cases import LABELS, outputs, state
from tiny_run import SMALL
from torch import nn

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


def test_modalities_that_are_level_are_not_modulated() -> None:
    made = Outputs(torch.zeros(2, 2), {"audio": torch.zeros(2, 2), "image": torch.zeros(2, 2)}, {})
    factors = OGMGE().gradient_factors(made, torch.tensor([0, 1]), state())
    assert [float(k) for k in factors.values()] == [1, 1]


def test_the_epochs_given_are_both_modulated() -> None:
    method = OGMGE(first_epoch=2, last_epoch=3)
    assert [method.active(replace(state(), epoch=epoch)) for epoch in (1, 2, 3, 4)] == [False, True, True, False]
    assert [OGMGE().active(replace(state(), epoch=epoch)) for epoch in (51, 52)] == [True, False]
    assert OGMGE(last_epoch=None).active(replace(state(), epoch=1000))
    assert not OGMGE(modulation=0).active(state())


def small_model() -> nn.Module:
    """Encoders with a large weight, a bias, and weights of one and of two entries, all with a gradient."""
    model, generator = nn.Module(), torch.Generator().manual_seed(0)
    model.encoders = nn.ModuleDict({"audio": nn.Linear(40, 50), "image": nn.Linear(1, 1), "text": nn.Linear(2, 1)})
    for parameter in model.parameters():
        parameter.grad = 1 + 3 * torch.randn(parameter.shape, generator=generator)
    return model


def modulated(method: OGMGE, **at: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The gradients before, times their factors, and after."""
    made, model = outputs(), small_model()
    now = replace(state(model=model), **at)
    factors = method.gradient_factors(made, LABELS, now)
    named = {name: cast(torch.Tensor, parameter.grad) for name, parameter in model.named_parameters()}
    before = {name: value * factors.get(name.split(".")[1], torch.tensor(1.0)).float() for name, value in named.items()}
    method.after_backward(made, LABELS, now)
    return before, named


def test_noise_is_added_to_weights_of_more_than_one_entry_and_drawn_anew_at_every_step() -> None:
    before, after = modulated(OGMGE(), seed=1, steps=2)
    noise = after["encoders.audio.weight"] - before["encoders.audio.weight"]
    assert noise.mean().item() == pytest.approx(0, abs=0.3)
    assert noise.std().item() == pytest.approx(3, rel=0.1)
    assert not torch.allclose(after["encoders.text.weight"], before["encoders.text.weight"])
    for name in ("encoders.audio.bias", "encoders.image.weight", "encoders.image.bias"):
        torch.testing.assert_close(after[name], before[name])
    assert torch.equal(modulated(OGMGE(), seed=1, steps=2)[1]["encoders.audio.weight"], after["encoders.audio.weight"])
    other = modulated(OGMGE(), seed=1, steps=3)[1]["encoders.audio.weight"]
    assert (other - after["encoders.audio.weight"]).std().item() > 3


def test_convolutions_alone_are_changed_where_that_is_asked_for() -> None:
    before, after = modulated(OGMGE(tensors="convolutions"))
    model = small_model()
    for name, parameter in model.named_parameters():  # none has four dimensions
        assert torch.equal(after[name], cast(torch.Tensor, parameter.grad))
    assert not torch.equal(before["encoders.audio.weight"], after["encoders.audio.weight"])


@pytest.mark.parametrize("method", [OGMGE(noise=False), OGMGE(first_epoch=2), OGMGE(modulation=0)])
def test_without_noise_or_outside_of_the_epochs_there_is_the_factor_alone(method: OGMGE) -> None:
    before, after = modulated(method)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)


def test_noise_of_gradients_in_float64_is_drawn_in_float64() -> None:
    model = small_model().double()
    for parameter in model.parameters():
        parameter.grad = torch.arange(float(parameter.numel()), dtype=torch.float64).view_as(parameter)
    before = cast(torch.Tensor, model.encoders["audio"].weight.grad).clone()
    made, now = outputs(), replace(state(model=model), seed=1, steps=2)
    OGMGE().after_backward(made, LABELS, now)
    factor = OGMGE().gradient_factors(made, LABELS, now)["audio"]
    drawn = torch.randn(before.numel(), generator=now.generator(torch.device("cpu")), dtype=torch.float64)
    expected = factor * before + before.std() * drawn.view_as(before)
    torch.testing.assert_close(model.encoders["audio"].weight.grad, expected)
