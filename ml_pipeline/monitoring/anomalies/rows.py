"""Single rows unlike those before them: outcomes far from their prediction, predictions and inputs unlike the others.

Rows are ranked by conformal p-values (Vovk et al. 2005, Bates et al. 2023): no distribution is assumed, and of rows
that are exchangeable with the earlier ones at most the stated share is named. Days are in
:mod:`ml_pipeline.monitoring.anomalies.days`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from ml_pipeline.specs.model_spec import FeatureColumns, ModelSpec

Kind = Literal["outcome", "prediction", "input", "volume", "nulls", "prediction_mean"]

RATE = 0.005
AT_MOST = 100
NAMED_COLUMNS = 3
MIN_REFERENCE_ROWS = 100
MAX_REFERENCE_ROWS = 20_000
OLDEST = 0.4  # share of the reference that is scored by nothing, there being too little before it
BLOCKS = 3
TAIL = 0.05  # share of a column's values in each tail; what lies between the tails surprises nobody
MIN_TAIL = 0.05  # spread of a tail on the compressed scale where the reference has none
MIN_VALUES = 30  # values below which the tails of a column are not known
MAX_SURPRISE = 50.0  # -log p of a value that nothing in the reference comes near
HUGE = 1e300
CHUNK = 50_000


@dataclass(frozen=True)
class Anomaly:
    """One unusual row or day; every field can go into JSON as it is."""

    kind: Kind
    entity_id: str | None
    day: str | None  # ISO 8601, UTC
    score: float  # p-value: the share of usual rows or days that are at least as unusual
    reason: str
    columns: list[str]  # most unusual first


@dataclass(frozen=True)
class Anomalies:
    """The most unusual of what was tested, and how many of them a quiet stream would have given."""

    found: list[Anomaly]  # most unusual first, at most ``AT_MOST``
    count: int  # all that were found
    tested: int
    rate: float  # share of the tested that is found when nothing is unusual, at most
    note: str  # what could not be tested and why; empty if everything was


def unusual_outcomes(
    spec: ModelSpec, scored: pd.DataFrame, since: datetime, *, by: str | None = None, rate: float = RATE
) -> Anomalies:
    """Outcomes from ``since`` on whose residual lies outside the conformal band of the earlier ones of their kind.

    Parameters
    ----------
    scored : DataFrame
        One row per matured outcome with the prediction that counts: ``entity_id``, ``label_time``, ``label``,
        ``value``, and the column ``by``. Rows without a finite label and value are left out, which the note says.
    by : str or None
        A column whose levels are kinds. A level with too few earlier outcomes is compared with all of them.
    rate : float
        Share of usual outcomes that are named. Both tails count, so a comparison needs ``2 / rate - 1`` earlier ones.
    """
    log = spec.label.above is not None and spec.label.above >= 0

    def sentence(row: pd.Series, side: str) -> str:
        outcome = f"the outcome is {row['label']:.4g} {spec.label.unit}".rstrip()
        return f"{outcome} where {row['value']:.4g} was predicted, as far {side} it or farther"

    score = _residual(spec, scored, log)
    return _two_tails("outcome", scored, "label_time", score, since, by, rate, sentence, ["label"])


def unusual_predictions(
    spec: ModelSpec, predictions: pd.DataFrame, since: datetime, *, by: str | None = None, rate: float = RATE
) -> Anomalies:
    """Predictions made from ``since`` on whose value is unlike the earlier ones of their kind; no outcome is needed.

    ``predictions`` has ``entity_id``, ``predicted_at``, ``value``, and the column ``by``; otherwise as
    :func:`unusual_outcomes`. Pass the predictions of one version: another one may predict on another level.
    """

    def sentence(row: pd.Series, side: str) -> str:
        return f"{row['value']:.4g} {spec.label.unit}".rstrip() + f" is predicted, as far {side} the usual or farther"

    score = predictions["value"].to_numpy(dtype="float64")
    return _two_tails("prediction", predictions, "predicted_at", score, since, by, rate, sentence, ["value"])


def unusual_inputs(spec: ModelSpec, reference: pd.DataFrame, rows: pd.DataFrame, *, rate: float = RATE) -> Anomalies:
    """Rows whose features are unlike those of ``reference``, the feature rows a version was trained on, oldest first.

    Each column gives its surprise, the negative logarithm of a tail probability. Numeric: beyond the 5 % and 95 %
    quantiles an exponential tail on the scale asinh((x - median) / spread), which is a power law in x; categorical:
    the share of levels so rare, that of never-seen ones after Good (1953); missing: the share of missing ones. What
    never occurred counts double: a level where every other is seen often, a missing value where none is. A row's
    score is the sum of its three largest, and its p-value the share of calibration rows that score as high: the newer
    three fifths of the reference, in three blocks, each scored by the rows before it. So newcomers surprise as much, or
    as little, as newcomers did among the reference rows. At the default rate of 5 per 1,000, simulated rows without any
    change gave 2 to 6 per 1,000; the newer halves of Jira histories, against the older ones, 1 to 11.

    History and calendar columns are left out: they move with time. So is the text, whose lengths are columns. Of a
    reference of more than 20,000 rows, so many evenly spaced ones are taken. Columns that only one side has are named
    in the note.

    Parameters
    ----------
    rate : float
        Share of usual rows that are named; needs ``(1 / rate - 1) / 0.6`` reference rows, at least 100.
    """
    judged = judged_columns(spec.feature_columns)
    absent = [name for name in judged.all if name not in reference or name not in rows]
    present = FeatureColumns(*(tuple(name for name in part if name not in absent) for part in judged))
    note = f"not compared, being absent from one side: {', '.join(absent)}" if absent else ""
    needed = max(math.ceil((math.ceil(1 / rate) - 1) / (1 - OLDEST)), MIN_REFERENCE_ROWS)
    if not present.all or rows.empty:
        return Anomalies([], 0, 0, rate, note)
    if len(reference) < needed:
        return _nothing(rate, f"{len(reference)} reference rows, at a rate of {rate:g} {needed} are needed", note)
    if len(reference) > MAX_REFERENCE_ROWS:
        reference = reference.iloc[np.linspace(0, len(reference) - 1, MAX_REFERENCE_ROWS).astype(int)]
    inputs = _Inputs.of(reference, rows, present)
    surprise, calibration = inputs.surprise(), np.sort(inputs.calibration())
    score = _row_score(surprise)
    p_value = (1 + len(calibration) - np.searchsorted(calibration, score)) / (len(calibration) + 1)
    found = np.flatnonzero(p_value <= rate)
    found = found[np.argsort(-score[found], kind="stable")]
    anomalies = [_input_anomaly(inputs, rows, at, surprise[at], float(p_value[at])) for at in found[:AT_MOST]]
    return Anomalies(anomalies, len(found), len(rows), rate, note)


def judged_columns(columns: FeatureColumns) -> FeatureColumns:
    """The columns that describe an entity rather than its time: neither history nor calendar nor the text itself."""
    steady = tuple(name for name in columns.numeric if not name.startswith(("history_", "calendar_")))
    return FeatureColumns(steady, columns.categorical, ())


def _residual(spec: ModelSpec, scored: pd.DataFrame, log: bool) -> np.ndarray:
    label, value = (scored[name].to_numpy(dtype="float64") for name in ("label", "value"))
    if not log or spec.task == "binary":
        return label - value
    with np.errstate(invalid="ignore"):
        return np.log1p(label) - np.log1p(value)


def _two_tails(
    kind: Kind,
    rows: pd.DataFrame,
    time: str,
    score: np.ndarray,
    since: datetime,
    by: str | None,
    rate: float,
    sentence: Callable[[pd.Series, str], str],
    columns: list[str],
) -> Anomalies:
    """Rows from ``since`` on whose score is in a tail of the earlier scores of the same kind."""
    usable = np.isfinite(score)
    is_new = (rows[time] >= pd.Timestamp(since)).to_numpy()
    earlier, new = np.flatnonzero(usable & ~is_new), np.flatnonzero(usable & is_new)
    left_out = int((~usable & is_new).sum())
    note = f"{left_out} left out without a finite value" if left_out else ""
    needed = math.ceil(2 / rate) - 1
    if len(earlier) < needed:
        return _nothing(rate, f"{len(earlier)} earlier ones, at a rate of {rate:g} {needed} are needed", note)
    level = _kinds(rows, by)
    tails = _tails(score, level, earlier, new, needed)
    order = np.lexsort((-tails.beyond, tails.p_value))
    found = order[tails.p_value[order] <= rate]
    anomalies = []
    for place in found[:AT_MOST]:
        row, which = rows.iloc[new[place]], "above" if tails.high[place] else "below"
        of_kind = f" with {by} {level[new[place]]!r}" if tails.own_kind[place] and by is not None else ""
        p_value = float(tails.p_value[place])
        share = f"as {tails.rank[place]} of {tails.size[place]} earlier ones{of_kind}"
        reason = f"{sentence(row, which)}, {share} (p = {p_value:.2g})"
        anomalies.append(Anomaly(kind, str(row["entity_id"]), None, p_value, reason, columns))
    return Anomalies(anomalies, len(found), len(new), rate, note)


@dataclass(frozen=True)
class _Tails:
    """Per new row: conformal p-value of both tails, distance from the median, and what it was compared with."""

    p_value: np.ndarray
    beyond: np.ndarray
    high: np.ndarray
    rank: np.ndarray
    size: np.ndarray
    own_kind: np.ndarray


def _tails(score: np.ndarray, level: np.ndarray, earlier: np.ndarray, new: np.ndarray, needed: int) -> _Tails:
    """The new scores against the earlier ones of their level, or against all where the level has fewer than needed."""
    size = len(new)
    tails = _Tails(*(np.zeros(size, dtype=kind) for kind in (float, float, bool, int, int, bool)))
    for name in dict.fromkeys(level[new]):
        at = np.flatnonzero(level[new] == name)
        of_kind = earlier[level[earlier] == name]
        own_kind = len(of_kind) >= needed
        before, values = np.sort(score[of_kind if own_kind else earlier]), score[new[at]]
        above = len(before) - np.searchsorted(before, values, side="left")
        below = np.searchsorted(before, values, side="right")
        tails.high[at], tails.rank[at] = above <= below, np.minimum(above, below)
        tails.p_value[at] = np.minimum(1.0, 2 * (1 + tails.rank[at]) / (len(before) + 1))
        tails.beyond[at] = np.abs(values - before[len(before) // 2])
        tails.size[at], tails.own_kind[at] = len(before), own_kind
    return tails


def _kinds(rows: pd.DataFrame, by: str | None) -> np.ndarray:
    if by is None:
        return np.full(len(rows), "", dtype=object)
    return rows[by].astype(object).where(rows[by].notna(), "missing").astype(str).to_numpy(dtype=object)


def _nothing(rate: float, why: str, note: str) -> Anomalies:
    return Anomalies([], 0, 0, rate, "; ".join(filter(None, [f"too little history: {why}", note])))


@dataclass(frozen=True)
class _Inputs:
    """Reference and new rows as numbers, NaN for missing, and as codes of levels, 0 for missing."""

    columns: FeatureColumns
    numbers: np.ndarray
    new_numbers: np.ndarray
    codes: list[np.ndarray]
    new_codes: list[np.ndarray]

    @classmethod
    def of(cls, reference: pd.DataFrame, rows: pd.DataFrame, columns: FeatureColumns) -> _Inputs:
        numbers, new_numbers = (
            np.clip(part[list(columns.numeric)].to_numpy(dtype="float64"), -HUGE, HUGE) for part in (reference, rows)
        )
        codes, new_codes = [], []
        for name in columns.categorical:
            both = np.concatenate([part[name].to_numpy(dtype=object) for part in (reference, rows)])
            coded = pd.factorize(both)[0] + 1
            codes.append(coded[: len(reference)])
            new_codes.append(coded[len(reference) :])
        return cls(columns, numbers, new_numbers, codes, new_codes)

    @property
    def names(self) -> list[str]:
        return [*self.columns.numeric, *self.columns.categorical]

    def surprise(self) -> np.ndarray:
        """Of the new rows, float64 (rows x columns), numeric columns first."""
        every = np.arange(self._size)
        starts = range(0, self._new_size, CHUNK)
        chunks = [np.arange(start, min(start + CHUNK, self._new_size)) for start in starts]
        return np.vstack([self._scored(every, self.new_numbers, self.new_codes, chunk) for chunk in chunks])

    def calibration(self) -> np.ndarray:
        """Scores of the newer reference rows, each block by the rows before it."""
        edges = np.linspace(math.floor(self._size * OLDEST), self._size, BLOCKS + 1).astype(int)
        return np.concatenate(
            [
                _row_score(self._scored(np.arange(start), self.numbers, self.codes, np.arange(start, end)))
                for start, end in pairwise(edges)
            ]
        )

    @property
    def _size(self) -> int:
        return len(self.numbers)

    @property
    def _new_size(self) -> int:
        return len(self.new_numbers)

    def _scored(self, known: np.ndarray, numbers: np.ndarray, codes: list[np.ndarray], at: np.ndarray) -> np.ndarray:
        """Surprise of the rows at ``at``, by the reference rows at ``known``."""
        of_numbers = _number_surprise(self.numbers[known], numbers[at])
        of_levels = [_level_surprise(seen[known], new[at]) for seen, new in zip(self.codes, codes, strict=True)]
        return np.column_stack([of_numbers, *of_levels])


def _number_surprise(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    rows, width = reference.shape
    ordered = np.sort(reference, axis=0)  # missing ones last
    present = rows - np.isnan(reference).sum(axis=0)
    column = np.arange(width)

    def quantile(share: float | np.ndarray) -> np.ndarray:
        return ordered[np.floor(share * np.maximum(present - 1, 0)).astype(int), column]

    middle = quantile(0.5)
    spread = _spread(ordered, quantile(0.75) - quantile(0.25), middle)

    def compressed(raw: np.ndarray) -> np.ndarray:
        return np.arcsinh(np.clip((raw - middle) / spread, -HUGE, HUGE))

    scaled = compressed(values)
    surprise = np.zeros(values.shape)
    for sign, share in ((1.0, 1 - TAIL), (-1.0, TAIL)):
        edge = compressed(quantile(share))
        outside = (sign * (ordered - quantile(share)) > 0).sum(axis=0)
        half = (outside - 1) // 2 if sign < 0 else present - 1 - (outside - 1) // 2
        # The median of an exponential tail is log 2 times its mean; unlike the mean, no single row decides it.
        middle_outside = compressed(ordered[np.clip(half, 0, rows - 1), column])
        length = np.where(outside > 0, np.maximum(sign * (middle_outside - edge) / math.log(2), MIN_TAIL), MIN_TAIL)
        start = -np.log((outside + 1) / (present + 1))
        excess = sign * (scaled - edge)
        surprise = np.where(excess > 0, start + excess / length, surprise)
    surprise = np.where(present >= MIN_VALUES, surprise, 0.0)
    missing = np.isnan(values)
    of_state = _state_surprise(np.where(missing, rows - present, present), rows)
    return np.minimum(np.where(missing, of_state, np.maximum(surprise, of_state)), MAX_SURPRISE)


def _state_surprise(count: np.ndarray, rows: int) -> np.ndarray:
    """Of a state seen ``count`` times; one never seen counts double: what always was may have been so by rule."""
    return -np.log((count + 1) / (rows + 1)) * np.where(count == 0, 2, 1)


def _spread(ordered: np.ndarray, quartiles: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Scale of each column: from the quartiles, where these are equal the mean departure, in a constant a tenth."""
    spread = quartiles / 1.349
    flat = ~(spread > 0)
    if flat.any():
        departure = np.minimum(np.abs(ordered[:, flat] - middle[flat]), 1e150)
        known = np.maximum((~np.isnan(departure)).sum(axis=0), 1)
        mean = np.nansum(departure, axis=0) / known
        spread[flat] = np.where(mean > 0, mean, np.maximum(np.abs(np.nan_to_num(middle[flat])), 1) / 10)
    return spread


