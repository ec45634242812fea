"""Names of the columns of a feature frame, and of the features from source columns."""

from __future__ import annotations

from collections.abc import Container

TEXT = "text"
"""The feature that joins all text columns."""
IS_MISSING, IS_OUTLIER = "_is_missing", "is_outlier"
SOURCE = "column."
_OWN = frozenset(
    {
        # columns of the feature frame, with and without feedback
        *("entity_id", "event_time", "label_time", "label", "state", "weight", "feedback", TEXT),
        # names beside features in explanations and drift reports
        *("offset", "calibration", "range", "prediction", IS_OUTLIER),
        *("xgboost", "lightgbm", "hist_gradient_boosting", "random_forest", "linear"),
    }
)
_OWN_PREFIXES = ("history_", "calendar_", "expert:", "experts:", SOURCE)


def is_reserved(name: str) -> bool:
    """Whether the frame may have a column with this name that does not come from the source."""
    return name in _OWN or name.startswith(_OWN_PREFIXES)


def feature_name(column: str) -> str:
    """Feature name of a source column: the column's name, with a prefix if that name is reserved.

    With the prefix, a source column ``weight`` cannot be confused with the sample weight of a row.

    >>> feature_name("amount"), feature_name("weight"), feature_name("history_mean")
    ('amount', 'column.weight', 'column.history_mean')
    """
    return f"{SOURCE}{column}" if is_reserved(column) else column


def text_lengths(column: str) -> tuple[str, str]:
    """The features with the number of characters and of words of a text column."""
    return feature_name(f"{column}_chars"), feature_name(f"{column}_words")


def own_feature(name: str, features: Container[str]) -> str:
    """The source feature of a column in a learner's matrix; a missing-value flag belongs to its numeric feature.

    >>> own_feature("age_is_missing", ("age",)), own_feature("age_is_missing", ("age_is_missing",))
    ('age', 'age_is_missing')
    """
    return name if name in features else name.removesuffix(IS_MISSING)
