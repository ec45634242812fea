"""Losses per row, and the significance of paired differences."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def losses(task: Literal["regression", "binary"], label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Loss per row, whose mean is the headline metric: absolute error, or squared error of a probability.

    >>> losses("binary", np.array([0.0, 1.0]), np.array([0.5, 1.0])).tolist()
    [0.25, 0.0]
    """
    error: np.ndarray = np.abs(np.asarray(label, dtype=float) - np.asarray(prediction, dtype=float))
    return error if task == "regression" else error**2


def is_significant(gain: np.ndarray, standard_errors: float = 1.0) -> bool:
    """Whether the mean of ``gain`` (paired loss differences, one per row) exceeds ``standard_errors`` of it.

    One standard error is the rule of Breiman et al. (1984).

    >>> is_significant(np.array([0.1, 0.2, 0.3])), is_significant(np.array([-0.1, 0.2]))
    (True, False)
    """
    return bool(gain.mean() > standard_errors * gain.std() / np.sqrt(len(gain)))
