"""Accuracy, MAP and macro F1 of the fusion and of each modality, and the gaps between modalities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lfm_ray.models.calibration import expected_calibration_error
from lfm_ray.models.classifier import Outputs
from lfm_ray.models.contribution import contribution_names
from lfm_ray.registry import Registry

METRICS: Registry[Callable[[Tensor, Tensor, Outputs], float]] = Registry("metric", {})
"""Metrics of one's own: (logits (N, C) by which the method predicts, labels (N,), outputs) of a split -> a number."""


EACH = ("loss", "accuracy", "map", "macro_f1", "balanced_accuracy", "worst_class_accuracy", "calibration_error")


def metric_names(modalities: Iterable[str]) -> list[str]:
    """The keys of `evaluate` for these modalities."""
    each = [f"{name}/{key}" for name in ("fused", *modalities) for key in EACH]
    return [*each, "unimodal_accuracy", "accuracy_gap", "modality_gap", "probe_map"]


def evaluated_names(modalities: Sequence[str]) -> list[str]:
    """What is known of an evaluated split: the keys of `evaluate` and of `contribution.contributions`."""
    return [*metric_names(modalities), *contribution_names(modalities)]


def evaluate(fused: Tensor, outputs: Outputs, labels: Tensor) -> dict[str, float]:
    """All metrics of a split.

    fused: (N, C), the logits by which the method predicts; outputs and labels (N,) of the whole
    split. Keys: `fused/accuracy`, `fused/map`, `fused/macro_f1`, `fused/balanced_accuracy`,
    `fused/worst_class_accuracy`, `fused/loss` (the negative log-likelihood), `fused/calibration_error`
    (`lfm_ray.models.calibration`), the same for each modality, and

    - `unimodal_accuracy`: the mean over modalities of their accuracies;
    - `accuracy_gap`: the highest of those accuracies minus the lowest;
    - `modality_gap`: the distance between the centroids of the modalities' normalised embeddings
      (Liang et al., "Mind the gap", NeurIPS 2022), the mean over pairs;
    - `probe_map`: MAP of a linear probe of all embeddings, `probe_scores`. It tells what has been
      learnt before the classifier shows it, as where alpha is near 1.
    """
    values: dict[str, float] = {}
    for name, logits in {"fused": fused, **outputs.unimodal}.items():
        values[f"{name}/loss"] = float(F.cross_entropy(logits.float(), labels))
        chances, truth = F.softmax(logits.float(), dim=1).cpu().numpy(), labels.cpu().numpy()
        scores = classification_metrics(chances, truth)
        scores["calibration_error"] = expected_calibration_error(chances, truth)
        values |= {f"{name}/{metric}": value for metric, value in scores.items()}
    accuracies = [values[f"{name}/accuracy"] for name in outputs.unimodal]
    values["unimodal_accuracy"] = float(np.mean(accuracies))
    values["accuracy_gap"] = max(accuracies) - min(accuracies)
    values["modality_gap"] = modality_gap(outputs.embeddings)
    values["probe_map"] = mean_average_precision(probe_scores(outputs.embeddings, labels), labels.cpu().numpy())
    return values


def classification_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """scores: (N, C), larger is likelier; labels: (N,).

    accuracy; map: `mean_average_precision`; macro_f1: F1 of each class that occurs in labels or predictions, mean;
    balanced_accuracy: the mean over the classes that occur in labels of their accuracies, and worst_class_accuracy
    the lowest of these.
    """
    predicted = scores.argmax(axis=1)
    of_classes = class_accuracies(confusion(predicted, labels, scores.shape[1]))
    return {
        "accuracy": float(np.mean(predicted == labels)),
        "map": mean_average_precision(scores, labels),
        "macro_f1": macro_f1(predicted, labels),
        "balanced_accuracy": float(np.nanmean(of_classes)),
        "worst_class_accuracy": float(np.nanmin(of_classes)),
    }


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) numbers of samples; a row is a class, a column what it was taken for."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_accuracies(matrix: np.ndarray) -> np.ndarray:
    """(C,) share of each class that was recognised, its recall, from a confusion matrix; NaN where it has no sample."""
    rows = matrix.sum(axis=1)
    return np.where(rows > 0, matrix.diagonal() / np.maximum(rows, 1), np.nan)


