"""``FitData``: what a learner is fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Matrix = Any
"""Float32, rows x columns. Trees take an ndarray with NaN for missing; ``linear`` one without NaN, or a CSR array."""


@dataclass(frozen=True, eq=False)
class FitData:
    """Rows to fit a learner on, and the seed of the fit.

    ``target`` is float64 per row on the scale to predict, 0 and 1 for the loss ``log_loss``. ``weight`` is positive
    float64 per row; None gives every row the weight 1.
    """

    matrix: Matrix
    target: np.ndarray
    seed: int
    weight: np.ndarray | None = None
