from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lfm_ray.models.classifier import Outputs
from lfm_ray.models.evaluation import confusions, evaluate, metric_names
from lfm_ray.models.metrics import (
    average_precisions,
    class_accuracies,
    classification_metrics,
    confusion,
    macro_f1,
    mean_average_precision,
    modality_gap,
    probe_scores,
)


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


def test_average_precisions_are_those_of_scikit_learn_also_of_equal_scores() -> None:
    from sklearn.metrics import average_precision_score

    random = np.random.default_rng(0)
    for levels in (2, 5, 10**6):
        scores, hits = random.integers(0, levels, (60, 7)) / levels, random.random((60, 7)) < 0.3
        expected = [average_precision_score(hits[:, k], scores[:, k]) for k in range(7)]
        assert average_precisions(scores, hits) == pytest.approx(expected, abs=1e-12)


def test_macro_f1_is_that_of_scikit_learn_also_where_classes_are_missing() -> None:
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    for classes, rows in ((2, 5), (7, 6), (7, 200)):
        predicted, labels = random.integers(0, classes, (2, rows))
        expected = f1_score(labels, predicted, average="macro")
        assert macro_f1(predicted, labels) == pytest.approx(expected, rel=1e-12)


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


def test_the_probe_predicts_each_row_from_a_fit_to_the_others() -> None:
    random = np.random.default_rng(0)
    audio, image, labels = random.normal(size=(15, 3)), 2 + random.normal(size=(15, 2)), np.arange(15) % 3
    found = probe_scores(
        {"audio": torch.tensor(audio), "image": torch.tensor(image)}, F.one_hot(torch.tensor(labels)), 0.1
    )
    x = np.concatenate([audio, image], axis=1)
    x, y = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6), np.eye(3)[labels]
    for i in range(15):  # the definition: minimise |x w + b - y|^2 + 0.1 * 15 |w|^2 over the other rows
        others = np.arange(15) != i
        mean_x, mean_y = x[others].mean(axis=0), y[others].mean(axis=0)
        centred = x[others] - mean_x
        w = np.linalg.solve(centred.T @ centred + 1.5 * np.eye(5), centred.T @ (y[others] - mean_y))
        assert found[i] == pytest.approx((x[i] - mean_x) @ w + mean_y, abs=1e-8)


def test_the_probe_sees_what_was_learnt_and_is_not_fooled_by_many_features() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    noise = torch.randn(200, 64, generator=generator)
    told = {"audio": noise, "image": labels[:, None] + 0.1 * noise[:, :1]}
    assert mean_average_precision(probe_scores(told, F.one_hot(labels)), labels.numpy()) > 0.99
    assert (
        mean_average_precision(probe_scores({"audio": noise}, F.one_hot(labels)), labels.numpy()) < 0.65
    )  # chance is 0.5
    constant = probe_scores({"audio": torch.ones(200, 4)}, F.one_hot(labels))
    assert np.isfinite(constant).all()


def test_the_modality_gap_of_three_modalities_is_the_mean_over_pairs() -> None:
    # Centroids (1, 0), (0, 1) and (0.6, 0.8): distances sqrt(2), sqrt(0.8), sqrt(0.4)
    lengths = torch.tensor([[1.0], [3.0]])
    embeddings = {
        "audio": lengths * torch.tensor([1.0, 0.0]),
        "image": lengths * torch.tensor([0.0, 1.0]),
        "text": lengths * torch.tensor([0.6, 0.8]),
    }
    assert modality_gap(embeddings) == pytest.approx((np.sqrt(2) + np.sqrt(0.8) + np.sqrt(0.4)) / 3)


def test_embeddings_that_cancel_out_have_no_centroid_of_length_one() -> None:
    """The centroid is the mean of the unit vectors, not the unit vector of the mean: (0, 0) and (1, 0)."""
    embeddings = {"audio": torch.tensor([[2.0, 0.0], [-1.0, 0.0]]), "image": torch.tensor([[1.0, 0.0], [4.0, 0.0]])}
    assert modality_gap(embeddings) == pytest.approx(1.0)