def confusions(fused: Tensor, outputs: Outputs, labels: Tensor) -> dict[str, list[list[int]]]:
    """The confusion matrix of the fusion (`fused`) and of each modality; arguments as of `evaluate`."""
    return {
        name: confusion(logits.argmax(dim=1).cpu().numpy(), labels.cpu().numpy(), logits.shape[1]).tolist()
        for name, logits in {"fused": fused, **outputs.unimodal}.items()
    }


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of each class that occurs in labels or predictions, mean.

    scikit-learn's takes 10 ms for that, and its import a second or more of every trial.
    """
    classes = int(max(predicted.max(), labels.max())) + 1
    either = np.bincount(predicted, minlength=classes) + np.bincount(labels, minlength=classes)  # 2 TP + FP + FN
    right = np.bincount(labels[predicted == labels], minlength=classes)
    return float(np.mean(2 * right[either > 0] / either[either > 0]))


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Average precision of each class against the rest, mean over the classes that occur in labels."""
    present = np.unique(labels)
    return float(average_precisions(scores[:, present], labels[:, None] == present).mean())


def probe_scores(embeddings: dict[str, Tensor], labels: Tensor, strength: float = 0.3) -> np.ndarray:
    """Scores (N, C) of ridge regression from all embeddings to the classes, each row by the fit to all others.

    In closed form: with X the standardised embeddings and a column of ones, which is not penalised,
    and H = X (X^T X + strength N I)^-1 X^T, the prediction without row i is
    y_i - (y_i - (H y)_i) / (1 - H_ii) (Allen's PRESS, Technometrics 1974). Nothing is trained, and
    no other split is needed; milliseconds for a thousand rows.
    """
    x = torch.cat([value.double() for value in embeddings.values()], dim=1)
    x = (x - x.mean(dim=0)) / (x.std(dim=0, correction=0) + 1e-6)
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    penalty = torch.full_like(x[0], strength * len(x))
    penalty[-1] = 1e-9
    fit = torch.linalg.solve(x.T @ x + penalty.diag(), x.T)
    y = F.one_hot(labels).double()
    without = (1 - (x * fit.T).sum(dim=1)).clamp(min=1e-6)
    return (y - (y - x @ (fit @ y)) / without[:, None]).cpu().numpy()


def average_precisions(scores: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Average precision of each column: scores (N, K), larger is likelier; hits (N, K) bool, each column has one.

    The mean over the hits of the precision at their score, equal scores being one threshold; all
    columns at once, which takes a tenth of scikit-learn's time.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=0)
    found = np.take_along_axis(hits, order, axis=0).cumsum(axis=0)
    precision = found / np.arange(1, len(scores) + 1)[:, None]
    threshold = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, scores.shape[1]), dtype=bool)])
    above = np.maximum.accumulate(np.where(threshold, found, 0), axis=0)
    gained = found - np.vstack([np.zeros((1, scores.shape[1])), above[:-1]])
    return np.where(threshold, gained * precision, 0).sum(axis=0) / found[-1]


def modality_gap(embeddings: dict[str, Tensor]) -> float:
    """Mean over pairs of modalities of the distance between their centroids on the unit sphere."""
    centroids = {name: F.normalize(value.float(), dim=1).mean(dim=0) for name, value in embeddings.items()}
    distances = [float(torch.linalg.vector_norm(centroids[a] - centroids[b])) for a, b in combinations(centroids, 2)]
    return float(np.mean(distances)) if distances else 0.0
