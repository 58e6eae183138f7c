from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, in_model

from lfm_ray.methods.arl import ARL


def test_weights_worked_out_by_hand() -> None:
    """Of one sample and two classes. Probabilities 1/2 and 1/2: entropy log 2; 0.9 and 0.1: 0.325."""
    logits = torch.tensor([[[1.0, 1.0]], [[math.log(9), 0.0]]], dtype=torch.float64)
    entropies = torch.tensor([math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)], dtype=torch.float64)
    entropies = entropies / entropies.sum()  # 0.68 and 0.32, both above 0.3
    certain = 1 / entropies / (1 / entropies).sum()
    size = torch.tensor([2, math.log(9)], dtype=torch.float64) / (2 + math.log(9))
    expected = torch.softmax(8 * torch.stack([size[1] * certain[0], size[0] * certain[1]]), dim=0)
    torch.testing.assert_close(ARL(sharpness=8).computed(logits), expected)


def test_a_share_of_the_entropy_is_at_least_three_tenths() -> None:
    """The second modality is sure: shares 1 and 0, so 1 and 0.3, and certainties 3 / 13 and 10 / 13."""
    logits = torch.tensor([[[1.0, 1.0]], [[60.0, -60.0]]], dtype=torch.float64)
    expected = torch.softmax(torch.tensor([120 / 122 * 3 / 13, 2 / 122 * 10 / 13], dtype=torch.float64), dim=0)
    torch.testing.assert_close(ARL(sharpness=1).computed(logits), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("epoch", "gamma"), [(6, 1.0), (7, 3.0)])
def test_unimodal_losses_are_weighted_from_the_first_epoch_on(epoch: int, gamma: float) -> None:
    made, now = in_model(epoch)
    method = ARL(unimodal_weight=3)
    own = [F.cross_entropy(logits, LABELS) for logits in method.alone(made, now).values()]
    expected = F.cross_entropy(made.fused, LABELS) + gamma * (own[0] + own[1])
    torch.testing.assert_close(method.classification(made, LABELS, now), expected)


def test_logits_of_a_modality_are_those_with_zeros_for_the_other() -> None:
    made, now = in_model(1)
    bias = now.model.head.get_parameter("classifier.bias")
    torch.testing.assert_close(ARL().alone(made, now)["image"], made.unimodal["image"] + bias / 2)


def test_encoders_learn_one_and_a_half_times_as_fast_until_weights_are_computed() -> None:
    for method, epoch in ((ARL(), 6), (ARL(weights="equal"), 9)):
        made, now = in_model(epoch)
        assert {name: float(k) for name, k in method.gradient_factors(made, LABELS, now).items()} == {
            "audio": 1.5,
            "image": 1.5,
        }
    made, now = in_model(7)
    factors = torch.stack(list(ARL().gradient_factors(made, LABELS, now).values()))
    w = ARL().computed(torch.stack(list(ARL().alone(made, now).values())))
    torch.testing.assert_close(factors, 1 + w)
    assert factors.sum().item() == pytest.approx(3)
    assert abs(factors[0] - factors[1]).item() > 0.01


def test_alpha_is_judged_by_the_fused_logits() -> None:
    made, now = in_model(7)
    torch.testing.assert_close(ARL().loss(made, LABELS, now).judged, F.cross_entropy(made.fused, LABELS))
