"""What differs between the three kinds of target: the loss, what logits say, and the metrics.

The labels of a batch say of which kind they are: int64 (B,), indices of classes; uint8 (B, C), 1 for each label that a
sample has; float (B,), numbers, standardised by the training split. So whoever has labels and logits needs no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lfm_ray.datasets.kinds import TargetKind
from lfm_ray.models.calibration import expected_calibration_error
from lfm_ray.models.metrics import (
    classification_metrics,
    confusion,
    correlation,
    f1_of_labels,
    mean_average_precision,
    mean_average_precision_of_labels,
    probe_scores,
)

if TYPE_CHECKING:
    from lfm_ray.methods.losses import LossSettings


class Target(ABC):
    """A kind of target. Logits are (B, C) float, C = 1 for numbers."""

    kind: ClassVar[TargetKind]
    metric_names: ClassVar[tuple[str, ...]]
    probe_name: ClassVar[str]

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
        """L_CLS, mean over the batch."""

    @abstractmethod
    def said(self, logits: Tensor) -> Tensor:
        """What logits say, (B, C): probabilities, or the number."""

    @abstractmethod
    def metrics(self, logits: Tensor, labels: Tensor, unit: float) -> dict[str, float]:
        """`metric_names` of a split -> their values; unit: what 1 is in the unit of numbers."""

    @abstractmethod
    def probe(self, embeddings: dict[str, Tensor], labels: Tensor) -> float:
        """`probe_name` of a split: how well a linear model predicts its labels from all embeddings."""

    def confusion(self, logits: Tensor, labels: Tensor) -> np.ndarray | None:
        """The confusion matrix (C, C) of a split; None where there are no classes."""
        return None


class Classes(Target):
    """One of C classes: cross-entropy."""

    kind = "classes"
    metric_names = (
        "loss", "accuracy", "map", "macro_f1", "balanced_accuracy", "worst_class_accuracy", "calibration_error"
    )  # fmt: skip
    probe_name = "probe_map"

    def loss(self, logits: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
        """Cross-entropy with soft targets, weights and focal factor, as `LossSettings` says."""
        if not settings.weighs:
            return F.cross_entropy(logits, labels, label_smoothing=settings.uniform_labels)
        log_p = F.log_softmax(logits, dim=1)
        of_label = log_p.gather(1, labels[:, None]).squeeze(1)
        u: Tensor | float = settings.uniform_labels
        if settings.label_smoothing:
            u = logits.new_tensor(settings.label_smoothing)[labels]
        losses = -(1 - u) * of_label - u * log_p.mean(dim=1)
        if settings.focal:  # -expm1: 1 - p, which stays exact near p = 1, and its power has a gradient there
            losses = losses * (-torch.expm1(of_label)).clamp_min(1e-12) ** settings.focal
        if settings.class_weights is None:
            return losses.mean()
        assert settings.class_weights != "balanced", "LossSettings.balanced has not been called"
        weights = logits.new_tensor(settings.class_weights)[labels]
        return (weights * losses).sum() / weights.sum()

    def said(self, logits: Tensor) -> Tensor:
        """The softmax."""
        return logits.softmax(dim=-1)

    def metrics(self, logits: Tensor, labels: Tensor, unit: float) -> dict[str, float]:
        """`lfm_ray.models.metrics.classification_metrics`, the cross-entropy, and the calibration error."""
        loss = float(F.cross_entropy(logits, labels))
        chances, truth = self.said(logits).cpu().numpy(), labels.cpu().numpy()
        error = expected_calibration_error(chances, truth)
        return {"loss": loss} | classification_metrics(chances, truth) | {"calibration_error": error}

    def probe(self, embeddings: dict[str, Tensor], labels: Tensor) -> float:
        """MAP of the probe's scores."""
        return mean_average_precision(probe_scores(embeddings, F.one_hot(labels)), labels.cpu().numpy())

    def confusion(self, logits: Tensor, labels: Tensor) -> np.ndarray | None:
        """Of the likeliest class."""
        return confusion(logits.argmax(dim=1).cpu().numpy(), labels.cpu().numpy(), logits.shape[1])


class Multilabel(Target):
    """Any of C labels: binary cross-entropy of each, mean over samples and labels."""

    kind = "multilabel"
    metric_names = ("loss", "map", "micro_f1", "macro_f1")
    probe_name = "probe_map"

    def loss(self, logits: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
        """BCE."""
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits))

    def said(self, logits: Tensor) -> Tensor:
        """The sigmoids."""
        return logits.sigmoid()

    def metrics(self, logits: Tensor, labels: Tensor, unit: float) -> dict[str, float]:
        """BCE, MAP, and F1 of the labels whose probability is above 1/2."""
        loss = float(F.binary_cross_entropy_with_logits(logits, labels.to(logits)))
        scores, hits = logits.cpu().numpy(), labels.cpu().numpy() > 0
        return {"loss": loss, "map": mean_average_precision_of_labels(scores, hits)} | f1_of_labels(scores > 0, hits)

    def probe(self, embeddings: dict[str, Tensor], labels: Tensor) -> float:
        """MAP of the probe's scores."""
        return mean_average_precision_of_labels(probe_scores(embeddings, labels), labels.cpu().numpy() > 0)


class Regression(Target):
    """A number: the squared or absolute error, in units of the training split's standard deviation."""

    kind = "regression"
    metric_names = ("loss", "mae", "correlation")
    probe_name = "probe_correlation"

    def loss(self, logits: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
        """MSE or L1, as `loss.regression` says."""
        error = F.mse_loss if settings.regression == "mse" else F.l1_loss
        return error(logits.squeeze(1), labels.to(logits))

    def said(self, logits: Tensor) -> Tensor:
        """The number itself, standardised."""
        return logits

    def metrics(self, logits: Tensor, labels: Tensor, unit: float) -> dict[str, float]:
        """MSE of the standardised numbers, mean absolute error in their own unit, and Pearson's correlation."""
        said, truth = logits.squeeze(1).double().cpu().numpy(), labels.double().cpu().numpy()
        error = said - truth
        return {
            "loss": float(np.square(error).mean()),
            "mae": unit * float(np.abs(error).mean()),
            "correlation": correlation(said, truth),
        }

    def probe(self, embeddings: dict[str, Tensor], labels: Tensor) -> float:
        """Correlation of the probe's predictions with the labels."""
        return correlation(probe_scores(embeddings, labels[:, None])[:, 0], labels.double().cpu().numpy())


TARGETS: Mapping[TargetKind, Target] = {one.kind: one for one in (Classes(), Multilabel(), Regression())}


def target_of(labels: Tensor) -> Target:
    """The kind of target of a batch's labels, by their type."""
    if labels.is_floating_point():
        return TARGETS["regression"]
    return TARGETS["multilabel" if labels.dtype == torch.uint8 else "classes"]
