"""What predictions of each kind of target are shown by: if they are right, how far modalities disagree, a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.models.metrics import average_precisions, class_accuracies, confusion

Said = Mapping[str, np.ndarray]
"""`fused` or a modality -> what it says, (N, C): probabilities, or (N, 1) numbers in their unit."""
Rows = Mapping[str, np.ndarray]
"""Modality -> (N,) bool, whether a sample has it; all samples have those that are not named."""
ALL = slice(None)


@dataclass(frozen=True)
class Measured:
    """A table of the page: a line for each class or label, a column for `fused` and each modality, and one for all.

    counts: samples of each line; missing values are NaN.
    """

    title: str
    of: str
    counts: list[int]
    lines: np.ndarray
    overall: list[float]


class Predicted(ABC):
    """Predictions for targets of one kind; labels are those of the shards."""

    @abstractmethod
    def chosen(self, said: np.ndarray) -> np.ndarray:
        """What is predicted, in the form of the labels."""

    @abstractmethod
    def verdict(self, said: np.ndarray, labels: np.ndarray) -> tuple[str, np.ndarray]:
        """The name of a column, and (N,) whether predictions are right, or by how much they are not."""

    @abstractmethod
    def disagreement(self, each: np.ndarray) -> np.ndarray:
        """(N,): how far modalities disagree; each: (m, N, C)."""

    @abstractmethod
    def measured(self, said: Said, labels: np.ndarray, rows: Rows) -> Measured:
        """The table of the page; rows: of each modality that some samples lack, those that have it."""


class OfClasses(Predicted):
    """The likeliest class."""

    def chosen(self, said: np.ndarray) -> np.ndarray:
        """(N,) indices."""
        return said.argmax(axis=1)

    def verdict(self, said: np.ndarray, labels: np.ndarray) -> tuple[str, np.ndarray]:
        """Whether it is the label's."""
        return "correct", self.chosen(said) == labels

    def disagreement(self, each: np.ndarray) -> np.ndarray:
        """The Jensen-Shannon divergence of all modalities, in nats."""
        return np.maximum(0.0, _entropy(each.mean(axis=0)) - _entropy(each).mean(axis=0))

    def measured(self, said: Said, labels: np.ndarray, rows: Rows) -> Measured:
        """Accuracies."""
        own = [(one[rows.get(name, ALL)], labels[rows.get(name, ALL)]) for name, one in said.items()]
        matrices = [confusion(self.chosen(one), truth, one.shape[1]) for one, truth in own]
        return Measured(
            "Accuracy of each class", "class", matrices[0].sum(axis=1).tolist(),
            np.stack([class_accuracies(matrix) for matrix in matrices], axis=1),
            [float(matrix.trace() / matrix.sum()) for matrix in matrices],
        )  # fmt: skip


class OfSeveral(Predicted):
    """The labels whose probability is above 1/2."""

    def chosen(self, said: np.ndarray) -> np.ndarray:
        """(N, C) of 0 and 1."""
        return said > 0.5

    def verdict(self, said: np.ndarray, labels: np.ndarray) -> tuple[str, np.ndarray]:
        """Whether all of them are right, and none is missing."""
        return "correct", (self.chosen(said) == labels).all(axis=1)

    def disagreement(self, each: np.ndarray) -> np.ndarray:
        """The Jensen-Shannon divergence for a label, mean over labels, in nats."""
        both = np.stack([each, 1 - each], axis=-1)
        return np.maximum(0.0, _entropy(both.mean(axis=0)) - _entropy(both).mean(axis=0)).mean(axis=1)

    def measured(self, said: Said, labels: np.ndarray, rows: Rows) -> Measured:
        """Average precisions."""
        counts = labels.sum(axis=0, dtype=int)
        lines = np.full((labels.shape[1], len(said)), np.nan)
        for column, (name, one) in enumerate(said.items()):
            scores, truth = one[rows.get(name, ALL)], labels[rows.get(name, ALL)]
            present = truth.any(axis=0)
            lines[present, column] = average_precisions(scores[:, present], truth[:, present] > 0)
        overall = [float(line[~np.isnan(line)].mean()) if not np.isnan(line).all() else 0.0 for line in lines.T]
        return Measured("Average precision of each label", "label", counts.tolist(), lines, overall)


class OfNumbers(Predicted):
    """The number."""

    def chosen(self, said: np.ndarray) -> np.ndarray:
        """(N,) numbers."""
        return said[:, 0]

    def verdict(self, said: np.ndarray, labels: np.ndarray) -> tuple[str, np.ndarray]:
        """By how much it is too large."""
        return "error", said[:, 0] - labels

    def disagreement(self, each: np.ndarray) -> np.ndarray:
        """The standard deviation over modalities, in the unit of the numbers."""
        return each[:, :, 0].std(axis=0)

    def measured(self, said: Said, labels: np.ndarray, rows: Rows) -> Measured:
        """Mean absolute errors."""
        own = [(one[rows.get(name, ALL), 0], labels[rows.get(name, ALL)]) for name, one in said.items()]
        errors = [float(np.abs(one - truth).mean()) for one, truth in own]
        return Measured("Mean absolute error", "", [], np.zeros((0, len(said))), errors)


PREDICTED: dict[TargetKind, Predicted] = {
    "classes": OfClasses(),
    "multilabel": OfSeveral(),
    "regression": OfNumbers(),
}


def _entropy(chances: np.ndarray) -> np.ndarray:
    return -(chances * np.log(np.maximum(chances, 1e-30))).sum(axis=-1)
