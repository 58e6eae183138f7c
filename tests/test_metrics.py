from __future__ import annotations

import numpy as np
import pytest
import torch

from lfm_ray.metrics import classification_metrics, evaluate, modality_gap
from lfm_ray.models.classifier import Outputs


def test_metrics_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    found = classification_metrics(scores, labels)
    assert found["accuracy"] == 0.75
    # class 0 is ranked 0.9, 0.4 before all others; class 1 likewise 0.8, 0.7 before 0.6
    assert found["map"] == 1.0
    # F1 of class 0: precision 1, recall 1/2 -> 2/3; of class 1: precision 2/3, recall 1 -> 4/5
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_average_precision_worked_out_by_hand() -> None:
    labels = np.array([0, 1, 0, 1])
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
    # class 0 at ranks 1 and 3: (1/1 + 2/3) / 2; class 1 (scores .9 .3 .2 .1) at ranks 1 and 3: the same
    assert classification_metrics(scores, labels)["map"] == pytest.approx((1 + 2 / 3) / 2)


def test_a_class_that_does_not_occur_is_left_out_of_map() -> None:
    scores = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    assert classification_metrics(scores, np.array([0, 1]))["map"] == 1.0


def test_modality_gap_is_the_distance_between_centroids_on_the_unit_sphere() -> None:
    embeddings = {"audio": torch.tensor([[5.0, 0.0], [2.0, 0.0]]), "image": torch.tensor([[0.0, 3.0], [0.0, 1.0]])}
    assert modality_gap(embeddings) == pytest.approx(np.sqrt(2))
    assert modality_gap({"audio": embeddings["audio"]}) == 0


def test_evaluate_reports_each_modality_and_the_gaps() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    right, wrong = torch.eye(2)[labels] * 5, torch.eye(2)[1 - labels] * 5
    half = torch.cat([right[:2], wrong[2:]])
    outputs = Outputs(right, {"audio": wrong, "image": half}, {"audio": torch.ones(4, 2), "image": torch.ones(4, 2)})
    found = evaluate(right, outputs, labels)
    assert [found[f"{name}/accuracy"] for name in ("fused", "audio", "image")] == [1.0, 0.0, 0.5]
    assert found["accuracy_gap"] == 0.5
    assert found["unimodal_accuracy"] == 0.25
    assert found["fused/loss"] == pytest.approx(float(torch.log1p(torch.exp(torch.tensor(-5.0)))))
