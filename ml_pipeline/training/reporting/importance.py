"""Feature importance of a version: the share of the gain of each feature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ml_pipeline.specs.names import own_feature
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.online.explanation import mixture_importance
from ml_pipeline.training.online.mixture import Mixture
from ml_pipeline.training.selection.predictors import Baseline, Ensemble, wanted


def importance(model: FittedModel) -> dict[str, float]:
    """Share of the total gain per feature of the specification, largest first, ties by name.

    The gain of a split is the reduction of the training loss (Breiman et al. 1984); for linear models it is the
    absolute coefficient, because all columns are on the same scale. Columns of one feature are summed (the words of a
    text, the levels of a category, the missing-value flag), and members count by their weight. ``is_outlier`` is
    separate, because it depends on all numeric features. The shares sum to 1. Features without a split are left out;
    the dictionary is empty for a baseline and for a model whose trees never split. Gain favours columns with many
    values: use it as a ranking, not as a measure of cause and effect.
    """
    predictor = model.predictor
    if isinstance(predictor, Mixture):
        return _ranked(mixture_importance(predictor))
    if isinstance(predictor, Baseline):
        return {}
    return _ranked(ensemble_importance(predictor))


def ensemble_importance(predictor: Ensemble) -> dict[str, float]:
    """Share of each feature in the gain of each member, weighted by the member's weight."""
    shares: dict[str, float] = {}
    for member, weight in zip(predictor.members, predictor.weights.tolist(), strict=True):
        if member.learner is not None:
            preprocessor = predictor.preprocessors[wanted(member)]
            gain = member.learner.gain()
            whole = float(gain.sum())
            of_member: dict[str, float] = {}
            for position in np.flatnonzero(gain).tolist():
                name = own_feature(preprocessor.features[position], preprocessor.columns.all)
                of_member[name] = of_member.get(name, 0.0) + float(gain[position]) / whole
            for name, share in of_member.items():
                shares[name] = shares.get(name, 0.0) + weight * share
    return shares


def _ranked(shares: Mapping[str, float]) -> dict[str, float]:
    total = sum(shares.values())
    ranked = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return {name: share / total for name, share in ranked if share > 0}
