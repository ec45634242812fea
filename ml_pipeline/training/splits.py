"""Splits in time: train | validation | test, oldest first, with only what was known when each part began; and folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from ml_pipeline.features.feedback import own_outcomes

MIN_KNOWN_ROWS = 30
# Of the folds in time, the oldest rows that are only ever trained on: the folds then train on half or more of the rows,
# so that what suits them suits the fit on all rows too.
OLDEST_SHARE = 0.5

FoldMethod = Literal["expanding", "rolling", "stratified", "kfold", "grouped"]


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


@dataclass(frozen=True)
class Fold:
    """Positions in a feature frame, oldest first: what is fitted on, and what it is judged by. They do not overlap."""

    train: np.ndarray
    validation: np.ndarray


def folds(
    frame: pd.DataFrame, method: FoldMethod, count: int, gap_days: float = 0, group: str | None = None, seed: int = 0
) -> list[Fold]:
    """``count`` folds of a frame of matured rows, the oldest validation part first where the method goes by time.

    By time, purged as :func:`time_split` is, but without exception: a row is trained on only if its label time is more
    than ``gap_days`` before the first event time of the fold's validation part. The newer half of the rows is cut into
    ``count`` validation parts of equal size.

    ``expanding``
        Trains on everything older than the validation part.
    ``rolling``
        Trains on the newest half of the rows that are older, so that every fold forgets as much as it learns.

    At random, the same for the same ``seed``, each row validated once. They train on rows newer than those they are
    judged by: for questions without time only, too optimistic for every other.

    ``kfold``
        Rows are dealt out without regard to anything.
    ``stratified``
        The label is distributed alike in all folds, be it a class or a number.
    ``grouped``
        Rows of equal ``group`` (a column; missing values are one group) stay together.

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
        raise ValueError(f"{len(order)} matured rows cannot be cut into {count} folds; it takes 2 folds or more")
    if method in ("expanding", "rolling"):
        return _folds_in_time(frame, order, count, gap_days, rolling=method == "rolling")
    numbers = _fold_numbers(frame.iloc[order], method, count, group, np.random.default_rng(seed))
    return [Fold(order[numbers != fold], order[numbers == fold]) for fold in range(count)]


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
                f"only {len(train)} of {len(older)} labels were known {gap_days:g} days before {start}, where a fold "
                f"begins; it takes {MIN_KNOWN_ROWS}. Wait for more labels, or lower the gap or the number of folds"
            )
        made.append(Fold(train, validation))
    return made


def _fold_numbers(
    rows: pd.DataFrame, method: FoldMethod, count: int, group: str | None, random: np.random.Generator
) -> np.ndarray:
    """The fold in which each row is validated."""
    if method == "kfold":
        return random.permutation(np.arange(len(rows)) % count)
    if method == "stratified":
        numbers = np.empty(len(rows), dtype=int)
        shuffled = random.permutation(len(rows))
        by_label = shuffled[np.argsort(rows["label"].to_numpy()[shuffled], kind="stable")]
        for start in range(0, len(rows), count):  # neighbours in the order of the label go to different folds
            numbers[by_label[start : start + count]] = random.permutation(count)[: len(rows) - start]
        return numbers
    if group is None:
        raise ValueError("grouped folds need the name of a column. Name it as group")
    codes, levels = pd.factorize(rows[group], use_na_sentinel=False)
    if len(levels) < count:
        raise ValueError(f"column {group!r} has {len(levels)} levels, too few for {count} folds. Lower their number")
    sizes = np.bincount(codes)
    fold_of = np.zeros(len(levels), dtype=int)
    filled = np.zeros(count)
    shuffled = random.permutation(len(levels))
    for level in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:  # the largest first, each to the emptiest fold
        fold_of[level] = np.argmin(filled)
        filled[fold_of[level]] += sizes[level]
    return fold_of[codes]
