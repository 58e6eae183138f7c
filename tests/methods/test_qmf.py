from __future__ import annotations

import math

import pytest
import torch

from lfm_ray.methods.qmf import confidence, confidence_weighted, ranking_loss


def test_confidence_is_a_tenth_of_the_log_of_the_sum_of_exponentials() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    assert confidence(logits).tolist() == pytest.approx([math.log(2) / 10, math.log(4) / 10])


def test_logits_are_weighed_by_confidences_without_gradient() -> None:
    first = torch.tensor([[math.log(3), 0.0]], requires_grad=True)
    second = torch.tensor([[0.0, 1.0]], requires_grad=True)
    weights = [math.log(4) / 10, math.log(1 + math.e) / 10]
    fused = confidence_weighted({"audio": first, "image": second})
    assert fused[0].tolist() == pytest.approx([weights[0] * math.log(3), weights[1]])
    fused[0, 0].backward()
    assert first.grad is not None
    assert first.grad[0].tolist() == pytest.approx([weights[0], 0])


def test_the_harder_sample_is_to_be_less_confident_by_its_lead() -> None:
    # Pairs (1, 2), (2, 3), (3, 1): hardness leads -0.5, -0.5, 1
    hardness = torch.tensor([0.0, 0.5, 1.0])
    right = ranking_loss(torch.tensor([2.0, 1.0, 0.0]), hardness)  # 1 - 1 ... far enough apart, in the right order
    assert right.item() == 0
    wrong = ranking_loss(torch.tensor([0.0, 0.0, 0.7]), hardness)
    assert wrong.item() == pytest.approx((0.5 + 1.2 + 1.7) / 3)
    equal = ranking_loss(torch.tensor([3.0, 1.0]), torch.tensor([0.4, 0.4]))
    assert equal.item() == 0
