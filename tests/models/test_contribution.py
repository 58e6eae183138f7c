from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import pytest
import torch

from lfm_ray.datasets.shards import Shards
from lfm_ray.methods import METHODS
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.contribution import (
    Coalitions,
    contribution_names,
    contributions,
    preferences,
    sample_contributions,
    shapley,
)
from lfm_ray.models.evaluation import evaluated_names
from lfm_ray.models.fusion import FUSION_HEADS


class Adding(torch.nn.Module):
    """Embeddings are logits, and the fusion is their sum."""

    def forward(self, embeddings: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return torch.stack(list(embeddings.values())).sum(dim=0), dict(embeddings)


def outputs_of(**embeddings: Any) -> Outputs:
    named = {name: torch.tensor(value, dtype=torch.float64) for name, value in embeddings.items()}
    fused, unimodal = Adding()(named)
    return Outputs(fused, unimodal, named)


# Two samples of class 1 and two of class 0, which is what is predicted where nothing is known. audio knows the
# first sample; image knows all but the second, and is wrong there with less weight than audio is right.
LABELS = torch.tensor([1, 1, 0, 0])
BOTH = outputs_of(audio=[[0, 3], [0, 4], [0, 0], [0, 0]], image=[[0, 1], [2, 0], [1, 0], [1, 0]])


def test_the_contributions_of_two_modalities_worked_out_by_hand() -> None:
    found = contributions(Adding(), lambda outputs: outputs.fused, BOTH, LABELS)
    assert list(found) == contribution_names(["audio", "image"])
    # accuracies: none 1/2, audio 1, image 3/4, both 1
    assert found["audio/shapley"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found["image/shapley"] == pytest.approx((1 / 4 + 0) / 2)
    assert found["shapley_gap"] == pytest.approx(1 / 4)
    assert found["audio/missing_accuracy"] == 0.75
    assert found["image/missing_accuracy"] == 1
    assert (found["audio/preferred"], found["image/preferred"]) == (0.5, 0.5)


def test_what_each_contributes_to_the_probability_of_a_samples_class() -> None:
    values = Coalitions(Adding(), lambda outputs: outputs.fused, BOTH, LABELS)
    found = sample_contributions(values)

    def chance(logit: float) -> float:
        return 1 / (1 + np.exp(-logit))

    # The second sample: none 1/2, audio chance(4), image chance(-2), both chance(2)
    assert found["audio"][1] == pytest.approx((chance(4) - 0.5 + chance(2) - chance(-2)) / 2)
    assert found["image"][1] == pytest.approx((chance(-2) - 0.5 + chance(2) - chance(4)) / 2)
    assert found["audio"][2] == pytest.approx(0)
    assert preferences(found)["audio"].tolist() == [1, 1, 0, 0]


def test_equals_share_a_preference() -> None:
    found = preferences({"a": np.array([0.5, 0.1]), "b": np.array([0.5, 0.2]), "c": np.array([0.0, 0.2])})
    assert {name: values.tolist() for name, values in found.items()} == {"a": [0.5, 0], "b": [0.5, 0.5], "c": [0, 0.5]}


@pytest.mark.parametrize("players", ["ab", "abc", "abcd"])
def test_exact_values_are_those_of_the_formula_over_sets(players: str) -> None:
    random = np.random.default_rng(0)
    worth = {
        frozenset(some): random.normal(size=3) for n in range(len(players) + 1) for some in combinations(players, n)
    }
    found = shapley(list(players), worth.__getitem__)
    m = len(players)
    for name in players:
        expected = np.zeros(3)
        for some, value in worth.items():
            if name not in some:
                weight = factorial(len(some)) * factorial(m - len(some) - 1) / factorial(m)
                expected += weight * (worth[some | {name}] - value)
        assert found[name] == pytest.approx(expected)


def test_sampled_values_add_up_and_are_exact_where_nothing_interacts() -> None:
    players = list("abcdefg")
    alone = dict(zip(players, np.arange(7.0), strict=True))
    found = shapley(players, lambda some: np.array(sum(alone[name] for name in some)))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(alone)

    def pairs(some: frozenset[str]) -> np.ndarray:  # each of two shares what both are needed for
        return np.array(float({"a", "b"} <= some) + float({"c", "d"} <= some))

    found = shapley(players, pairs)
    assert sum(found.values()) == pytest.approx(2)
    assert found["a"] == pytest.approx(0.5)  # backwards, the other of a pair is the last
    assert shapley(players, pairs) == found


@pytest.mark.parametrize("head", list(FUSION_HEADS))
def test_every_fusion_head_tells_what_its_modalities_contribute(head: str) -> None:
    torch.manual_seed(0)
    made = FUSION_HEADS[head](["audio", "image"], 8, 3)
    embeddings = {name: torch.randn(20, 8) for name in ("audio", "image")}
    made.train()
    fused, unimodal = made(embeddings)
    labels = torch.arange(20) % 3
    found = contributions(made, lambda outputs: outputs.fused, Outputs(fused, unimodal, embeddings), labels)
    assert made.training
    assert all(np.isfinite(value) for value in found.values())
    assert found["audio/preferred"] + found["image/preferred"] == pytest.approx(1)
    made.eval()
    nothing = made({name: torch.zeros(20, 8) for name in embeddings})[0]
    none = float((nothing.argmax(dim=1) == labels).float().mean())
    all_of_it = float((fused.argmax(dim=1) == labels).float().mean())
    assert found["audio/shapley"] + found["image/shapley"] == pytest.approx(all_of_it - none, abs=1e-6)


@pytest.mark.parametrize("method", ["mla", "qmf", "etmc", "domfn", "official"])
def test_what_a_method_predicts_by_is_what_is_explained(method: str) -> None:
    torch.manual_seed(0)
    own = METHODS[method](name=method)  # type: ignore[call-arg]
    head = FUSION_HEADS[own.heads[0] if own.heads else "sum"](["audio", "image"], 8, 3)
    embeddings = {name: torch.randn(20, 8) for name in ("audio", "image")}
    fused, unimodal = head(embeddings)
    outputs, labels = Outputs(fused, unimodal, embeddings), torch.arange(20) % 3
    values = Coalitions(head, own.predict, outputs, labels)
    hits = own.predict(outputs).argmax(dim=1) == labels
    assert values(frozenset({"audio", "image"}))[0].tolist() == hits.double().tolist()
    assert np.isfinite(list(contributions(head, own.predict, outputs, labels).values())).all()


def test_a_head_that_is_undefined_without_embeddings_knows_nothing_there() -> None:
    class Normalised(Adding):
        def forward(self, embeddings: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return super().forward(
                {name: value / value.norm(dim=1, keepdim=True) for name, value in embeddings.items()}
            )

    one = outputs_of(audio=[[0, 3], [3, 0]], image=[[1, 3], [3, 1]])
    values = Coalitions(Normalised(), lambda outputs: outputs.fused, one, torch.tensor([1, 0]))
    assert values(frozenset())[1].tolist() == [0.5, 0.5]


def test_every_evaluation_of_a_run_has_them(shards: Shards) -> None:
    from tiny_run import train

    row = train(shards, "epochs=1").history[-1]
    names = evaluated_names(["audio", "image"])
    assert {f"val/{name}" for name in names} <= row.keys()
    assert "train/fused/calibration_error" in row
    assert 0 <= row["val/fused/calibration_error"] <= 1
