"""Splits in time: train | validation | test, oldest first, with only what was known when each part began."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml_pipeline.features.feedback import own_outcomes

MIN_KNOWN_ROWS = 30


@dataclass(frozen=True)
class Split:
    """Positions in a feature frame, oldest first; train, validation and test do not overlap.

    ``refit`` is what the chosen candidate is fitted on again before it meets the test part: the rows of the first two
    parts whose label was known by then. ``purged`` counts the rows left out of train, validation and refit because
    their label was not known in time; ``unpurged`` names the parts that keep such rows, being too small without them.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    refit: np.ndarray
    purged: dict[str, int]
    unpurged: tuple[str, ...] = ()


def oldest_first(frame: pd.DataFrame) -> np.ndarray:
    """Positions of the rows in the order (event_time, entity_id)."""
    return np.lexsort((frame["entity_id"].to_numpy(dtype=str), frame["event_time"].to_numpy()))


def time_split(frame: pd.DataFrame, validation_share: float, test_share: float) -> Split:
    """Cuts a frame of matured rows in time and purges the labels that were not known at the cuts.

    A row of train counts only if its label time is before the first event time of the validation part, a row of
    validation or refit only if it is before the first event time of the test part (purging: Lopez de Prado 2018,
    Advances in Financial Machine Learning, chapter 7). A purge that would leave fewer than 30 rows is not made, which
    ``unpurged`` says: a young tenant with slow labels is judged on optimistic rows rather than not at all.

    Rows whose label is people's feedback are trained on and never judged by: who accepts a prediction makes it right.
    The shares are of the other rows.

    Raises
    ------
    ValueError
        If a part would be empty.
    """
    order = oldest_first(frame)
    judged = np.flatnonzero(own_outcomes(frame)[order])
    first_test = len(judged) - round(len(judged) * test_share)
    first_validation = first_test - round(len(judged) * validation_share)
    if not 0 < first_validation < first_test < len(judged):
        raise ValueError(
            f"{len(judged)} matured rows cannot be cut with validation_share={validation_share} and "
            f"test_share={test_share}. Wait for more labels or lower the shares"
        )
    validation_start = frame["event_time"].iloc[order[judged[first_validation]]]
    test_start = frame["event_time"].iloc[order[judged[first_test]]]
    parts = {
        "train": (order[: judged[first_validation]], validation_start),
        "validation": (order[judged[first_validation:first_test]], test_start),
        "refit": (order[: judged[first_test]], test_start),
    }
    known = {name: known_before(frame, positions, moment) for name, (positions, moment) in parts.items()}
    purged = {name: len(parts[name][0]) - len(positions) for name, positions in known.items()}
    unpurged = tuple(
        name
        for name, (positions, moment) in parts.items()
        if not purged[name] and (frame["label_time"].iloc[positions] >= moment).any()
    )
    return Split(**known, test=order[judged[first_test:]], purged=purged, unpurged=unpurged)


def known_before(frame: pd.DataFrame, positions: np.ndarray, moment: pd.Timestamp) -> np.ndarray:
    """The positions whose label time is before ``moment``, or all of them if those are fewer than 30."""
    known = positions[(frame["label_time"].iloc[positions] < moment).to_numpy()]
    return known if len(known) >= MIN_KNOWN_ROWS else positions
