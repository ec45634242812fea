"""Unusual single rows: outcomes far from their prediction, unusual predictions and unusual inputs.

Rows are judged by conformal p-values (Vovk et al. 2005, Bates et al. 2023). These assume no distribution; if rows are
exchangeable with the earlier ones, at most the stated share is reported. For days see
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
OLDEST = 0.4  # share of the reference that is not scored, because too few rows precede it
BLOCKS = 3
TAIL = 0.05  # share of a column's values in each tail; values between the tails have no surprise
MIN_TAIL = 0.05  # smallest spread of a tail on the compressed scale
MIN_VALUES = 30  # values that a column needs for the estimate of its tails
MAX_SURPRISE = 50.0  # largest -log p of a value
HUGE = 1e300
CHUNK = 50_000


@dataclass(frozen=True)
class Anomaly:
    """One unusual row or day; every field is a JSON value."""

    kind: Kind
    entity_id: str | None
    day: str | None  # ISO 8601, UTC
    score: float  # p-value: the share of usual rows or days that are at least as unusual
    reason: str
    columns: list[str]  # most unusual first


@dataclass(frozen=True)
class Anomalies:
    """The most unusual rows or days, with the number of tests and the false alarm rate."""

    found: list[Anomaly]  # most unusual first, at most ``AT_MOST``
    count: int  # number found, before the limit
    tested: int
    rate: float  # largest share of the tests that is found if no row or day is unusual
    note: str  # what could not be tested, and why; empty if everything was tested


def unusual_outcomes(
    spec: ModelSpec, scored: pd.DataFrame, since: datetime, *, by: str | None = None, rate: float = RATE
) -> Anomalies:
    """Outcomes from ``since`` on whose residual is outside the conformal band of the earlier residuals.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scored : DataFrame
        One row per matured outcome: ``entity_id``, ``label_time``, ``label``, ``value`` (the prediction), and the
        column ``by``. Rows without a finite label and value are left out and counted in the note.
    since : datetime
        Aware time; outcomes known before it are the reference.
    by : str or None
        A column; outcomes are compared within its levels. A level with too few earlier outcomes is compared with all.
    rate : float
        Share of usual outcomes that are reported. Both tails count, so ``2 / rate - 1`` earlier outcomes are needed.
    """
    log = spec.label.above is not None and spec.label.above >= 0

    def sentence(row: pd.Series, side: str, others: str) -> str:
        outcome = f"the outcome is {row['label']:.4g} {spec.label.unit}".rstrip()
        return f"{outcome}, {row['value']:.4g} was predicted; {others} are at least as far {side} their prediction"

    label, value = (scored[name].to_numpy(dtype="float64") for name in ("label", "value"))
    if log and spec.task != "binary":
        with np.errstate(invalid="ignore"):
            label, value = np.log1p(label), np.log1p(value)
    rows = _ScoredRows("outcome", scored, scored["label_time"], label - value, by, "label")
    return _two_tails(rows, since, rate, sentence)


def unusual_predictions(
    spec: ModelSpec, predictions: pd.DataFrame, since: datetime, *, by: str | None = None, rate: float = RATE
) -> Anomalies:
    """Predictions from ``since`` on whose value differs from the earlier ones; needs no outcomes.

    ``predictions`` has the columns ``entity_id``, ``predicted_at``, ``value`` and ``by``; the other parameters are
    those of :func:`unusual_outcomes`. Pass predictions of one version only, because versions may predict on different
    levels.
    """

    def sentence(row: pd.Series, side: str, others: str) -> str:
        value = f"{row['value']:.4g} {spec.label.unit}".rstrip()
        return f"{value} is predicted; {others} are at least as far {side} the median"

    score = predictions["value"].to_numpy(dtype="float64")
    rows = _ScoredRows("prediction", predictions, predictions["predicted_at"], score, by, "value")
    return _two_tails(rows, since, rate, sentence)


def unusual_inputs(spec: ModelSpec, reference: pd.DataFrame, rows: pd.DataFrame, *, rate: float = RATE) -> Anomalies:
    """Rows whose features differ from those of a reference.

    Each column has a surprise, the negative logarithm of a tail probability:

    - numeric: an exponential tail beyond the 5% and 95% quantiles on the scale asinh((x - median) / spread), which is a
      power law in x;
    - categorical: the share of rows with a level at most as frequent; for unknown levels the estimate of Good (1953);
    - missing: the share of missing values.

    The surprise of what never occurred counts double: an unknown level if all others are frequent, a first missing
    value. The score of a row is the sum of its three largest surprises. Its p-value is the share of calibration rows
    with at least this score. Calibration rows are the newer three fifths of the reference, in three blocks, each scored
    by the rows before it; new levels and values thus count only as much as they did within the reference. At the
    default rate of 5 per 1,000, simulated rows without a change gave 2 to 6 per 1,000; the newer halves of Jira
    histories, compared with the older halves, gave 1 to 11.

    History and calendar columns are left out, because they change with time, and so is the text (its lengths are
    compared). Of more than 20,000 reference rows, 20,000 evenly spaced ones are used. The note names absent columns.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    reference : DataFrame
        Feature rows that a version was trained on, oldest first.
    rows : DataFrame
        Feature rows to judge.
    rate : float
        Share of usual rows that are reported; needs ``(1 / rate - 1) / 0.6`` reference rows, at least 100.
    """
    judged = judged_columns(spec.feature_columns)
    absent = [name for name in judged.all if name not in reference or name not in rows]
    present = FeatureColumns(*(tuple(name for name in part if name not in absent) for part in judged))
    note = f"not compared, because one side lacks them: {', '.join(absent)}" if absent else ""
    needed = max(math.ceil((math.ceil(1 / rate) - 1) / (1 - OLDEST)), MIN_REFERENCE_ROWS)
    if not present.all or rows.empty:
        return Anomalies([], 0, 0, rate, note)
    if len(reference) < needed:
        return _nothing(rate, f"{len(reference)} reference rows, a rate of {rate:g} needs {needed}", note)
    if len(reference) > MAX_REFERENCE_ROWS:
        reference = reference.iloc[np.linspace(0, len(reference) - 1, MAX_REFERENCE_ROWS).astype(int)]
    inputs = _Inputs.of(reference, rows, present)
    surprise, calibration = inputs.surprise(), np.sort(inputs.calibration())
    score = _row_score(surprise)
    p_value = (1 + len(calibration) - np.searchsorted(calibration, score)) / (len(calibration) + 1)
    found = np.flatnonzero(p_value <= rate)
    found = found[np.argsort(-score[found], kind="stable")]
    anomalies = []
    for at in found[:AT_MOST]:
        largest = np.argsort(-surprise[at], kind="stable")[:NAMED_COLUMNS]
        order = [int(place) for place in largest if surprise[at][place] > 0]
        parts = "; ".join(_describe_value(inputs, rows, at, place) for place in order)
        entity, p = str(rows["entity_id"].iloc[at]), float(p_value[at])
        names = [inputs.names[place] for place in order]
        anomalies.append(Anomaly("input", entity, None, p, f"{parts} (p = {p:.2g})", names))
    return Anomalies(anomalies, len(found), len(rows), rate, note)


def judged_columns(columns: FeatureColumns) -> FeatureColumns:
    """The columns that describe an entity, without history, calendar and the text itself."""
    steady = tuple(name for name in columns.numeric if not name.startswith(("history_", "calendar_")))
    return FeatureColumns(steady, columns.categorical, ())


@dataclass(frozen=True)
class _ScoredRows:
    """Rows with the score that is tested; ``by`` is the column within whose levels they are compared."""

    kind: Kind
    rows: pd.DataFrame
    time: pd.Series
    score: np.ndarray
    by: str | None
    column: str  # named in the anomalies

    @property
    def level(self) -> np.ndarray:
        """Level of each row in the column ``by`` as text; empty text without the column."""
        if self.by is None:
            return np.full(len(self.rows), "", dtype=object)
        values = self.rows[self.by]
        return values.astype(object).where(values.notna(), "missing").astype(str).to_numpy(dtype=object)


def _two_tails(
    scored: _ScoredRows, since: datetime, rate: float, sentence: Callable[[pd.Series, str, str], str]
) -> Anomalies:
    """Rows from ``since`` on whose score is in a tail of the earlier scores."""
    usable = np.isfinite(scored.score)
    is_new = (scored.time >= pd.Timestamp(since)).to_numpy()
    earlier, new = np.flatnonzero(usable & ~is_new), np.flatnonzero(usable & is_new)
    left_out = int((~usable & is_new).sum())
    note = f"{left_out} rows left out, because their value is not finite" if left_out else ""
    needed = math.ceil(2 / rate) - 1
    if len(earlier) < needed:
        return _nothing(rate, f"{len(earlier)} earlier ones, a rate of {rate:g} needs {needed}", note)
    level, by = scored.level, scored.by
    tails = _tails(scored.score, level, earlier, new, needed)
    order = np.lexsort((-tails.beyond, tails.p_value))
    found = order[tails.p_value[order] <= rate]
    anomalies = []
    for place in found[:AT_MOST]:
        row, which = scored.rows.iloc[new[place]], "above" if tails.high[place] else "below"
        of_kind = f" with {by} {level[new[place]]!r}" if tails.own_kind[place] and by is not None else ""
        p_value = float(tails.p_value[place])
        others = f"{tails.rank[place]} of {tails.size[place]} earlier ones{of_kind}"
        reason = f"{sentence(row, which, others)} (p = {p_value:.2g})"
        anomalies.append(Anomaly(scored.kind, str(row["entity_id"]), None, p_value, reason, [scored.column]))
    return Anomalies(anomalies, len(found), len(new), rate, note)


@dataclass(frozen=True)
class _Tails:
    """For each new row: two-sided conformal p-value, distance from the median, and the reference that was used."""

    p_value: np.ndarray
    beyond: np.ndarray
    high: np.ndarray
    rank: np.ndarray
    size: np.ndarray
    own_kind: np.ndarray


def _tails(score: np.ndarray, level: np.ndarray, earlier: np.ndarray, new: np.ndarray, needed: int) -> _Tails:
    """Compare the new scores with the earlier ones of their level, or with all if the level has too few."""
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
        """Surprise of the new rows, float64 (rows x columns), numeric columns first."""
        every, size = np.arange(len(self.numbers)), len(self.new_numbers)
        chunks = [np.arange(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]
        return np.vstack([self._scored(every, self.new_numbers, self.new_codes, chunk) for chunk in chunks])

    def calibration(self) -> np.ndarray:
        """Scores of the newer reference rows; each block is scored by the rows before it."""
        size = len(self.numbers)
        edges = np.linspace(math.floor(size * OLDEST), size, BLOCKS + 1).astype(int)
        return np.concatenate(
            [
                _row_score(self._scored(np.arange(start), self.numbers, self.codes, np.arange(start, end)))
                for start, end in pairwise(edges)
            ]
        )

    def _scored(self, known: np.ndarray, numbers: np.ndarray, codes: list[np.ndarray], at: np.ndarray) -> np.ndarray:
        """Surprise of the rows at positions ``at``, given the reference rows ``known``."""
        of_numbers = _number_surprise(self.numbers[known], numbers[at])
        of_levels = [_level_surprise(seen[known], new[at]) for seen, new in zip(self.codes, codes, strict=True)]
        return np.column_stack([of_numbers, *of_levels])


def _number_surprise(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    rows, width = reference.shape
    ordered = np.sort(reference, axis=0)  # missing ones last
    present = rows - np.isnan(reference).sum(axis=0)
    column = np.arange(width)

    def quantile(share: float | np.ndarray) -> np.ndarray:
        return np.asarray(ordered[np.floor(share * np.maximum(present - 1, 0)).astype(int), column])

    middle = quantile(0.5)
    spread = _spread(ordered, quantile(0.75) - quantile(0.25), middle)

    def compressed(raw: np.ndarray) -> np.ndarray:
        return np.asarray(np.arcsinh(np.clip((raw - middle) / spread, -HUGE, HUGE)))

    scaled = compressed(values)
    surprise = np.zeros(values.shape)
    for sign, share in ((1.0, 1 - TAIL), (-1.0, TAIL)):
        edge = compressed(quantile(share))
        outside = (sign * (ordered - quantile(share)) > 0).sum(axis=0)
        half = (outside - 1) // 2 if sign < 0 else present - 1 - (outside - 1) // 2
        # The median of an exponential tail is log 2 times its mean, and robust against single rows.
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
    """Surprise of a state seen ``count`` times. One never seen counts double, because it may break a fixed rule."""
    return -np.log((count + 1) / (rows + 1)) * np.where(count == 0, 2, 1)


def _spread(ordered: np.ndarray, quartiles: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Scale of each column: from the quartiles, else the mean deviation, else (constant column) a tenth."""
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
    by_size = np.bincount(counts, weights=counts, minlength=2).cumsum()  # rows with a level at most as frequent
    once = counts[counts == 1].sum()
    share = np.minimum((once + 1 + by_size[counts]) / (rows + 1), 1.0)
    surprise = np.where(share <= 2 * TAIL, -np.log(share), 0.0)
    if once == 0:
        surprise[counts == 0] = _state_surprise(np.zeros(1), rows)
    if counts[0] == 0:
        surprise[0] = _state_surprise(np.zeros(1), rows)[0]
    return np.asarray(surprise[codes])


def _row_score(surprise: np.ndarray) -> np.ndarray:
    if surprise.shape[1] <= NAMED_COLUMNS:
        return np.asarray(surprise.sum(axis=1))
    return np.asarray(np.partition(surprise, -NAMED_COLUMNS, axis=1)[:, -NAMED_COLUMNS:].sum(axis=1))


def _describe_value(inputs: _Inputs, rows: pd.DataFrame, at: int, place: int) -> str:
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
        return f"{name} is {value:.6g}; {size - len(known)} of {size} reference rows have no value"
    low, high = np.quantile(known, [0.005, 0.995])
    return f"{name} is {value:.6g}; 99% of the reference rows are between {low:.6g} and {high:.6g}"
