"""Calibration: whether a prediction made with a confidence of 80 % is right in 80 % of the cases.

Its other measure, the negative log-likelihood (NLL), is the metric `loss` of `lfm_ray.models.metrics.evaluate`.
"""

from __future__ import annotations

import numpy as np

BINS = 15


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """ECE: the mean distance between confidence and accuracy, over bins of equal width, weighted by their samples.

    probabilities: (N, C), rows sum to 1; labels: (N,). The confidence of a sample is its highest
    probability. From 0, calibrated, to 1. Guo et al., "On calibration of modern neural networks", ICML 2017,
    with their 15 bins. It depends on the bins and is biased upwards where bins hold few samples, so compare it
    on splits of the same size only.
    """
    confidence = probabilities.max(axis=1).clip(0, 1)
    surplus = confidence - (probabilities.argmax(axis=1) == labels)
    of_bins, _ = np.histogram(confidence, bins, range=(0, 1), weights=surplus)
    return float(np.abs(of_bins).sum() / len(labels))
