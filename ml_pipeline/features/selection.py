"""Feature selection on training rows, and the stability of the selections of several folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_pipeline.specs import Selection

if TYPE_CHECKING:
    import lightgbm

DUPLICATE = 0.95
HELD_OUT = 0.25
REPEATS = 5
OF_NO_USE = -np.inf
_TREES = 50
_TREE = {
    "num_leaves": 8,
    "max_bin": 63,
    "min_data_in_leaf": 10,
    "learning_rate": 0.1,
    "num_threads": 1,
    "verbosity": -1,
}
_DETERMINISTIC = {"deterministic": True, "force_col_wise": True}
_OBJECTIVE = {"absolute_error": "regression_l1", "squared_error": "regression", "log_loss": "binary"}


@dataclass(frozen=True)
class Stability:
    """How similar several selections are.

    ``value`` is 1 for identical selections and 0 on average for random ones of equal size; ``frequency`` is the share
    of the selections that contain each feature, most frequent first.
    """

    value: float
    frequency: dict[str, float]


def select(
    matrix: np.ndarray, label: np.ndarray, names: Sequence[str], selection: Selection, loss: str, seed: int
) -> list[str]:
    """Names of at most ``selection.keep`` features, the most useful first; deterministic for a seed.

    Columns of the same name are kept or dropped together and count as one feature: the components of a text and the
    levels of a category differ between folds, so a single one has no stable name. A feature without any use (constant,
    or never split on) is dropped even if fewer than ``keep`` remain; at least one is kept.

    - ``importance``: gain of the splits of 50 gradient-boosted trees, summed over a feature's columns.
    - ``correlation``: absolute rank correlation with the label, the highest of a feature's columns. In this order, a
      feature is dropped if each of its columns has a rank correlation above 0.95 with a column already taken.
    - ``mutual_information``: with the label, estimated by nearest neighbours (Kraskov et al. 2004, Ross 2014), the
      highest of a feature's columns.
    - ``permutation``: rise of the loss on the newest quarter of the rows when a feature's columns are shuffled
      together (Breiman 2001; 5 shuffles), for the same kind of trees fitted on the older rows. Features whose shuffling
      lowers the loss come last; they are dropped only if there are more than ``keep``, because a quarter of a tenant's
      rows is little evidence. Always dropping them raised the loss by 12% instead of 6% on 22 tenants' lead times (and
      lowered it by 3% instead of 1% on 13 tenants' story points).

    Parameters
    ----------
    matrix
        Float32, rows x columns, NaN for missing; training rows only, oldest first.
    label
        Float64 per row, on the scale of the target; 0 and 1 for ``loss`` ``log_loss``.
    names
        The feature of each column.
    selection
        ``features.selection`` of the specification: method and number of features.
    loss
        As ``training.loss`` of a specification.
    """
    features = list(dict.fromkeys(names))
    groups = [np.flatnonzero([name == feature for name in names]) for feature in features]
    if selection.method == "permutation":
        scores = _permutation(matrix, label, groups, loss, seed)
    else:
        by_column, summed = _column_scores(selection.method, matrix, label, loss, seed)
        by_group = np.array([by_column[group].sum() if summed else by_column[group].max() for group in groups])
        scores = np.where(by_group > 0, by_group, OF_NO_USE)
    ranked = np.argsort(-scores, kind="stable")
    useful = ranked[: max(np.count_nonzero(scores > OF_NO_USE), 1)]
    if selection.method == "correlation":
        useful = _without_duplicates(matrix, groups, useful)
    return [features[number] for number in useful[: selection.keep]]


def stability(selections: Sequence[Collection[str]], features: Collection[str]) -> Stability:
    """Agreement of selections that were made from ``features``, one per fold (Nogueira, Sechidis and Brown 2018).

    Let p be the share of the M selections that contain a feature, and q the mean share of the features that a
    selection contains. The measure is 1 - mean(M / (M - 1) p (1 - p)) / (q (1 - q)). It is corrected for chance, and
    selections may differ in size. If all selections contain every feature, or all contain no feature, it is 1.

    Raises
    ------
    ValueError
        If there are fewer than two selections, or one contains a feature that is not among ``features``.

    >>> stability([{"a"}, {"a"}, {"a"}], ["a", "b"]).value
    1.0
    >>> stability([{"a"}, {"b"}], ["a", "b"]).value
    -1.0
    """
    if len(selections) < 2:
        raise ValueError(f"stability needs at least two selections, got {len(selections)}. Pass those of several folds")
    counts = Counter(name for selection in selections for name in set(selection))
    if unknown := sorted(set(counts) - set(features)):
        raise ValueError(f"selections contain {unknown}, which are not in features. Pass all that they chose from")
    frequency = {name: counts[name] / len(selections) for name in features}
    share = np.array(list(frequency.values()))
    disagreement = float((share * (1 - share)).mean()) * len(selections) / (len(selections) - 1)
    by_chance = float(share.mean() * (1 - share.mean()))
    ranked = sorted(frequency.items(), key=lambda item: -item[1])
    return Stability(1 - disagreement / by_chance if by_chance else 1.0, dict(ranked))


def _column_scores(method: str, matrix: np.ndarray, label: np.ndarray, loss: str, seed: int) -> tuple[np.ndarray, bool]:
    """Score of each column, and whether a feature's score is the sum (else the maximum) of its columns' scores."""
    if method == "importance":
        return _fit_trees(matrix, label, loss, seed).feature_importance("gain"), True
    if method == "correlation":
        return _rank_correlation(np.column_stack([_filled(matrix), label]))[-1, :-1], False
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    estimate = mutual_info_classif if loss == "log_loss" else mutual_info_regression
    filled = _filled(matrix)
    varies = (filled != filled[0]).any(axis=0)  # noise that breaks ties would score a constant one
    return estimate(filled, label, discrete_features=False, random_state=seed) * varies, False


def _permutation(matrix: np.ndarray, label: np.ndarray, groups: list[np.ndarray], loss: str, seed: int) -> np.ndarray:
    known = len(label) - max(round(len(label) * HELD_OUT), 1)
    trees = _fit_trees(matrix[:known], label[:known], loss, seed)
    held_out, outcome = matrix[known:], label[known:]
    whole = _mean_loss(trees, held_out, outcome, loss)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(outcome)) for _ in range(REPEATS)]
    scores = np.full(len(groups), OF_NO_USE)
    split_on = trees.feature_importance("split") > 0
    for number, group in enumerate(groups):
        if not split_on[group].any():  # shuffling it cannot change a prediction
            continue
        losses = []
        for order in orders:
            shuffled = held_out.copy()
            shuffled[:, group] = held_out[np.ix_(order, group)]
            losses.append(_mean_loss(trees, shuffled, outcome, loss))
        scores[number] = np.mean(losses) - whole
    return scores


def _fit_trees(matrix: np.ndarray, label: np.ndarray, loss: str, seed: int) -> lightgbm.Booster:
    import lightgbm

    params = {"objective": _OBJECTIVE[loss], "seed": seed, **_TREE, **_DETERMINISTIC}
    return lightgbm.train(params, lightgbm.Dataset(matrix, label), num_boost_round=_TREES)


def _mean_loss(trees: lightgbm.Booster, matrix: np.ndarray, label: np.ndarray, loss: str) -> float:
    value: Any = trees.predict(matrix, num_threads=1)
    if loss == "log_loss":
        likelihood = np.clip(np.where(label == 1, value, 1 - value), 1e-12, None)
        return float(-np.log(likelihood).mean())
    error = value - label
    return float(np.abs(error).mean() if loss == "absolute_error" else (error**2).mean())


def _without_duplicates(matrix: np.ndarray, groups: list[np.ndarray], ranked: np.ndarray) -> np.ndarray:
    near = _rank_correlation(_filled(matrix)) > DUPLICATE
    taken: list[int] = []
    columns = np.zeros(near.shape[0], dtype=bool)
    for number in ranked:
        if near[groups[number]][:, columns].any(axis=1).all():
            continue
        taken.append(number)
        columns[groups[number]] = True
    return np.array(taken, dtype=int)


def _rank_correlation(columns: np.ndarray) -> np.ndarray:
    """Absolute Spearman correlation between columns; 0 if one is constant."""
    from scipy.stats import rankdata

    ranks = rankdata(columns, axis=0)
    ranks -= ranks.mean(axis=0)
    length = np.sqrt((ranks**2).sum(axis=0))
    ranks /= np.where(length > 0, length, 1)
    return np.asarray(np.abs(ranks.T @ ranks))


def _filled(matrix: np.ndarray) -> np.ndarray:
    """Matrix with missing values replaced by the column's median, or by 0 in a column without values."""
    from sklearn.impute import SimpleImputer

    return np.asarray(SimpleImputer(strategy="median", keep_empty_features=True).fit_transform(matrix))
