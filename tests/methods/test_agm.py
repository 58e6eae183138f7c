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

NAMES = ["audio", "image", "text"]


def head_and_embeddings(name: str, m: int) -> tuple[Head, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    head = FUSION_HEADS[name](NAMES[:m], 5, 3).double()
    return head, {key: torch.randn(4, 5, dtype=torch.float64) for key in NAMES[:m]}


@pytest.mark.parametrize(("name", "m"), [("sum", 2), ("affine", 2), ("channel", 3), ("ml_lstm", 3)])
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