def test_every_metric_of_an_evaluation_worked_out_by_hand() -> None:
    """Four samples of two classes; audio has one of class 1 wrong, by the logits (ln 1.5, 0)."""
    labels = torch.tensor([0, 0, 1, 1])
    sure = float(torch.tensor(4.0).log())
    right = torch.tensor([[sure, 0.0], [sure, 0.0], [0.0, sure], [0.0, sure]])  # probabilities 4/5 and 1/5
    audio = right.clone()
    audio[2] = torch.tensor([float(torch.tensor(1.5).log()), 0.0])  # 3/5 and 2/5
    embeddings = {"audio": torch.eye(2)[labels], "image": torch.eye(2)[labels]}
    found = evaluate(right, Outputs(right, {"audio": audio, "image": right}, embeddings), labels)
    assert list(found) == metric_names(["audio", "image"])
    perfect = {"loss": np.log(5 / 4), "accuracy": 1.0, "map": 1.0, "macro_f1": 1.0}
    perfect |= {"balanced_accuracy": 1.0, "worst_class_accuracy": 1.0, "calibration_error": 1 / 5}
    # Ranked for class 0: 4/5, 4/5, 3/5, 1/5; for class 1: 4/5, 2/5, 1/5, 1/5. F1: 4/5 and 2/3.
    # Calibration: three confidences of 4/5 are right, one of 3/5 is not.
    one_wrong = {
        "loss": (3 * np.log(5 / 4) + np.log(5 / 2)) / 4, "accuracy": 0.75, "map": 1.0, "macro_f1": (4 / 5 + 2 / 3) / 2,
        "balanced_accuracy": 0.75, "worst_class_accuracy": 0.5,
        "calibration_error": (3 / 5 + 3 / 5) / 4,
    }  # fmt: skip
    expected = {f"{name}/{key}": value for name in ("fused", "image") for key, value in perfect.items()}
    expected |= {f"audio/{key}": value for key, value in one_wrong.items()}
    expected |= {"unimodal_accuracy": 0.875, "accuracy_gap": 0.25, "modality_gap": 0.0, "probe_map": 1.0}
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_probe_of_one_feature_worked_out_by_hand() -> None:
    """x = -1, -1, 1, 1, so H = 1/4 + x_i x_j / (4 (1 + strength)); the strength is 0.3 if nothing is said."""
    labels, x = torch.tensor([0, 0, 1, 1]), np.array([-1, -1, 1, 1])
    H, y = 1 / 4 + np.outer(x, x) / 5.2, np.eye(2)[labels.numpy()]
    expected = y - (y - H @ y) / (1 - np.diag(H))[:, None]
    embeddings = {"audio": torch.tensor([[2.0], [2.0], [8.0], [8.0]])}
    assert probe_scores(embeddings, F.one_hot(labels)) == pytest.approx(expected, abs=1e-5)


def test_the_level_of_equal_embeddings_is_that_of_the_other_rows() -> None:
    """All embeddings alike: each row is predicted by the frequencies of the classes in the others, 2 of 3 or 1 of 3."""
    labels = torch.tensor([0, 1, 0, 1])
    found = probe_scores({"audio": torch.full((4, 3), 7.0)}, F.one_hot(labels))
    own, other = 1 / 3, 2 / 3
    assert found == pytest.approx(np.array([[own, other], [other, own]] * 2), abs=1e-6)


def test_class_accuracies_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix, recall_score

    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 4, 50), random.random((50, 5))  # no sample of the last class
    predicted = scores.argmax(axis=1)
    matrix = confusion(predicted, labels, 5)
    assert matrix.tolist() == confusion_matrix(labels, predicted, labels=range(5)).tolist()
    recalls = recall_score(labels, predicted, labels=range(4), average=None)
    assert class_accuracies(matrix)[:4] == pytest.approx(recalls)
    assert np.isnan(class_accuracies(matrix)[4])
    found = classification_metrics(scores, labels)
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["worst_class_accuracy"] == pytest.approx(min(recalls))


def test_confusions_of_the_fusion_and_of_each_modality() -> None:
    labels = torch.tensor([0, 1, 1])
    right, wrong = torch.eye(2)[labels], torch.eye(2)[1 - labels]
    outputs = Outputs(right, {"audio": wrong}, {"audio": torch.ones(3, 2)})
    assert confusions(right, outputs, labels) == {"fused": [[1, 0], [0, 2]], "audio": [[0, 1], [2, 0]]}
