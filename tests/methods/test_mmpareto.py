from __future__ import annotations

import pytest
import torch

from lfm_ray.methods import mmpareto


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
