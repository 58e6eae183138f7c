from __future__ import annotations

import math

import pytest
import torch

from lfm_ray.methods.recon_boost import boosting_loss, memory_loss

LABELS = torch.tensor([0, 1])
OWN = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])  # probabilities (1/2, 1/2), (3/4, 1/4)
OTHERS = torch.tensor([[math.log(4), 0.0], [0.0, 0.0]])  # probabilities (4/5, 1/5), (1/2, 1/2)


def test_the_boosting_loss_is_the_cross_entropy_of_what_the_others_leave() -> None:
    expected = ((1 - 0.5 * 4 / 5) * math.log(2) + (1 - 0.5 * 1 / 2) * math.log(4)) / 2
    assert boosting_loss(OWN, OTHERS, LABELS, 0.5).item() == pytest.approx(expected, rel=1e-6)
    own, others = OWN.clone().requires_grad_(), OTHERS.clone().requires_grad_()
    boosting_loss(own, others, LABELS, 1.0).backward()
    residual = torch.tensor([[1 / 5 * -1 / 2, 1 / 5 * 1 / 2], [1 / 2 * 3 / 4, 1 / 2 * -3 / 4]]) / 2
    torch.testing.assert_close(own.grad, residual)
    assert others.grad is None


def test_memory_loss_by_hand() -> None:
    own, before = OWN.clone().requires_grad_(), OTHERS.clone().requires_grad_()
    loss = memory_loss(own, before)
    assert loss.item() == pytest.approx((2 * 0.3**2 + 2 * 0.25**2) / 4, rel=1e-6)
    loss.backward()
    assert own.grad is not None
    assert own.grad.abs().max() > 0
    assert before.grad is None
