from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, state

from lfm_ray.methods import State
from lfm_ray.methods.cml import CML, ranking_loss
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.fusion import Concat


def chances(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_the_ranking_loss_worked_out_by_hand() -> None:
    more = chances([0.6, 0.4], [0.7, 0.3], [0.45, 0.55])
    less = chances([0.9, 0.1], [0.5, 0.5], [0.8, 0.2])
    labels = torch.tensor([0, 0, 0])
    # 0.3 too sure; less sure, as it must be; 0.25 surer, but it mends what was wrong
    assert ranking_loss([more, less], labels).item() == pytest.approx(0.3 / 3)
    # the third is wrong in both, and counts
    assert ranking_loss([more, less], torch.tensor([0, 0, 1])).item() == pytest.approx((0.3 + 0.25) / 3)
    assert ranking_loss([more], labels).item() == 0
    assert ranking_loss([more, less, more], labels).item() == pytest.approx((0.3 + 0.2) / 3)


def in_model(*names: str) -> tuple[Outputs, State]:
    torch.manual_seed(0)
    head = Concat(names, 5, 3).double()
    z = {name: torch.randn(4, 5, dtype=torch.float64) for name in names}
    return Outputs(*head(z), z), state(model=SimpleNamespace(head=head))


def test_modalities_are_taken_away_one_by_one() -> None:
    made, now = in_model("audio", "image", "text")
    orders = set()
    for steps in range(30):
        every, two, one = CML().fewer_and_fewer(made, LABELS, replace(now, steps=steps))
        assert torch.equal(every, made.fused)
        bias = now.model.head.get_parameter("classifier.bias")
        shares = {name: logits - bias / 3 for name, logits in made.unimodal.items()}
        without = {name: made.fused - share for name, share in shares.items()}
        only = {name: share + bias for name, share in shares.items()}
        gone = [name for name, logits in without.items() if torch.allclose(two, logits)]
        left = [name for name, logits in only.items() if torch.allclose(one, logits)]
        assert len(gone) == len(left) == 1
        orders.add((gone[0], left[0]))
    assert len(orders) == 6


def test_all_predictions_are_learned_and_ranked() -> None:
    made, now = in_model("audio", "image")
    both, one = CML().fewer_and_fewer(made, LABELS, now)
    mean = (F.cross_entropy(both, LABELS) + F.cross_entropy(one, LABELS)) / 2
    found = CML(ranking_weight=7).classification(made, LABELS, now)
    torch.testing.assert_close(found, mean + 7 * ranking_loss([both, one], LABELS))
    torch.testing.assert_close(CML().loss(made, LABELS, now).judged, F.cross_entropy(made.fused, LABELS))


def test_a_single_modality_is_plain_training() -> None:
    made, now = in_model("audio")
    torch.testing.assert_close(CML().classification(made, LABELS, now), F.cross_entropy(made.fused, LABELS))


def test_outputs_are_not_changed() -> None:
    made, now = in_model("audio", "image")
    before = {name: z.clone() for name, z in made.embeddings.items()}
    CML().classification(made, LABELS, now)
    assert all(torch.equal(z, before[name]) for name, z in made.embeddings.items())
