from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.datasets.batches import ROWS
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


def test_the_harder_sample_is_to_be_less_confident_by_its_lead() -> None:
    # Pairs (1, 2), (2, 3), (3, 1): hardness leads -0.5, -0.5, 1
    hardness = torch.tensor([0.0, 0.5, 1.0])
    right = ranking_loss(torch.tensor([2.0, 1.0, 0.0]), hardness)  # 1 - 1 ... far enough apart, in the right order
    assert right.item() == 0
    wrong = ranking_loss(torch.tensor([0.0, 0.0, 0.7]), hardness)
    assert wrong.item() == pytest.approx((0.5 + 1.2 + 1.7) / 3)
    equal = ranking_loss(torch.tensor([3.0, 1.0]), torch.tensor([0.4, 0.4]))
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


@pytest.mark.parametrize(("regulariser", "size"), [(0.0, 1.0), (0.5, 1.0), (0.5, 0.01)])
def test_the_loss_by_its_definition(regulariser: float, size: float) -> None:
    """Hardness: the losses of all epochs, scaled from 0 for the easiest of the samples seen to 1 for the hardest."""
    made, rows = seen([3, 0, 5, 1]), [3, 0, 5, 1]
    for z in made.unimodal.values():
        z.data.mul_(size)
    memory = {"audio": torch.tensor([1.0, 9.0, 2.0, 0.5]).double(), "image": torch.tensor([0.0, 4.0]).double()}
    if size < 1:  # the hardest is hardly harder than the easiest
        memory = {name: torch.zeros(0).double() for name in memory}
    expected = F.cross_entropy(confidence_weighted(made.unimodal), LABELS).item()
    for name, z in made.unimodal.items():
        losses = F.cross_entropy(z, LABELS, reduction="none").tolist()
        expected += sum(losses) / 4
        sums = dict(enumerate(memory[name].tolist()))
        for row, loss in zip(rows, losses, strict=True):
            sums[row] = sums.get(row, 0) + loss
        values = [value for value in sums.values() if value > 0]
        hardness = [(sums[row] - min(values)) / (max(values) - min(values)) for row in rows]
        w = [math.log(sum(math.exp(entry) for entry in sample)) / 10 for sample in z.tolist()]
        for i, j in ((0, 1), (1, 2), (2, 3), (3, 0)):
            sign = 1 if hardness[i] > hardness[j] else -1
            expected += regulariser * max(0, sign * (w[i] - w[j]) + abs(hardness[i] - hardness[j])) / 4
    method = QMF(regulariser=regulariser)
    found = method.classification(made, LABELS, state(memory=dict(memory)))
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(method.predict(made), confidence_weighted(made.unimodal))


def test_samples_that_are_all_alike_are_equally_hard() -> None:
    z = torch.zeros(4, 3, dtype=torch.float64)
    made = Outputs(z, {"audio": z}, {}, extra={ROWS: torch.arange(4.0)[:, None]})
    assert QMF(regulariser=3).classification(made, LABELS, state()).item() == pytest.approx(2 * math.log(3))
