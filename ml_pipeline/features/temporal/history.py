"""History features: outcomes and counts of the tenant's earlier entities, as known at the event time of an entity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.specs import ModelSpec

NEVER = np.iinfo(np.int64).max
DAY = 86_400_000_000
RECENT = 50
PRIOR_WEIGHT = 5.0


class Outcomes(NamedTuple):
    """Outcome of each entity and its times, in microseconds since 1970 (``NEVER`` if it did not happen)."""

    value: np.ndarray
    """float64, in the reported unit; NaN if the entity has no usable label."""
    known_at: np.ndarray
    """int64, when the usable label became known; not before the event time."""
    finished_at: np.ndarray
    """int64, when the entity ended, with a usable outcome or without; not before the event time."""


def history_features(
    spec: ModelSpec, event_time: np.ndarray, outcomes: Outcomes, levels: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The ``history_*`` columns of a feature frame, one float64 array per name.

    The features of an entity use the outcomes known, and the arrivals and endings that happened, strictly before its
    event time. All counts and sums run forward in time, so the first n rows have bit for bit the same values if later
    rows are removed.

    Parameters
    ----------
    spec
        The model.
    event_time
        int64 microseconds, ascending.
    outcomes
        Outcomes of the entities, in the same order.
    levels
        For each column of ``spec.features.history``, an object array of level or None. The mean of a level is shrunk
        toward the tenant's mean with the weight of 5 outcomes. An entity without a level has NaN in the features of
        that column, because entities without a level have nothing in common.
    """
    log = spec.training.target == "log"
    known = np.argsort(outcomes.known_at, kind="stable")[: np.count_nonzero(outcomes.known_at < NEVER)]
    finished = np.argsort(outcomes.finished_at, kind="stable")[: np.count_nonzero(outcomes.finished_at < NEVER)]
    values = outcomes.value[known]
    terms = np.log1p(values) if log else values
    known_before = np.searchsorted(outcomes.known_at[known], event_time)
    finished_before = np.searchsorted(outcomes.finished_at[finished], event_time)
    arrived_before = np.searchsorted(event_time, event_time)
    total = np.concatenate([[0.0], np.cumsum(terms)])
    mean = np.full(len(event_time), np.nan)
    np.divide(total[known_before], known_before, out=mean, where=known_before > 0)
    columns = {
        "history_known": known_before,
        "history_mean": np.expm1(mean) if log else mean,
        "history_recent_median": _recent_median(values)[known_before],
        "history_open": arrived_before - finished_before,
        "history_arrivals_7d": arrived_before - np.searchsorted(event_time, event_time - 7 * DAY),
        "history_arrivals_30d": arrived_before - np.searchsorted(event_time, event_time - 30 * DAY),
    }
    for column, labels in levels.items():
        codes = pd.factorize(labels)[0].astype("int64")
        count, total = _level_totals(codes[known], terms, codes, known_before)
        shrunk = (total + PRIOR_WEIGHT * mean) / (count + PRIOR_WEIGHT)
        arrived = _level_counts(codes, codes, arrived_before)
        ended = _level_counts(codes[finished], codes, finished_before)
        has_level = codes >= 0
        columns[f"history_{column}_known"] = np.where(has_level, count, np.nan)
        columns[f"history_{column}_mean"] = np.where(has_level, np.expm1(shrunk) if log else shrunk, np.nan)
        columns[f"history_{column}_open"] = np.where(has_level, arrived - ended, np.nan)
    return {name: column.astype("float64") for name, column in columns.items()}


def _recent_median(values: np.ndarray) -> np.ndarray:
    """Median of the last ``RECENT`` of the first k values, for k = 0 .. len(values); NaN for k = 0.

    >>> _recent_median(np.array([5.0, 1.0, 3.0])).tolist()
    [nan, 5.0, 3.0, 3.0]
    """
    medians = pd.Series(values).rolling(RECENT, min_periods=1).median().to_numpy()
    return np.concatenate([[np.nan], medians])


def _level_search(event_codes: np.ndarray, codes: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, ...]:
    """Order of the events by level, and the start and end of each entity's past among the events of its level.

    ``event_codes`` are the levels of the events in time order; ``before`` is the number of events, of any level, before
    each entity. Level and position form one ascending key, so that one binary search finds both.
    """
    order = np.argsort(event_codes, kind="stable")
    width = len(event_codes) + 1
    keys = event_codes[order] * width + order
    return order, np.searchsorted(keys, codes * width), np.searchsorted(keys, codes * width + before)


def _level_counts(event_codes: np.ndarray, codes: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Number of events with the entity's level among the first ``before`` events.

    >>> _level_counts(np.array([0, 1, 0]), np.array([0, 0, 1]), np.array([1, 3, 3])).tolist()
    [1, 2, 1]
    """
    _, start, end = _level_search(event_codes, codes, before)
    return np.asarray(end - start)


def _level_totals(
    event_codes: np.ndarray, terms: np.ndarray, codes: np.ndarray, before: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number and sum of the terms with the entity's level among the first ``before`` terms.

    The running sum restarts at each level. The difference of two sums over all levels would be rounded differently
    once a later outcome arrives.
    """
    order, start, end = _level_search(event_codes, codes, before)
    running = pd.Series(terms[order]).groupby(event_codes[order]).cumsum().to_numpy()
    count = end - start
    total = np.zeros(len(codes))
    total[count > 0] = running[end[count > 0] - 1]
    return count, total
