from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.methods import LFM, mmpareto


def common_direction(g_m: torch.Tensor, g_u: torch.Tensor, magnitude: float) -> torch.Tensor:
    """Of an encoder with two parameters: the first entry, and the others."""
    found = mmpareto.common_direction([g_m[:1], g_m[1:]], [g_u[:1], g_u[1:]], magnitude)
    return torch.cat(found)


def test_common_direction_of_two_gradients_in_the_plane() -> None:
    # Shortest combination 0.6 (1, 0) + 0.4 (-1, 1) = (0.2, 0.4); doubled; lengthened to |(0, 1)| = 1; times 1.5
    found = common_direction(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0]), 1.5)
    assert found.tolist() == pytest.approx([1.5 / 5**0.5, 3 / 5**0.5])
    agreeing = common_direction(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), 1.5)
    assert agreeing.tolist() == pytest.approx([3.0, 1.5])
    opposite = common_direction(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]), 1.5)
    assert opposite.tolist() == [0, 0]


def test_common_direction_is_the_shortest_in_the_simplex_and_descends_for_both() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
    conflicts = 0
    for _ in range(20):
        g_m, g_u = torch.randn(2, 5, dtype=torch.float64, generator=generator)
        g_u = g_u - 1.2 * g_m
        if g_m @ g_u > 0:
            continue
        conflicts += 1
        found = common_direction(g_m, g_u, 1.0)
        combinations = weights * g_m + (1 - weights) * g_u
        shortest = combinations[combinations.norm(dim=1).argmin()]
        torch.testing.assert_close(found / found.norm(), shortest / shortest.norm(), rtol=0, atol=1e-3)
        assert found.norm().item() == pytest.approx(
            max((g_m + g_u).norm().item(), 2 * shortest.norm().item()), rel=1e-6
        )
        assert found @ g_m > 0
        assert found @ g_u > 0
    assert conflicts > 10


def test_each_tensor_is_lengthened_on_its_own_where_that_is_asked_for() -> None:
    """The same shortest combination (0.2, 0.4), doubled: its entries against those of the sum, 0 and 1."""
    found = mmpareto.common_direction(
        [torch.tensor([1.0]), torch.tensor([0.0])], [torch.tensor([-1.0]), torch.tensor([1.0])], 1.5, by_tensor=True
    )
    assert torch.cat(found).tolist() == pytest.approx([1.5 * 0.4, 1.5 * 1])


def test_gradients_at_right_angles_are_weighed_by_the_shortest_combination() -> None:
    # w = 1 / 5: twice (0.4, 0.8), whose length sqrt(3.2) is brought to that of (2, 1)
    found = common_direction(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]), 1.0)
    assert found.tolist() == pytest.approx([1.0, 2.0])


def test_a_combination_that_is_longer_than_the_sum_stays_as_long() -> None:
    # (3, 0) and (-1, 0.1) nearly cancel out in no combination but (w = 0.25...) the shortest: twice that
    g_m, g_u = torch.tensor([1.0, 0.2], dtype=torch.float64), torch.tensor([-1.0, 0.2], dtype=torch.float64)
    found = common_direction(g_m, g_u, 1.0)  # the sum is (0, 0.4), and twice the shortest too
    assert found.tolist() == pytest.approx([0, 0.4], abs=1e-12)


def test_no_gradient_and_equal_gradients() -> None:
    zero, one = torch.zeros(2), torch.tensor([1.0, -2.0])
    assert common_direction(zero, zero, 1.5).tolist() == [0, 0]
    assert common_direction(one, one, 1.5).tolist() == pytest.approx([3, -6])
    assert torch.isfinite(common_direction(zero, one, 1.5)).all()
    assert torch.isfinite(common_direction(one, zero, 1.5)).all()


def test_the_terms_are_the_joint_loss_and_those_of_the_modalities() -> None:
    made, at = outputs(), state(0.3, tau=0.5, uniform_labels=0.2)
    losses = mmpareto.MMPareto().loss(made, LABELS, at)
    joint = LFM().loss(made, LABELS, at)
    own = sum(F.cross_entropy(z, LABELS, label_smoothing=0.2).item() for z in made.unimodal.values())
    assert [term.item() for term in losses.terms] == pytest.approx([joint.total.item(), own])
    assert losses.total.item() == pytest.approx(joint.total.item() + own)
    assert losses.classification.item() == pytest.approx(joint.classification.item())
    assert losses.parts is None


def test_encoders_follow_their_common_direction_and_the_rest_the_sum() -> None:
    at = state(model=SimpleNamespace(encoders={"audio": None, "image": None, "text": None}))
    joint = {"encoders.audio.w": [1.0], "encoders.audio.b": [0.0], "encoders.image.w": [1.0], "head.w": [1.0]}
    own = {"encoders.audio.w": [-1.0], "encoders.audio.b": [1.0], "encoders.image.w": [1.0], "head.w": [-3.0]}
    terms = [{name: torch.tensor(value) for name, value in one.items()} for one in (joint, own)]
    found = mmpareto.MMPareto(magnitude=1.5).gradient(terms, at)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"encoders.audio.w": 1.5 / 5**0.5, "encoders.audio.b": 3 / 5**0.5, "encoders.image.w": 3, "head.w": -2}
    )
