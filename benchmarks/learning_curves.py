"""Models of learning curves: the accuracy of a trial at its last epoch, predicted from its first epochs.

What rungs could compare in place of a measure; `benchmarks/search.py` shows how well. Two of the literature's:

    power law    a - b t^-c through the trial's own fused accuracies: `pow3` of Domhan, Springenberg and Hutter,
                 "Speeding up automatic hyperparameter optimization of deep neural networks by extrapolation of
                 learning curves", IJCAI 2015
    regression   what a measure leaves unexplained of trials that have ended, learned from what is known of a trial
                 at the rung; with few ended trials it is nearly the measure itself. After Baker, Gupta, Raskar and
                 Naik, "Accelerating neural architecture search using performance prediction", ICLR workshop 2018,
                 who fit a support vector regression to curves and settings
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.kernel_ridge import KernelRidge

EXPONENTS = np.geomspace(0.1, 4, 30)  # c; for each, a and b are a linear least-squares fit
PENALTY = 0.4  # of the kernel ridge regression, for a variance of 1


def power_law(values: np.ndarray, epochs: int) -> np.ndarray:
    """values: (N, t), accuracies of the epochs 1 to t -> (N,), the power law of each row at epoch `epochs`.

    t is at least 2; b is at least 0, so no curve falls; what it predicts lies in [0, 1].
    """
    t, mean = np.arange(1.0, values.shape[1] + 1), values.mean(axis=1)
    least, predicted = np.full(len(values), np.inf), mean
    for c in EXPONENTS:
        x = t**-c - (t**-c).mean()
        b = np.maximum(0, -values @ x / (x @ x))
        error = ((mean[:, None] - b[:, None] * x - values) ** 2).sum(axis=1)
        at_the_end = mean - b * (epochs**-c - (t**-c).mean())
        predicted = np.where(error < least, at_the_end, predicted)
        least = np.minimum(least, error)
    return predicted.clip(0, 1)


def features(
    curves: Sequence[np.ndarray], alphas: np.ndarray, learned: np.ndarray, rates: np.ndarray, epoch: int
) -> np.ndarray:
    """What is known of each trial at an epoch, (N, features).

    The value of each curve (N, T) there and its rise since half as many epochs; the mean alpha of the
    epochs to come, which is the present one where alpha is learned, since nobody knows it then; alpha
    now; the logarithm of the learning rate. alphas: (N, T); learned, rates: (N,).
    """
    now, before = epoch - 1, (epoch + 1) // 2 - 1
    to_come = np.where(learned, alphas[:, now], alphas[:, epoch:].mean(axis=1))
    measured = [column for curve in curves for column in (curve[:, now], curve[:, now] - curve[:, before])]
    return np.column_stack([*measured, to_come, alphas[:, now], np.log(rates)])


def regression(known: np.ndarray, measure: np.ndarray, ended: Sequence[int], final: np.ndarray) -> np.ndarray:
    """The final accuracy of each trial at a rung, (N,).

    known: (N, features) and measure: (N,), of all these trials; ended: the places of those whose final
    accuracies (E,) are known, at least one.
    """
    x, z = _standardised(known), _standardised(measure)
    spread = max(float(final.std()), 1e-3)
    by_measure = z - z[ended].mean()
    left = (final - final.mean()) / spread - by_measure[ended]
    model = KernelRidge(kernel="rbf", gamma=1 / (2 * x.shape[1]), alpha=PENALTY).fit(x[ended], left)
    return final.mean() + spread * (by_measure + model.predict(x))


def _standardised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-9)
