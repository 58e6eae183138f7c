from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.datasets.reading.batches import ROWS
from lfm_ray.methods.qmf import QMF, confidence, confidence_weighted, ranking_loss
from lfm_ray.models.classifier import Outputs


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


def test_of_two_samples_the_harder_is_to_be_less_confident_and_a_lead_is_let_off() -> None:
    # Pairs (1, 2), (2, 3), (3, 1): hardness leads -0.5, -0.5, 1; confidences 0, 0, -0.7 too high, then 1.2 - 1
    hardness = torch.tensor([0.0, 0.5, 1.0])
    assert ranking_loss(torch.tensor([2.0, 1.0, 0.0]), hardness).item() == 0
    assert ranking_loss(torch.tensor([0.0, 0.0, 0.7]), hardness).item() == pytest.approx(0.2 / 3)
    assert ranking_loss(torch.tensor([0.0, 0.0, 1.2]), hardness).item() == pytest.approx((0.7 + 0.2) / 3)


def test_with_the_margin_added_the_harder_sample_is_to_be_less_confident_by_its_lead() -> None:
    # Pairs (1, 2), (2, 3), (3, 1): hardness leads -0.5, -0.5, 1
    hardness = torch.tensor([0.0, 0.5, 1.0])
    right = ranking_loss(
        torch.tensor([2.0, 1.0, 0.0]), hardness, margin=1
    )  # 1 - 1 ... far enough apart, in the right order
    assert right.item() == 0
    wrong = ranking_loss(torch.tensor([0.0, 0.0, 0.7]), hardness, margin=1)
    assert wrong.item() == pytest.approx((0.5 + 1.2 + 1.7) / 3)
    equal = ranking_loss(torch.tensor([3.0, 1.0]), torch.tensor([0.4, 0.4]), margin=1)
    assert equal.item() == 0


def seen(rows: list[int]) -> Outputs:
    made = outputs()
    made.extra[ROWS] = torch.tensor(rows, dtype=torch.float64)[:, None]
    return made


def test_the_losses_of_a_sample_add_up_under_its_row() -> None:
    method, at = QMF(), state()
    made = seen([3, 0, 5, 1])
    losses = F.cross_entropy(made.unimodal["audio"], LABELS, reduction="none").detach()
    method.after_backward(made, LABELS, at)
    zero = torch.tensor(0.0, dtype=torch.float64)
    expected = torch.stack([losses[1], losses[3], zero, losses[0], zero, losses[2]])
    torch.testing.assert_close(at.memory["audio"], expected)
    method.after_backward(seen([0, 1, 2, 3]), LABELS, at)
    expected = expected + torch.cat([losses, torch.zeros(2)])
    torch.testing.assert_close(at.memory["audio"], expected)
    assert set(at.memory) == {"audio", "image"}
    assert not at.memory["audio"].requires_grad


@pytest.mark.parametrize(("margin", "sign_of_margin"), [("subtracted", -1), ("added", 1)])
@pytest.mark.parametrize("samples", [0, 9])
@pytest.mark.parametrize("regulariser", [0.0, 0.5])
def test_the_loss_by_its_definition(
    regulariser: float, samples: int, margin: Literal["subtracted", "added"], sign_of_margin: int
) -> None:
    """Hardness: the losses of all epochs, scaled to 0 ... 1 over all samples; those that were not seen have none."""
    made, rows = seen([3, 0, 5, 1]), [3, 0, 5, 1]
    memory = {"audio": torch.tensor([1.0, 9.0, 2.0, 0.5]).double(), "image": torch.tensor([0.0, 4.0]).double()}
    expected = F.cross_entropy(confidence_weighted(made.unimodal), LABELS).item()
    for name, z in made.unimodal.items():
        losses = F.cross_entropy(z, LABELS, reduction="none").tolist()
        expected += sum(losses) / 4
        sums = dict(enumerate(memory[name].tolist()))
        for row, loss in zip(rows, losses, strict=True):
            sums[row] = sums.get(row, 0) + loss
        values = [sums.get(row, 0.0) for row in range(samples or 6)]
        hardness = [(sums[row] - min(values)) / (max(values) - min(values)) for row in rows]
        w = [math.log(sum(math.exp(entry) for entry in sample)) / 10 for sample in z.tolist()]
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)):
            sign = 1 if hardness[i] > hardness[j] else -1
            lead = sign_of_margin * abs(hardness[i] - hardness[j])
            expected += regulariser * max(0, sign * (w[i] - w[j]) + lead) / 4
    method = QMF(regulariser=regulariser, margin=margin)
    found = method.classification(made, LABELS, replace(state(memory=dict(memory)), samples=samples))
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(method.predict(made), confidence_weighted(made.unimodal))


def test_samples_that_are_all_alike_are_equally_hard() -> None:
    z = torch.zeros(4, 3, dtype=torch.float64)
    made = Outputs(z, {"audio": z}, {}, extra={ROWS: torch.arange(4.0)[:, None]})
    assert QMF(regulariser=3).classification(made, LABELS, state()).item() == pytest.approx(2 * math.log(3))
