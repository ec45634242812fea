"""Splits in time (train, validation, test, oldest first) without labels from the future, and folds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ml_pipeline.features.feedback import own_outcomes

MIN_KNOWN_ROWS = 30
# Folds in time never validate the oldest half of the rows. Every fold then trains on enough rows for its result to
# apply to a fit on all rows.
OLDEST_SHARE = 0.5

FoldMethod = Literal["expanding", "rolling", "stratified", "kfold", "grouped"]


@dataclass(frozen=True)
class Split:
    """Positions of rows in a feature frame, oldest first; train, validation and test do not overlap.

    ``refit`` contains the rows that the selected candidate is refitted on before the test: those before the test part
    whose label was known when it began. ``purged`` counts the rows left out of train, validation and refit because
    their label was not known in time; ``unpurged`` names the parts that keep such rows because they would be too small.
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
    """Split a frame of matured rows in time, and purge rows whose label was not known when the next part began.

    Train contains only rows whose label time is before the first event time of the validation part; validation and
    refit only rows whose label time is before the first event time of the test part (purging: Lopez de Prado 2018,
    Advances in Financial Machine Learning, chapter 7). A part that would have fewer than 30 rows is not purged and is
    named in ``unpurged``: the metrics of a young tenant with slow labels are then optimistic.

    Rows whose label comes from feedback are in train and refit only, because accepting a prediction makes it correct by
    definition. The shares refer to the other rows.

    Parameters
    ----------
    frame
        Matured rows of a feature frame.
    validation_share, test_share
        Shares between 0 and 1.

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
            f"{len(judged)} matured rows cannot be split with validation_share={validation_share} and "
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
    """The positions whose label time is before ``moment``; all positions if that leaves fewer than 30."""
    known = positions[(frame["label_time"].iloc[positions] < moment).to_numpy()]
    return known if len(known) >= MIN_KNOWN_ROWS else positions


@dataclass(frozen=True)
class Fold:
    """Positions of the training and validation rows of a fold, oldest first, without overlap."""

    train: np.ndarray
    validation: np.ndarray


def folds(
    frame: pd.DataFrame, method: FoldMethod, count: int, gap_days: float = 0, group: str | None = None, seed: int = 0
) -> list[Fold]:
    """``count`` folds of a frame of matured rows.

    Methods in time, the oldest validation part first. The newer half of the rows is split into ``count`` validation
    parts of equal size. A fold trains only on rows whose label time is more than ``gap_days`` before the first event
    time of its validation part; unlike in :func:`time_split`, this has no exception.

    ``expanding``
        Trains on all rows older than the validation part.
    ``rolling``
        Trains on half of the rows, the newest ones before the validation part.

    Random methods, deterministic for ``seed``; each row is validated once. They train on rows that are newer than the
    validated ones, which is too optimistic unless time does not matter for the model.

    ``kfold``
        Random rows.
    ``stratified``
        The label, a class or a number, has a similar distribution in all folds.
    ``grouped``
        Rows with equal ``group`` (a column; missing values are one group) stay together.

    Raises
    ------
    ValueError
        If there are too few rows, groups or known labels for so many folds.

    >>> import pandas as pd
    >>> days = pd.date_range("2024-01-01", periods=80, tz="UTC")
    >>> frame = pd.DataFrame({"entity_id": [f"{n:02d}" for n in range(80)], "event_time": days})
    >>> [(len(fold.train), len(fold.validation)) for fold in folds(frame.assign(label_time=days), "expanding", 2)]
    [(40, 20), (60, 20)]
    """
    order = oldest_first(frame)
    if count < 2 or len(order) < 2 * count:
        raise ValueError(f"{len(order)} matured rows cannot be split into {count} folds; at least 2 folds are needed")
    if method in ("expanding", "rolling"):
        return _folds_in_time(frame, order, count, gap_days, rolling=method == "rolling")
    parts = _random_folds(frame.iloc[order], method, count, group, seed)
    return [Fold(order[train], order[validation]) for train, validation in parts]


def _folds_in_time(frame: pd.DataFrame, order: np.ndarray, count: int, gap_days: float, rolling: bool) -> list[Fold]:
    oldest = round(len(order) * OLDEST_SHARE)
    made = []
    for positions in np.array_split(np.arange(oldest, len(order)), count):
        validation = order[positions]
        start = frame["event_time"].iloc[validation[0]]
        older = order[positions[0] - oldest if rolling else 0 : positions[0]]
        known = frame["label_time"].iloc[older] < start - pd.Timedelta(days=gap_days)
        train = older[known.to_numpy()]
        if len(train) < MIN_KNOWN_ROWS:
            raise ValueError(
                f"only {len(train)} of {len(older)} labels were known {gap_days:g} days before {start}, when a fold "
                f"begins; {MIN_KNOWN_ROWS} are needed. Wait for more labels, or lower gap_days or the number of folds"
            )
        made.append(Fold(train, validation))
    return made


def _random_folds(
    rows: pd.DataFrame, method: FoldMethod, count: int, group: str | None, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the training and validation rows of each fold, from the splitters of scikit-learn."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold

    if method == "kfold":
        yield from KFold(count, shuffle=True, random_state=seed).split(rows)
    elif method == "stratified":  # the classes are groups of ``count`` or more rows with neighbouring labels
        position = rows["label"].rank(method="first").astype(int) - 1
        alike = position * (len(rows) // count) // len(rows)
        yield from StratifiedKFold(count, shuffle=True, random_state=seed).split(rows, alike)
    elif group is None:
        raise ValueError("grouped folds need a column. Name it as training.search.group")
    else:
        codes, levels = pd.factorize(rows[group], use_na_sentinel=False)
        if len(levels) < count:
            raise ValueError(
                f"column {group!r} has {len(levels)} levels, too few for {count} folds. Lower their number"
            )
        yield from GroupKFold(count, shuffle=True, random_state=seed).split(rows, groups=codes)
