from __future__ import annotations

import math

import pytest
import torch

from lfm_ray.methods.mla import entropy_weighted, updated_projection


def test_the_projection_is_the_inverse_that_the_recursion_stands_for() -> None:
    steps = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projection, matrix = torch.eye(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    for features in steps:
        projection = updated_projection(projection, features, 0.1)
        matrix = matrix + torch.outer(features.mean(dim=0), features.mean(dim=0)) / 0.1
    torch.testing.assert_close(projection, torch.linalg.inv(matrix))


def test_a_small_alpha_leaves_nothing_along_the_mean_feature() -> None:
    features = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]], dtype=torch.float64)
    projection = updated_projection(torch.eye(3, dtype=torch.float64), features, 1e-9)
    r = torch.tensor([2.0, 2.0, 0.0], dtype=torch.float64)
    expected = torch.eye(3, dtype=torch.float64) - torch.outer(r, r) / 8
    torch.testing.assert_close(projection, expected, rtol=0, atol=1e-9)


def test_the_more_certain_modality_weighs_more() -> None:
    sure, unsure = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    entropies = [-(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)), math.log(2)]
    weight = math.exp(-entropies[0]) / (math.exp(-entropies[0]) + math.exp(-entropies[1]))
    found = entropy_weighted({"audio": sure, "image": unsure})
    assert found[0].tolist() == pytest.approx([weight * math.log(3), 0])
    assert weight > 0.5
