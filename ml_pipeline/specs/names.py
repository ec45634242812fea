"""Names of the columns of a feature frame: its own, and those of the source columns beside them."""

from __future__ import annotations

from collections.abc import Container

TEXT = "text"
"""The feature that all text columns make together."""
IS_MISSING, IS_OUTLIER = "_is_missing", "is_outlier"
SOURCE = "column."
_OWN = frozenset(
    {
        # of the frame, and of the frame with feedback
        *("entity_id", "event_time", "label_time", "label", "state", "weight", "feedback", TEXT),
        # beside features where a prediction is explained, and where a drift is reported
        *("offset", "calibration", "range", "prediction", IS_OUTLIER),
        *("xgboost", "lightgbm", "hist_gradient_boosting", "random_forest", "linear"),
    }
)
_OWN_PREFIXES = ("history_", "calendar_", SOURCE)


def is_reserved(name: str) -> bool:
    """Whether the frame has, or may come to have, a column of its own with this name."""
    return name in _OWN or name.startswith(_OWN_PREFIXES)


def feature_name(column: str) -> str:
    """What a source column is called as a feature: its own name, with a prefix where that is one of the frame's own.

    A source may call its columns as it likes: its ``weight`` never becomes the weight of a row.

    >>> feature_name("amount"), feature_name("weight"), feature_name("history_mean")
    ('amount', 'column.weight', 'column.history_mean')
    """
    return f"{SOURCE}{column}" if is_reserved(column) else column


def text_lengths(column: str) -> tuple[str, str]:
    """The features that hold the characters and the words of a text column."""
    return feature_name(f"{column}_chars"), feature_name(f"{column}_words")


def own_feature(name: str, features: Container[str]) -> str:
    """The feature that a column of a learner's matrix stems from: the flag of missing values belongs to its number.

    >>> own_feature("age_is_missing", ("age",)), own_feature("age_is_missing", ("age_is_missing",))
    ('age', 'age_is_missing')
    """
    return name if name in features else name.removesuffix(IS_MISSING)
