"""Losses per row, and the significance of paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from ml_pipeline.stats import is_significant, losses


def test_losses_are_absolute_errors_or_squared_errors_of_the_probability():
    assert losses("regression", np.array([1.0, 4.0]), np.array([2.0, 2.0])).tolist() == [1.0, 2.0]
    assert losses("binary", np.array([1.0, 0.0]), np.array([0.5, 0.2])).tolist() == pytest.approx([0.25, 0.04])


def test_a_gain_is_significant_beyond_as_many_standard_errors_as_are_asked_for():
    gain = np.array([0.0, 1.0, 2.0, 3.0])  # mean 1.5, standard error 0.56
    assert is_significant(gain, 2.5)
    assert not is_significant(gain, 3.0)
