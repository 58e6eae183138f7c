from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.methods import State
from lfm_ray.methods.agm import AGM, scores, shapley
from lfm_ray.models.fusion import FUSION_HEADS, Head

NAMES = ["audio", "image", "text", "depth"]


def head_and_embeddings(name: str, m: int) -> tuple[Head, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    head = FUSION_HEADS[name](NAMES[:m], 5, 3).double()
    return head, {key: torch.randn(4, 5, dtype=torch.float64) for key in NAMES[:m]}


@pytest.mark.parametrize(("name", "m"), [("sum", 2), ("affine", 2), ("channel", 3), ("ml_lstm", 3), ("channel", 4)])
def test_shares_are_the_mean_over_all_orders_of_joining(name: str, m: int) -> None:
    head, z = head_and_embeddings(name, m)

    fused = head(z)[0]

    def worth(joined: list[str]) -> torch.Tensor:
        padded = {key: value if key in joined else 0 * value for key, value in z.items()}
        return head(padded)[0] if joined else 0 * fused

    expected = {key: torch.zeros_like(fused) for key in z}
    orders = list(permutations(z))
    for order in orders:
        for place, key in enumerate(order):
            expected[key] += (worth(list(order[: place + 1])) - worth(list(order[:place]))) / len(orders)
    found = shapley(head, z)
    for key in z:
        torch.testing.assert_close(found[key], expected[key])
    torch.testing.assert_close(sum(found.values(), torch.zeros_like(fused)), fused)


def test_coefficients_worked_out_by_hand() -> None:
    """s = (0.5, 1.5), S = (0.8, 1.0): audio is ahead by more than it was before, and is held back."""
    method, a = AGM(modulation=0.7), 0.7
    phi = {"audio": torch.tensor([[0.5, 0.0]]), "image": torch.tensor([[1.5, 0.0]])}
    phi = {key: torch.stack([-value[:, 0], torch.log1p(-torch.exp(-value[:, 0]))], dim=1) for key, value in phi.items()}
    assert scores(phi, torch.tensor([0])).tolist() == pytest.approx([0.5, 1.5])
    memory = {"score/audio": torch.tensor(0.8), "score/image": torch.tensor(1.0)}
    kappa = method.kappa(phi, torch.tensor([0]), state(memory=memory))
    assert float(kappa["audio"]) == pytest.approx(torch.exp(torch.tensor(a * (1.2214028 - 2.7182818))).item())
    assert float(kappa["image"]) == pytest.approx(torch.exp(torch.tensor(a * (0.8187308 - 0.3678794))).item())
    assert float(kappa["audio"]) < 1 < float(kappa["image"])


def test_the_exponent_is_bounded_and_modulation_ends() -> None:
    """Scores 0.2 and 3.2: audio was that far ahead before, and is level now, so tau - r is e^3 - 1."""
    mean, now = torch.tensor([0.2, 3.2]).double(), torch.tensor([1.0, 1.0]).double()
    assert AGM(modulation=1).coefficients(mean, now)[0].item() == pytest.approx(math.exp(10))
    assert AGM(highest_exponent=7).coefficients(mean, now)[0].item() == pytest.approx(math.exp(7))
    assert AGM(highest_exponent=None).coefficients(mean, now)[0].item() == pytest.approx(math.exp(math.exp(3) - 1))
    assert [AGM().active(replace(state(), epoch=epoch)) for epoch in (20, 21)] == [True, False]
    assert AGM(last_epoch=None).active(replace(state(), epoch=1000))


def test_the_heads_gradient_is_clipped_where_an_entry_is_above_one() -> None:
    head = FUSION_HEADS["concat"](NAMES[:2], 5, 3).double()
    for largest, norm in ((0.9, None), (3.0, 1.0)):
        for parameter in head.parameters():
            parameter.grad = torch.full_like(parameter, largest)
        with torch.no_grad():
            AGM(modulation=0, head_clip=1).after_backward(outputs(), LABELS, state(model=SimpleNamespace(head=head)))
        found = torch.cat([parameter.grad.flatten() for parameter in head.parameters()])
        assert found.norm().item() == pytest.approx(0.9 * len(found) ** 0.5 if norm is None else norm, rel=1e-5)


def test_the_mean_scores_are_those_of_all_steps() -> None:
    method, head = AGM(), FUSION_HEADS["sum"](NAMES[:2], 5, 3).double()
    at = state(model=SimpleNamespace(head=head))
    made = [outputs(), outputs()]
    made[1].embeddings["audio"].data.mul_(2)
    with torch.no_grad():
        for steps, one in enumerate(made):
            method.after_backward(one, LABELS, State(at.model, at.settings, steps=steps, memory=at.memory))
    each = torch.stack([scores(shapley(head, one.embeddings), LABELS) for one in made])
    found = torch.stack([at.memory["score/audio"], at.memory["score/image"]])
    torch.testing.assert_close(found, each.mean(dim=0).detach())


def test_the_gradient_is_the_weighted_sum_over_the_shares() -> None:
    """dL/dtheta = sum_j kappa_j (dL/dfused) (dphi_j/dtheta), each derivative taken on its own."""
    head, method = FUSION_HEADS["concat"](NAMES[:2], 5, 3).double(), AGM(modulation=2)
    made = outputs()
    fused = head(made.embeddings)[0]
    made = replace(made, fused=fused)
    memory = {"score/audio": torch.tensor(1.0), "score/image": torch.tensor(0.2)}
    at = state(model=SimpleNamespace(head=head), memory=memory)
    loss = method.classification(made, LABELS, at)
    assert loss.item() == pytest.approx(F.cross_entropy(fused, LABELS).item(), rel=1e-12)
    found = torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
    (by_fused,) = torch.autograd.grad(F.cross_entropy(fused, LABELS), fused, retain_graph=True)
    phi = shapley(head, made.embeddings)
    kappa = method.kappa(phi, LABELS, at)
    shares = [
        torch.autograd.grad(phi[key], list(head.parameters()), kappa[key] * by_fused, retain_graph=True) for key in phi
    ]
    for one, *parts in zip(found, *shares, strict=True):
        torch.testing.assert_close(one, sum(parts, torch.zeros_like(one)))


def test_alpha_is_judged_by_the_loss_as_it_is_and_theta_trained_on_the_modulated_one() -> None:
    head, made = FUSION_HEADS["concat"](NAMES[:2], 5, 3).double(), outputs()
    made = replace(made, fused=head(made.embeddings)[0])
    memory = {"score/audio": torch.tensor(1.0), "score/image": torch.tensor(0.2)}
    at = state(0.3, model=SimpleNamespace(head=head), memory=memory, uniform_labels=0.2)
    losses = AGM(modulation=2).loss(made, LABELS, at)
    plain = F.cross_entropy(made.fused, LABELS, label_smoothing=0.2)
    expected = torch.autograd.grad(plain, list(head.parameters()), retain_graph=True)
    judged = torch.autograd.grad(losses.judged, list(head.parameters()), retain_graph=True)
    trained = torch.autograd.grad(losses.classification, list(head.parameters()), retain_graph=True)
    for one, other, modulated in zip(expected, judged, trained, strict=True):
        torch.testing.assert_close(one, other)
        assert not torch.allclose(one, modulated, rtol=1e-3, atol=1e-6)
    assert losses.total.item() == pytest.approx(0.7 * plain.item() + 0.3 * losses.matching.item(), rel=1e-12)


def test_coefficients_of_three_modalities_at_the_first_step() -> None:
    """s = (0.5, 1.5, 2.5): the others are behind audio by 1 and 2; of the steps before there are none, so tau = 1."""
    s = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    phi = {
        name: torch.stack([-one, torch.log1p(-torch.exp(-one))])[None] for name, one in zip(NAMES[:3], s, strict=True)
    }
    kappa = AGM(modulation=0.5).kappa(phi, torch.tensor([0]), state())
    expected = [math.exp(0.5 * (1 - math.exp(ahead))) for ahead in (1.5, 0.0, -1.5)]
    assert [float(kappa[name]) for name in NAMES[:3]] == pytest.approx(expected)


def test_without_modulation_it_is_the_cross_entropy_and_nothing_is_remembered() -> None:
    made, at = outputs(), state(uniform_labels=0.2)
    expected = F.cross_entropy(made.fused, LABELS, label_smoothing=0.2)
    assert AGM(modulation=0).classification(made, LABELS, at).item() == pytest.approx(expected.item(), rel=1e-12)
    AGM(modulation=0).after_backward(made, LABELS, at)
    assert not at.memory
