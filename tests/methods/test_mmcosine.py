from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.methods.mmcosine import MMCosine, label_contrast


def test_the_contrastive_loss_worked_out_by_hand() -> None:
    """Two samples of different labels: p of the own sample is 1 / (1 + e^-2), from cosines 1 and -1."""
    first = torch.tensor([[2.0, 0.0], [-1.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    p = 1 / (1 + math.exp(-2))
    expected = -math.log(p) - math.log(p)  # 1 - p of the other sample is p too
    assert label_contrast(first, second, torch.tensor([0, 1]), 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_samples_of_one_label_have_no_negatives() -> None:
    first, second = torch.eye(2), torch.eye(2)
    found = label_contrast(first, second, torch.tensor([1, 1]), 1.0)
    expected = -torch.eye(2).log_softmax(dim=1).mean()
    torch.testing.assert_close(found, expected)


def test_the_contrastive_loss_has_its_weight_and_temperature() -> None:
    made = outputs()
    joint = F.cross_entropy(made.fused, LABELS)
    loss = MMCosine(contrast=0.3, temperature=0.5).classification(made, LABELS, state())
    z = made.embeddings
    torch.testing.assert_close(loss, joint + 0.3 * label_contrast(z["audio"], z["image"], LABELS, 0.5))
    assert torch.equal(MMCosine().classification(made, LABELS, state()), joint)
