from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import pytest
import torch
from method_cases import LABELS, outputs, state
from torch import nn

from lfm_ray.methods.amss import AMSS, probabilities
from lfm_ray.models.classifier import Outputs

TWO = torch.tensor([0, 1])


def knowing(audio: float, image: float) -> Outputs:
    """Two samples of classes 0 and 1, of which each modality gives their class this probability; embeddings differ."""
    unimodal = {
        name: torch.tensor([[p, 1 - p], [1 - p, p]], dtype=torch.float64).log()
        for name, p in (("audio", audio), ("image", image))
    }
    flat, steep = torch.zeros(2, 4, dtype=torch.float64), torch.tensor([[0.0, math.log(3)]] * 2, dtype=torch.float64)
    return Outputs(torch.zeros(2, 2), unimodal, {"audio": flat, "image": steep.repeat(1, 2)})


def test_shares_worked_out_by_hand() -> None:
    """H(y) = log 2; softmaxes of the embeddings: quarters, and 1/8, 3/8 twice."""
    entropies = math.log(4), -(2 * math.log(1 / 8) / 8 + 2 * 3 * math.log(3 / 8) / 8)
    t = [(math.log(2) + 0.5 + math.log(p)) / entropy for p, entropy in zip((0.9, 0.8), entropies, strict=True)]
    expected = 1 / (1 + math.exp((t[0] - t[1]) / 0.5))
    found = AMSS(temperature=0.5).shares(knowing(0.9, 0.8), TWO).tolist()
    assert found == pytest.approx([expected, 1 - expected])


def test_shares_are_bounded_and_equal_while_a_modality_knows_nothing() -> None:
    assert AMSS(temperature=0.001).shares(knowing(0.99, 0.5), TWO).tolist() == pytest.approx([0.1, 0.9])
    assert AMSS().shares(knowing(0.99, 0.2), TWO).tolist() == [0.5, 0.5]
    assert AMSS(share=0.3).shares(knowing(0.99, 0.2), TWO).tolist() == pytest.approx([0.3, 0.3])


def test_the_entropy_of_the_labels_has_two_forms() -> None:
    """Labels 0, 2, 2: frequencies 1/3, 0, 2/3. The published program takes them for logits."""
    made = outputs()
    labels = torch.tensor([0, 2, 2, 2])
    p = torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64)
    entropies = {"labels": -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), "softmax": -(p * p.log_softmax(0)).sum()}
    z = torch.stack(list(made.embeddings.values()))
    h = -(z.softmax(2) * z.log_softmax(2)).sum(2).mean(1)
    for name, entropy in entropies.items():
        sure = {
            key: 9 * torch.eye(3, dtype=torch.float64)[labels] * scale for key, scale in (("audio", 1), ("image", 0.1))
        }
        known = torch.stack([torch.log_softmax(one, 1).gather(1, labels[:, None]).mean() for one in sure.values()])
        expected = ((known + entropy + 0.5) / h / 0.2).flip(0).softmax(0).clamp(0.1, 0.9)
        method = AMSS(label_entropy=name)  # type: ignore[arg-type]
        torch.testing.assert_close(method.shares(replace(made, unimodal=sure), labels), expected)


def model(rows: int = 8) -> nn.Module:
    made = nn.Module()
    made.encoders = nn.ModuleDict(
        {name: nn.Sequential(nn.Conv2d(1, rows, 2), nn.Linear(3, rows)) for name in ("audio", "image")}
    )
    made.head = nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return made


def masked(method: AMSS, steps: int = 0, rows: int = 8) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradients before and after."""
    whole = model(rows)
    named = {name: cast(torch.Tensor, parameter.grad) for name, parameter in whole.named_parameters()}
    before = {name: value.clone() for name, value in named.items()}
    method.after_backward(outputs(), LABELS, replace(state(model=whole), steps=steps))
    return before, named


def test_rows_of_the_encoders_weights_learn_in_their_share() -> None:
    before, after = masked(AMSS(share=0.3))
    for name, value in before.items():
        learn = (after[name] == value).flatten(1).all(dim=1) if value.dim() > 1 else torch.tensor([])
        if "encoders" in name and "weight" in name:
            assert int(learn.sum()) == 3  # ceil(2.4)
            assert (after[name][~learn] == 0).all()
        else:
            assert torch.equal(after[name], value)


def test_convolutions_alone_are_masked_where_that_is_asked_for() -> None:
    before, after = masked(AMSS(share=0.3, tensors="convolutions"))
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed == {"encoders.audio.0.weight", "encoders.image.0.weight"}


def test_a_step_draws_the_same_again_and_the_next_one_others() -> None:
    key = "encoders.audio.0.weight"
    one, again, other = (masked(AMSS(share=0.3), steps)[1][key] for steps in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_rows_are_drawn_in_proportion_to_their_squared_gradient() -> None:
    gradient = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert probabilities(gradient).tolist() == pytest.approx([0.9, 0.1, 0])
    assert probabilities(torch.zeros(2, 3)).tolist() == [0, 0]


def test_rows_without_a_gradient_are_not_drawn() -> None:
    whole = model()
    for parameter in whole.parameters():
        parameter.grad = torch.zeros_like(parameter)
    convolution = whole.encoders["audio"][0].weight
    convolution.grad[5] = 2.0
    AMSS(share=0.9).after_backward(outputs(), LABELS, state(model=whole))
    assert (convolution.grad[5] == 2).all()
    assert convolution.grad.abs().sum() == 2 * 4


def test_what_is_drawn_can_be_divided_by_its_probability() -> None:
    importance, drawn = torch.tensor([0.5, 0.25, 0.25, 0.0]), torch.tensor([2, 0])
    assert AMSS(unbiased=True).mask(importance, drawn).tolist() == pytest.approx([1 / 0.75, 0, 2, 0])
    assert AMSS().mask(importance, drawn).tolist() == [1, 0, 1, 0]
