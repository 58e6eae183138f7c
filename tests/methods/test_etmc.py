from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lfm_ray.methods.etmc import evidential_loss, fused_evidence


def dempster(first: Tensor, second: Tensor) -> Tensor:
    """The rule as the paper states it, mass by mass, for one sample: evidence (C,), (C,) -> (C,)."""
    classes = len(first)
    totals = [float((e + 1).sum()) for e in (first, second)]
    b = [[float(entry) / total for entry in e] for e, total in zip((first, second), totals, strict=True)]
    u = [classes / total for total in totals]
    conflict = sum(b[0][i] * b[1][j] for i in range(classes) for j in range(classes) if i != j)
    belief = [(b[0][i] * b[1][i] + b[0][i] * u[1] + b[1][i] * u[0]) / (1 - conflict) for i in range(classes)]
    uncertainty = u[0] * u[1] / (1 - conflict)
    assert sum(belief) + uncertainty == pytest.approx(1)
    return torch.tensor([entry * classes / uncertainty for entry in belief], dtype=torch.float64)


def test_evidence_is_fused_by_dempsters_rule() -> None:
    # Beliefs (0.6, 0) with uncertainty 0.4, and (0, 1/3) with 2/3: conflict 0.2, fused (1/2, 1/6) with 1/3.
    by_hand = fused_evidence([torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]])])
    assert by_hand.tolist() == [[pytest.approx(3.0), pytest.approx(1.0)]]
    views = 5 * torch.rand(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, found in enumerate(fused_evidence(views)):
        expected = dempster(dempster(views[0, row], views[1, row]), views[2, row])
        torch.testing.assert_close(found, expected)


def test_evidential_loss_at_values_known_by_hand() -> None:
    e = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    right, wrong = torch.tensor([0, 1]), torch.tensor([0, 0])
    # psi(5) - psi(4) = 1/4; psi(3) - psi(2) = 1/2; psi(3) - psi(1) = 3/2
    assert evidential_loss(e, right, 0).item() == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert evidential_loss(e, right, 1).item() == pytest.approx((1 / 4 + 1 / 2) / 2)  # no evidence is wrong
    # KL(Beta(1, a) || Beta(1, 1)) = ln a - (a - 1) / a, with a = 2 in the second sample
    divergence = math.log(2) - 1 / 2
    assert evidential_loss(e, wrong, 0.3).item() == pytest.approx((1 / 4 + 3 / 2 + 0.3 * divergence) / 2)
