from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from method_cases import LABELS, outputs, state

from lfm_ray.errors import UserError
from lfm_ray.methods.mla import MLA, entropy_weighted, updated_projection


def test_the_projection_is_the_inverse_that_the_recursion_stands_for() -> None:
    steps = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    projection, matrix = torch.eye(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    for features in steps:
        projection = updated_projection(projection, features, 0.1)
        matrix = matrix + torch.outer(features.mean(dim=0), features.mean(dim=0)) / 0.1
    torch.testing.assert_close(projection, torch.linalg.inv(matrix))


def test_a_small_alpha_leaves_nothing_along_the_mean_feature() -> None:
    features = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]], dtype=torch.float64)
    projection = updated_projection(torch.eye(3, dtype=torch.float64), features, 1e-9)
    r = torch.tensor([2.0, 2.0, 0.0], dtype=torch.float64)
    expected = torch.eye(3, dtype=torch.float64) - torch.outer(r, r) / 8
    torch.testing.assert_close(projection, expected, rtol=0, atol=1e-9)


def test_the_more_certain_modality_weighs_more() -> None:
    sure, unsure = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]])
    entropies = [-(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)), math.log(2)]
    weight = math.exp(-entropies[0]) / (math.exp(-entropies[0]) + math.exp(-entropies[1]))
    found = entropy_weighted({"audio": sure, "image": unsure})
    assert found[0].tolist() == pytest.approx([weight * math.log(3), 0])
    assert weight > 0.5


def test_a_gradient_is_that_of_the_modality_and_of_the_head_whose_weight_is_projected() -> None:
    names = ["encoders.audio.w", "encoders.image.w", "projections.audio.w", "projections.image.w", "log_tau"]
    terms = [{name: torch.tensor([1.0]) for name in names}]
    terms[0] |= {"head.classifier.weight": torch.tensor([[1.0, 2.0]]), "head.classifier.bias": torch.tensor([3.0])}
    own = {"encoders.audio.w", "projections.audio.w", "log_tau", "head.classifier.weight", "head.classifier.bias"}
    for memory, weight in (({}, [[1, 2]]), ({"projection": torch.tensor([[1.0, 0.5], [0.5, 0]]).double()}, [[2, 0.5]])):
        found = MLA().gradient(terms, replace(state(memory=memory), phase="audio"))
        assert set(found) == own
        assert found["head.classifier.weight"].tolist() == weight
        assert found["head.classifier.weight"].dtype == torch.float32
        assert found["head.classifier.bias"].tolist() == [3]


def test_the_projection_begins_with_the_identity_and_takes_in_each_modality() -> None:
    method, made, at = MLA(damping=0.5), outputs(), state()
    matrix = torch.eye(5, dtype=torch.float64)
    for phase in ("audio", "image"):
        method.after_backward(made, LABELS, replace(at, phase=phase))
        mean = made.embeddings[phase].detach().mean(dim=0)
        matrix = matrix + torch.outer(mean, mean) / 0.5
        torch.testing.assert_close(at.memory["projection"], torch.linalg.inv(matrix))
        assert not at.memory["projection"].requires_grad


def test_the_loss_is_that_of_the_modality_whose_turn_it_is() -> None:
    made, at = outputs(), state(model=SimpleNamespace(encoders={"audio": None, "image": None}), uniform_labels=0.3)
    assert MLA().phases(at) == ["audio", "image"]
    for phase in ("audio", "image"):
        found = MLA().classification(made, LABELS, replace(at, phase=phase))
        expected = F.cross_entropy(made.unimodal[phase], LABELS, label_smoothing=0.3)
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_prediction_is_weighed_by_entropies_or_the_mean() -> None:
    made = outputs()
    assert MLA(weighting="mean").predict(made) is made.fused
    assert torch.equal(MLA().predict(made), entropy_weighted(made.unimodal))


def test_every_sample_has_weights_of_its_own_that_add_up_to_one() -> None:
    """Of two samples with (ln 3, 0) and (0, 0) in audio, the other way round in image, and even logits in text."""
    sure, even, none = [math.log(3), 0.0], [0.0, 0.0], [5.0, 5.0]
    logits = {"audio": [sure, even], "image": [even, sure], "text": [none, none]}
    found = entropy_weighted({name: torch.tensor(value, dtype=torch.float64) for name, value in logits.items()})
    of_sure, of_even = (math.exp(-h) for h in (math.log(4) - 3 / 4 * math.log(3), math.log(2)))
    w, v = of_sure / (of_sure + 2 * of_even), of_even / (of_sure + 2 * of_even)
    expected = [w * math.log(3) + 5 * v, 5 * v]
    assert found.tolist() == [pytest.approx(expected), pytest.approx(expected)]
    drawn = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    shifted = entropy_weighted({str(i): one + 1 for i, one in enumerate(drawn)})  # entropies ignore a shift
    torch.testing.assert_close(shifted, entropy_weighted({str(i): one for i, one in enumerate(drawn)}) + 1)


def test_fixed_shares_weigh_the_logits_and_a_modality_without_one_counts_nothing() -> None:
    made = outputs()
    (first, a), (second, _) = made.unimodal.items()
    torch.testing.assert_close(MLA(weighting="mean", shares={first: 0.3}).predict(made), 0.3 * a)
    both = MLA(weighting="mean", shares={first: 0.3, second: 2.0}).predict(made)
    torch.testing.assert_close(both, 0.3 * a + 2.0 * made.unimodal[second])
    with pytest.raises(UserError, match=r"method\.shares\.adio: there is no such modality; did you mean audio"):
        MLA(shares={"adio": 1.0}).check_modalities(["audio", "image"])