def _level_surprise(reference: np.ndarray, codes: np.ndarray) -> np.ndarray:
    rows = len(reference)
    counts = np.bincount(reference, minlength=max(reference.max(initial=0), codes.max(initial=0)) + 1)
    by_size = np.bincount(counts, weights=counts, minlength=2).cumsum()  # rows whose level has at most so many
    once = counts[counts == 1].sum()
    share = np.minimum((once + 1 + by_size[counts]) / (rows + 1), 1.0)
    surprise = np.where(share <= 2 * TAIL, -np.log(share), 0.0)
    if once == 0:
        surprise[counts == 0] = _state_surprise(np.zeros(1), rows)
    if counts[0] == 0:
        surprise[0] = _state_surprise(np.zeros(1), rows)[0]
    return surprise[codes]


def _row_score(surprise: np.ndarray) -> np.ndarray:
    if surprise.shape[1] <= NAMED_COLUMNS:
        return surprise.sum(axis=1)
    return np.partition(surprise, -NAMED_COLUMNS, axis=1)[:, -NAMED_COLUMNS:].sum(axis=1)


def _input_anomaly(inputs: _Inputs, rows: pd.DataFrame, at: int, surprise: np.ndarray, p_value: float) -> Anomaly:
    order = [int(place) for place in np.argsort(-surprise, kind="stable")[:NAMED_COLUMNS] if surprise[place] > 0]
    parts = "; ".join(_described(inputs, rows, at, place) for place in order)
    names = [inputs.names[place] for place in order]
    return Anomaly("input", str(rows["entity_id"].iloc[at]), None, p_value, f"{parts} (p = {p_value:.2g})", names)


def _described(inputs: _Inputs, rows: pd.DataFrame, at: int, place: int) -> str:
    name, size, numeric = inputs.names[place], len(inputs.numbers), len(inputs.columns.numeric)
    if place >= numeric:
        code = inputs.new_codes[place - numeric][at]
        count = int((inputs.codes[place - numeric] == code).sum())
        what = "missing" if code == 0 else repr(rows[name].iloc[at])
        return f"{name} is {what}, as in {count} of {size} reference rows"
    value, known = inputs.new_numbers[at, place], inputs.numbers[:, place]
    known = known[~np.isnan(known)]
    if np.isnan(value):
        return f"{name} is missing, as in {size - len(known)} of {size} reference rows"
    if len(known) < MIN_VALUES:
        return f"{name} is {value:.6g}, where {size - len(known)} of {size} reference rows have no value"
    low, high = np.quantile(known, [0.005, 0.995])
    return f"{name} is {value:.6g}, where 99 % of the reference rows lie from {low:.6g} to {high:.6g}"
