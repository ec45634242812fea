"""What a version relies on: each feature's share of the gain of its trees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ml_pipeline.specs.names import own_feature
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.selection.predictors import Baseline, wanted


def importance(model: FittedModel) -> dict[str, float]:
    """Share of the total gain per feature of the specification, largest first, equal ones by name.

    The gain of a split is what it lowers the training loss by (Breiman et al. 1984); of a linear model it is the size
    of the coefficient, its columns having one scale. Columns of one feature are summed (the words of the text, the
    levels of a category, the flag of missing values), and each member counts with its weight. ``is_outlier``, which
    stems from all numbers, is by itself. The shares sum to 1. Features that no tree splits on are left out; a constant,
    or a model whose trees never split, gives an empty dictionary. Gain favours columns of many values: take it as a
    rank, not as a measure of cause.
    """
    predictor = model.predictor
    if isinstance(predictor, Baseline):
        return {}
    shares: dict[str, float] = {}
    for member, weight in zip(predictor.members, predictor.weights.tolist(), strict=True):
        if member.learner is not None:
            preprocessor = predictor.preprocessors[wanted(member)]
            names = [own_feature(name, preprocessor.columns.all) for name in preprocessor.features]
            for name, share in _gain_per_feature(names, member.learner.gain()).items():
                shares[name] = shares.get(name, 0.0) + weight * share
    total = sum(shares.values())
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return {name: share / total for name, share in ranked if share > 0}


def _gain_per_feature(names: Sequence[str], gain: np.ndarray) -> dict[str, float]:
    whole = float(gain.sum())
    shares: dict[str, float] = {}
    for position in np.flatnonzero(gain).tolist():
        name = names[position]
        shares[name] = shares.get(name, 0.0) + float(gain[position]) / whole
    return shares
