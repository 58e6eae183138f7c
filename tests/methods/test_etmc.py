from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state
from torch import Tensor

from lfm_ray.methods.etmc import ETMC, evidence, evidential_loss, fused_evidence


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


@pytest.mark.parametrize(("epoch", "strength"), [(1, 0.0), (2, 0.25), (4, 0.75), (5, 1.0), (6, 1.0), (50, 1.0)])
def test_the_pull_of_wrong_evidence_grows_evenly_to_its_whole_strength(epoch: int, strength: float) -> None:
    made, method = outputs(), ETMC(annealing_epochs=4)
    views = [F.softplus(z) for z in (made.unimodal["audio"], made.unimodal["image"], made.fused)]
    expected = sum(evidential_loss(e, LABELS, strength).item() for e in (*views, fused_evidence(views)))
    found = method.classification(made, LABELS, replace(state(), epoch=epoch))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_evidence_is_the_softplus_of_the_logits_in_float32_at_least() -> None:
    assert evidence(torch.zeros(1, 2)).tolist() == [[pytest.approx(math.log(2))] * 2]
    assert evidence(torch.zeros(1, 2, dtype=torch.float16)).dtype == torch.float32
    assert evidence(torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_the_prediction_is_the_mean_of_the_fused_dirichlet() -> None:
    made = outputs()
    parameters = fused_evidence([F.softplus(z) for z in (*made.unimodal.values(), made.fused)]) + 1
    torch.testing.assert_close(ETMC().predict(made).softmax(dim=1), parameters / parameters.sum(dim=1, keepdim=True))
