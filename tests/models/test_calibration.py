from __future__ import annotations

import numpy as np
import pytest

from lfm_ray.models.calibration import expected_calibration_error


def test_the_error_of_two_bins_worked_out_by_hand() -> None:
    # Above 1/2 the confidences 0.6, 0.7 and 0.9, of which one is right; below it 0.4, which is right
    chances = np.array([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.9, 0.1, 0.0], [0.4, 0.3, 0.3]])
    labels = np.array([1, 1, 1, 0])
    assert expected_calibration_error(chances, labels, bins=2) == pytest.approx((abs(2.2 - 1) + abs(0.4 - 1)) / 4)


def test_it_is_the_weighted_distance_of_scikit_learns_calibration_curve() -> None:
    from sklearn.calibration import calibration_curve

    random = np.random.default_rng(0)
    chances = random.dirichlet(np.ones(4), size=500)
    labels = random.integers(0, 4, 500)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=15)
    counts = np.histogram(confidence, 15, range=(0, 1))[0]
    expected = (np.abs(accuracy - mean_confidence) * counts[counts > 0]).sum() / 500
    assert expected_calibration_error(chances, labels) == pytest.approx(expected)


def test_predictions_that_are_as_often_right_as_they_say_are_calibrated() -> None:
    chances = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(chances, np.array([0, 0, 0, 1])) == pytest.approx(0)
    assert expected_calibration_error(np.eye(2)[[0, 1]], np.array([1, 0])) == 1  # sure, and always wrong
