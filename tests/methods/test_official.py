from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.methods.official import Official


def test_the_losses_of_the_mean_logits_with_uniform_labels() -> None:
    made = outputs()
    losses = Official().loss(made, LABELS, state(0.3, uniform_labels=0.2))
    mean = torch.stack(list(made.unimodal.values())).mean(dim=0)
    assert losses.classification.item() == pytest.approx(F.cross_entropy(mean, LABELS, label_smoothing=0.2).item())
    p, q = (z.softmax(dim=1) for z in made.unimodal.values())
    middle = (p + q) / 2
    apart = (middle * (2 * middle.log() - p.log() - q.log())).sum(dim=1).mean() / 2
    assert losses.matching.item() == pytest.approx(apart.item())
    assert losses.total.item() == pytest.approx(2 * (0.7 * losses.classification + 0.3 * losses.matching).item())
