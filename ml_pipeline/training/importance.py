"""What a version relies on: each feature's share of the gain of its trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ml_pipeline.features.numbers import IS_MISSING
from ml_pipeline.features.preprocessing import Preprocessor
from ml_pipeline.training.boosters import total_gain
from ml_pipeline.training.predictors import AnchoredBoosters, Constant
from ml_pipeline.training.version import FittedModel

if TYPE_CHECKING:
    from ml_pipeline.training.boosters import Booster


def importance(model: FittedModel) -> dict[str, float]:
    """Share of the total gain per feature of the specification, largest first, equal ones by name.

    The gain of a split is what it lowers the training loss by (Breiman et al. 1984); the components of the text are
    summed under ``text``, the levels of a category and the flag of missing values under their column, and the two
    boosters of an anchored model count alike. ``is_outlier``, which stems from all numbers, is by itself. The shares
    sum to 1. Features that no tree splits on are left out; a constant, or a model whose trees never split, gives an
    empty dictionary. Gain favours columns of many values: take it as a rank, not as a measure of cause.
    """
    predictor = model.predictor
    if isinstance(predictor, Constant):
        return {}
    boosters: list[Any] = (
        [predictor.from_median, predictor.from_recent]
        if isinstance(predictor, AnchoredBoosters)
        else [predictor.booster]
    )
    shares = _gain_per_feature(predictor.preprocessor, boosters)
    total = sum(shares.values())
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return {name: share / total for name, share in ranked if share > 0}


def _gain_per_feature(preprocessor: Preprocessor, boosters: list[Booster]) -> dict[str, float]:
    names = preprocessor.features
    shares: dict[str, float] = {}
    for booster in boosters:
        gain = total_gain(booster)
        whole = float(gain.sum())
        for position in np.flatnonzero(gain):
            name = names[position]
            if name not in preprocessor.columns.all:
                name = name.removesuffix(IS_MISSING)
            shares[name] = shares.get(name, 0.0) + float(gain[position]) / whole
    return shares
