from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state
from torch import nn

from lfm_ray.methods import State
from lfm_ray.methods.cggm import CGGM
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Multitask

FOUR = torch.tensor([0, 0, 0, 0])


def right(*hits: int) -> Outputs:
    """Four samples of class 0, of which each modality's classifier gets so many right."""
    unimodal = {
        name: torch.eye(2)[torch.tensor([0] * count + [1] * (4 - count))]
        for name, count in zip(("audio", "image", "text"), hits, strict=False)
    }
    return Outputs(torch.zeros(4, 2), unimodal, {name: torch.zeros(4, 1) for name in unimodal})


def c(method: CGGM, made: Outputs, **memory: Any) -> list[float]:
    return [float(one) for one in method.coefficients(made, FOUR, state(memory=memory)).values()]


def test_coefficients_worked_out_by_hand() -> None:
    assert c(CGGM(), right(3, 1)) == pytest.approx([0.25, 0.75])
    before = {"accuracy/audio": torch.tensor(0.5), "accuracy/image": torch.tensor(0.25)}
    assert c(CGGM(), right(3, 3), **before) == pytest.approx([2 / 3, 1 / 3])  # 1/4 and 1/2 better
    assert c(CGGM(), right(1, 1, 2)) == pytest.approx([0.75, 0.75, 0.5])


def test_huge_coefficients_are_bounded_where_that_is_asked_for() -> None:
    before = {"accuracy/audio": torch.tensor(0.5), "accuracy/image": torch.tensor(0.5)}
    audio, image = c(CGGM(), right(3, 1), **before)
    assert -audio == pytest.approx(0.25e8)
    assert image == pytest.approx(0.25e8)
    assert c(CGGM(highest=2), right(3, 1), **before) == [-2, 2]


def in_model(**memory: Any) -> tuple[Outputs, State]:
    torch.manual_seed(0)
    head = Multitask(["audio", "image"], 5, 3).double()
    encoders = nn.ModuleDict({name: nn.Linear(2, 5) for name in ("audio", "image")})
    z = outputs().embeddings
    model = nn.Module()
    model.head, model.encoders = head, encoders
    return Outputs(*head(z), z), state(model=model, memory=memory)


def test_classifiers_learn_without_a_gradient_to_the_encoders() -> None:
    made, now = in_model()
    loss = CGGM().classification(made, LABELS, now)
    own = [F.cross_entropy(logits, LABELS) for logits in made.unimodal.values()]
    joint = F.cross_entropy(made.fused, LABELS)
    torch.testing.assert_close(loss, joint + own[0] + own[1])
    z = list(made.embeddings.values())
    for ours, plain in zip(
        torch.autograd.grad(loss, z, retain_graph=True), torch.autograd.grad(joint, z, retain_graph=True), strict=True
    ):
        torch.testing.assert_close(ours, plain)
    weight = now.model.head.get_parameter("classifiers.audio.weight")
    (ours,), (plain,) = (torch.autograd.grad(one, [weight], retain_graph=True) for one in (loss, own[0]))
    torch.testing.assert_close(ours, plain)


def test_directions_have_their_weight_from_the_second_step_on() -> None:
    """Where a classifier is the modality's part of the fused one, its cosine is 1; here the second's is -1."""
    made, now = in_model(**{"coefficient/audio": torch.tensor(0.25), "coefficient/image": torch.tensor(-0.5)})
    head = now.model.head
    with torch.no_grad():
        parts = head.get_parameter("classifier.weight").chunk(2, dim=1)
        for name, part, factor in zip(("audio", "image"), parts, (2, -3), strict=True):
            head.get_parameter(f"classifiers.{name}.weight").copy_(factor * part)
    made = Outputs(*head(made.embeddings), made.embeddings)
    assert CGGM().cosines(now).tolist() == pytest.approx([1, -1])
    with_it, without = (CGGM(direction_weight=w).classification(made, LABELS, now) for w in (0.4, 0))
    assert (with_it - without).item() == pytest.approx(0.4 / 2 * ((0.25 - 0.25) + (0.5 - 0.5)), abs=1e-12)
    other = CGGM(direction_weight=0.4).classification(made, LABELS, replace(now, memory={
        "coefficient/audio": torch.tensor(-0.25), "coefficient/image": torch.tensor(0.5)}))  # fmt: skip
    assert (other - without).item() == pytest.approx(0.4 / 2 * (0.5 + 1.0))


def test_encoders_are_modulated_and_the_step_is_remembered() -> None:
    made, now = in_model()
    for parameter in now.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    method = CGGM(magnitude=3)
    factors = method.gradient_factors(made, LABELS, now)
    accuracies, coefficients = method.accuracies(made, LABELS), method.coefficients(made, LABELS, now)
    method.after_backward(made, LABELS, now)
    for name, encoder in now.model.encoders.items():
        assert factors[name] == 3 * coefficients[name]
        assert encoder.weight.grad[0, 0].item() == pytest.approx(factors[name].item())
        assert now.memory[f"accuracy/{name}"] == accuracies[name]
        assert now.memory[f"coefficient/{name}"] == coefficients[name]
    assert now.model.head.get_parameter("classifier.weight").grad[0, 0] == 1


def test_alpha_is_judged_by_the_fused_logits() -> None:
    made, now = in_model()
    torch.testing.assert_close(CGGM().loss(made, LABELS, now).judged, F.cross_entropy(made.fused, LABELS))
