"""Features computed from other columns of the same frame: transforms, and products of pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ml_pipeline.features.temporal.ranges import Groups, OrderStatistics, Range, range_moments
from ml_pipeline.specs.names import feature_name
from ml_pipeline.specs.temporal import Temporal, product, transformed

LARGEST = float(np.finfo("float32").max)


def derived_features(
    temporal: Temporal, event_time: np.ndarray, features: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The transforms and products of ``features.temporal``, one float64 array per name.

    ``rank`` is the share of the earlier entities (arrived strictly before) that have a smaller value, where equal
    values count half. ``zscore`` is the distance to the mean of the earlier entities in standard deviations. Undefined
    results (the root of a negative number, a z-score if the past does not vary) and values too large for float32 are
    NaN.

    Parameters
    ----------
    temporal
        ``features.temporal`` of the specification.
    event_time
        int64 microseconds, ascending.
    features
        The other numeric columns of the frame, with the same row order.
    """
    before = np.searchsorted(event_time, event_time)
    columns: dict[str, np.ndarray] = {}
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for kind, names in temporal.transforms.items():
            for name in names:
                columns[transformed(kind, name)] = _transformed(kind, features[feature_name(name)], before)
        for first, second in temporal.pairs:
            columns[product(first, second)] = features[first] * features[second]
        return {name: np.where(np.abs(column) <= LARGEST, column, np.nan) for name, column in columns.items()}


def _transformed(kind: str, values: np.ndarray, before: np.ndarray) -> np.ndarray:
    if kind == "log1p":
        return np.asarray(np.log1p(values))
    if kind == "sqrt":
        return np.asarray(np.sqrt(values))
    present = ~np.isnan(values)
    seen = np.concatenate([[0], np.cumsum(present)])[before]
    past = values[present]
    none = np.zeros(len(seen), dtype="int64")
    if kind == "rank":
        ordered = OrderStatistics(past)
        bound = np.where(np.isnan(values), 0.0, values)
        below, not_above = (ordered.below(none, seen, at) for at in (bound, np.nextafter(bound, np.inf)))
        return np.where(np.isnan(values), np.nan, (below + not_above) / 2 / seen)
    groups = Groups.of(np.zeros(len(past), dtype="int64"), 1)
    moments = range_moments(groups, none, past, [Range(none, seen)])[0]
    return np.asarray((values - moments.mean) / moments.std)
