"""Data quality of one tenant's rows for one model: 15 measures with scores and recommendations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.features.quality.patterns import Patterns, temporal_patterns
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.names import feature_name, text_lengths

_NUMBER = re.compile(r"\s*[-+]?(\d+([.,]\d*)?|[.,]\d+)\s*")
_EARLIEST = pd.Timestamp("1990-01-01", tz="UTC")
_FEWEST_LABELS = 30
_FEWEST_TO_EQUAL, _FEWEST_OF_A_CLASS, _EQUAL_FROM = 50, 5, 0.999
_SILENT_FROM = 90.0
_PERIOD = 30.0


@dataclass(frozen=True)
class Measure:
    """One measured property: ``value`` in its own unit, ``score`` from 0 (useless) to 100 (no fault)."""

    name: str
    dimension: str
    value: float
    score: float
    recommendation: str | None


@dataclass(frozen=True)
class QualityReport:
    """Scores from 0 to 100; ``score`` is the mean of the three dimensions. Temporal patterns have no score."""

    score: float
    completeness: float
    consistency: float
    validity: float
    measures: list[Measure]
    patterns: Patterns
    label_copies: dict[str, float]
    """Share of rows in which a feature equals the label, for each feature that copies it; training then stops."""

    def to_dict(self) -> dict[str, Any]:
        """The report as numbers, strings and lists for JSON, without NaN."""
        return asdict(self)


def assess(spec: ModelSpec, rows: pd.DataFrame, frame: pd.DataFrame, as_of: datetime) -> QualityReport:
    """Quality of the source rows and of the feature frame that was built from them at ``as_of``.

    The score of a dimension is the mean of the average and the smallest score of its measures, so that one fatal fault
    is not averaged away. A frame without entities scores 0 everywhere. Deterministic.

    Parameters
    ----------
    rows, frame
        Input and result of ``point_in_time.build`` for ``spec`` and the aware time ``as_of``; later rows are ignored.
    """
    patterns = temporal_patterns(spec, frame, as_of)
    if frame.empty:
        remedy = f"No entity passes source.include and source.require at {as_of.isoformat()}: load {spec.source.table}."
        nothing = [
            Measure(method.__name__, dimension, 0.0, 0.0, remedy)
            for dimension, group in _DIMENSIONS.items()
            for method in group
        ]
        return QualityReport(0.0, 0.0, 0.0, 0.0, nothing, patterns, {})
    data = _Data(spec, rows, frame, pd.Timestamp(as_of))
    measures: list[Measure] = []
    scores = {}
    for dimension, group in _DIMENSIONS.items():
        found = [_measure(method, dimension, data) for method in group]
        points = [measure.score for measure in found]
        scores[dimension] = round((sum(points) / len(points) + min(points)) / 2, 2)
        measures += found
    score = round(sum(scores.values()) / len(scores), 2)
    return QualityReport(score=score, measures=measures, patterns=patterns, label_copies=_label_copies(data), **scores)


@dataclass(frozen=True)
class _Finding:
    """A value, its score from 0 to 1 before clipping, and the remedy, shown below a score of 90 or below its gate."""

    value: float
    score: float
    remedy: str


def _measure(method: Callable[[_Data], _Finding], dimension: str, data: _Data) -> Measure:
    finding, name = method(data), method.__name__
    score = round(100 * min(max(float(finding.score), 0.0), 1.0), 2)
    said_below = max(_SILENT_FROM, data.spec.gate.min_quality_of.get(name, 0.0))
    return Measure(
        name=name,
        dimension=dimension,
        value=round(float(finding.value), 4),
        score=score,
        recommendation=finding.remedy if score < said_below else None,
    )


class _Data:
    """Inputs that several measures share, computed once. "Own" features exclude calendar and history features."""

    def __init__(self, spec: ModelSpec, rows: pd.DataFrame, frame: pd.DataFrame, as_of: pd.Timestamp) -> None:
        self.spec = spec
        self.frame = frame
        self.as_of = as_of
        begun = pd.to_datetime(rows[spec.source.event_time], utc=True)
        existing = begun.isna() | (begun <= as_of)
        self.rows = rows[existing]
        self.begun = begun[existing]
        self.age_days = (as_of - frame["event_time"]).dt.total_seconds().to_numpy() / 86_400
        self.matured = (frame["state"] == "matured").to_numpy()

    @cached_property
    def numeric(self) -> dict[str, np.ndarray]:
        names = [*map(feature_name, self.spec.features.numeric), *self.lengths.values()]
        return {name: self.frame[name].to_numpy() for name in names}

    @cached_property
    def lengths(self) -> dict[str, str]:
        """The feature that contains the length of each text column."""
        return {column: text_lengths(column)[0] for column in self.spec.features.text}

    @cached_property
    def categories(self) -> dict[str, tuple[np.ndarray, list[str]]]:
        """For each categorical feature, the code of each entity (-1 if missing) and the levels."""
        found = {}
        for name in map(feature_name, self.spec.features.categorical):
            codes, levels = pd.factorize(self.frame[name].to_numpy(dtype=object))
            found[name] = (codes, list(levels))
        return found

    @property
    def categories_as_numbers(self) -> dict[str, np.ndarray]:
        """For each categorical feature, its levels parsed as numbers (``True`` is 1, ``False`` 0), else NaN."""
        found = {}
        for name, (codes, levels) in self.categories.items():
            words = pd.Series(levels, dtype=object).replace({"True": "1", "False": "0"})
            numbers = pd.to_numeric(words, errors="coerce").to_numpy(dtype="float64")
            found[name] = np.append(numbers, np.nan)[codes]
        return found

    @cached_property
    def label(self) -> np.ndarray:
        return self.frame["label"].to_numpy()[self.matured]


def missing(data: _Data) -> _Finding:
    """Mean share of missing values over the numeric and categorical features."""
    names = map(feature_name, data.spec.features.numeric)
    shares = {name: float(np.isnan(data.numeric[name]).mean()) for name in names}
    shares |= {name: float((codes < 0).mean()) for name, (codes, _) in data.categories.items()}
    value = _mean(shares.values())
    return _Finding(value, 1 - value, f"Fill {_worst(shares)} at the source, or remove what is never filled.")


def text_emptiness(data: _Data) -> _Finding:
    """Mean share of blank texts over the text columns."""
    shares = {name: float((data.numeric[length] == 0).mean()) for name, length in data.lengths.items()}
    value = _mean(shares.values())
    return _Finding(value, 1 - value, f"Import the text of {_worst(shares)}.")


def label_maturity(data: _Data) -> _Finding:
    """Share of matured labels among the entities that are due: all except those open for at most the limit."""
    waiting = (data.frame["state"] == "open").to_numpy() & (data.age_days <= data.spec.max_open_days)
    due = len(waiting) - int(waiting.sum())
    value = data.matured.sum() / due if due else 0.0
    limits = f"label.above {data.spec.label.above} and label.at_most {data.spec.label.at_most}"
    return _Finding(value, value, f"{data.matured.sum()} of {due} have a label: see label.time, label.value, {limits}.")


def freshness(data: _Data) -> _Finding:
    """Days since the newest entity, compared with the tenant's 95th percentile gap (at least a week)."""
    value = float(data.age_days[-1])
    gaps = -np.diff(data.age_days)
    usual = max(7.0, float(np.quantile(gaps, 0.95)) if len(gaps) else 0.0)
    remedy = f"No new entity for {value:.0f} days, usually at most {usual:.0f}: check the import."
    return _Finding(value, 1 - (value - usual) / (9 * usual), remedy)


def time_gaps(data: _Data) -> _Finding:
    """Share of the training window's time in gaps longer than both 30 days and 20 median gaps."""
    gaps = -np.diff(data.age_days[data.age_days < data.spec.training.window_days])
    span = float(gaps.sum())
    long = gaps[gaps > max(_PERIOD, 20 * float(np.median(gaps)))] if len(gaps) else gaps
    value = float(long.sum()) / span if span else 0.0
    return _Finding(value, 1 - 2 * value, f"{len(long)} gaps, together {long.sum():.0f} days: import what is missing.")


def duplicates(data: _Data) -> _Finding:
    """Share of source rows that repeat an entity's key, or repeat all of another row's values known at creation."""
    rows = data.rows
    key = data.spec.source.entity
    repeated = rows[key].duplicated().to_numpy()
    same_time = data.begun.duplicated(keep=False).to_numpy()
    content = [name for name, column in data.spec.source.columns.items() if column.known_at == "created"]
    copies = np.zeros(len(rows), dtype=bool)
    copies[same_time] = rows.loc[same_time, [data.spec.source.event_time, *content]].duplicated().to_numpy()
    value = float((repeated | copies).mean())
    remedy = f"{repeated.sum()} rows repeat a {key}, {copies.sum()} another row's content: remove them at the source."
    return _Finding(value, 1 - 10 * value, remedy)


def inconsistent_categories(data: _Data) -> _Finding:
    """Share of values that differ from the most common spelling of their level in case or blanks only."""
    shares = {}
    for name, (codes, levels) in data.categories.items():
        counts = np.bincount(codes[codes >= 0], minlength=len(levels))
        commonest: dict[str, int] = {}
        for level, count in zip(levels, counts.tolist(), strict=True):
            plain = " ".join(level.split()).casefold()
            commonest[plain] = max(count, commonest.get(plain, 0))
        shares[name] = (int(counts.sum()) - sum(commonest.values())) / len(codes)
    value = max(shares.values(), default=0.0)
    return _Finding(value, 1 - 5 * value, f"Write each level of {_worst(shares)} in one way (case, blanks).")


def type_mix(data: _Data) -> _Finding:
    """Largest share of the rarer kind, numbers or words, in a categorical feature that mixes both."""
    shares = {}
    for name, (codes, levels) in data.categories.items():
        is_number = np.array([_NUMBER.fullmatch(level) is not None for level in levels], dtype=bool)
        known = codes[codes >= 0]
        share = float(is_number[known].mean()) if len(known) else 0.0
        shares[name] = min(share, 1 - share)
    value = max(shares.values(), default=0.0)
    return _Finding(value, 1 - 4 * value, f"{_worst(shares)} mixes numbers and words: check the import's mapping.")


def unseen_levels(data: _Data) -> _Finding:
    """Mean share of the newest fifth of entities whose level does not occur among the older ones."""
    cut = len(data.frame) - len(data.frame) // 5
    shares = {}
    for name, (codes, levels) in data.categories.items():
        seen = np.zeros(len(levels) + 1, dtype=bool)
        seen[codes[:cut]] = True
        seen[-1] = True
        shares[name] = float((~seen[codes[cut:]]).mean()) if cut < len(codes) else 0.0
    value = _mean(shares.values())
    return _Finding(value, 1 - 2 * value, f"New levels in {_worst(shares)}: renamed or migrated? Retrain if they stay.")


def volume_trend(data: _Data) -> _Finding:
    """Entities of the last 30 days divided by the mean of up to six 30-day periods before, 1 without such periods."""
    periods = min(6, int(data.age_days[0] // _PERIOD) - 1)
    counts = [int(((data.age_days >= k * _PERIOD) & (data.age_days < (k + 1) * _PERIOD)).sum()) for k in range(7)]
    before = _mean(counts[1 : 1 + periods]) if periods > 0 else 0.0
    value = counts[0] / before if before else 1.0
    score = 2 * min(value, 1 / value) if value else 0.0
    return _Finding(value, score, f"{counts[0]} entities in 30 days after {before:.0f} a period before: expected?")


def outliers(data: _Data) -> _Finding:
    """Mean share of values beyond 3 interquartile ranges from the quartiles, on a logarithmic scale (Tukey 1977)."""
    shares = {}
    for name, values in {**data.numeric, "label": data.label}.items():
        known = values[~np.isnan(values)]
        scaled = np.sign(known) * np.log1p(np.abs(known))
        low, high = np.quantile(scaled, [0.25, 0.75]) if len(scaled) else (0.0, 0.0)
        reach = 3 * (high - low)
        far = (scaled < low - reach) | (scaled > high + reach)
        shares[name] = float(far.mean()) if reach else 0.0
    value = _mean(shares.values())
    return _Finding(value, 1 - 5 * value, f"Check the unit and the typing errors of {_worst(shares)}.")


def impossible_times(data: _Data) -> _Finding:
    """Share of source rows without an event time, with one before 1990, or with a label time before the event time."""
    event_time = data.spec.source.event_time
    wrong = {event_time: (data.begun.isna() | (data.begun < _EARLIEST)).to_numpy()}
    for name, column in data.spec.source.columns.items():
        if column.type == "time" and name != event_time:
            earliest = data.begun.fillna(_EARLIEST) if column.known_at == "label" else _EARLIEST
            wrong[name] = (pd.to_datetime(data.rows[name], utc=True) < earliest).to_numpy()
    value = float(np.any(list(wrong.values()), axis=0).mean())
    shares = {name: float(rows.mean()) for name, rows in wrong.items()}
    return _Finding(value, 1 - 20 * value, f"Correct the order, zone or clock of {_worst(shares)}.")


def constant_columns(data: _Data) -> _Finding:
    """Share of the own features that have at most one distinct value."""
    numeric = {name: _is_constant(values) for name, values in data.numeric.items()}
    constant = numeric | {name: len(levels) < 2 for name, (_, levels) in data.categories.items()}
    value = _mean(constant.values())
    names = ", ".join(name for name, is_constant in constant.items() if is_constant)
    return _Finding(value, 1 - value, f"Fill {names} at the source, or remove them from features.")


def leakage(data: _Data) -> _Finding:
    """Strongest association of an own feature with the label; suspicious from 0.90, certain from 0.98.

    For numbers: Spearman's rank correlation (binary label: Somers' D, 2 AUC - 1), of the value and of whether it is
    missing. For categories: the correlation of the label with the mean label of the other entities at the same level.
    """
    label = data.label
    if len(label) < _FEWEST_LABELS or _is_constant(label):
        return _Finding(0.0, 1.0, "")
    strength = {}
    binary = data.spec.task == "binary"
    for name, values in data.numeric.items():
        matured = values[data.matured]
        missing = np.isnan(matured).astype(float)
        strength[name] = max(_rank_association(part, label, binary) for part in (matured, missing))
    for name, (codes, levels) in data.categories.items():
        strength[name] = _level_association(codes[data.matured] + 1, len(levels) + 1, label)
    value = max(strength.values(), default=0.0)
    return _Finding(value, (0.98 - value) / 0.08, f"{_worst(strength)} almost equals the label: known at event time?")


def _label_copies(data: _Data) -> dict[str, float]:
    """Own features that equal the label in at least 99.9% of rows, in its reported unit or in the source's unit.

    Fewer than 50 rows, or labels that hardly vary, can be equal by chance and are not judged. A leaked label is found
    even if it is renamed or its ``known_at`` is wrong.
    """
    label = data.label
    distinct, counts = np.unique(label, return_counts=True)
    varied = counts.min() >= _FEWEST_OF_A_CLASS if len(distinct) == 2 else len(distinct) > 2
    if len(label) < _FEWEST_TO_EQUAL or not varied:
        return {}
    found = {}
    for name, values in (data.numeric | data.categories_as_numbers).items():
        own = values[data.matured]
        same = np.isclose(own, label, rtol=1e-9) | np.isclose(own, label * data.spec.label.unit_size, rtol=1e-9)
        if same.mean() >= _EQUAL_FROM:
            found[name] = float(same.mean())
    return found


def class_balance(data: _Data) -> _Finding:
    """Share of matured labels that differ from the most common one (for a binary label, the rarer class)."""
    counts = np.unique(data.label, return_counts=True)[1]
    value = 1 - float(counts.max()) / len(data.label) if len(counts) else 0.0
    return _Finding(value, 10 * value, f"{value:.1%} of the labels differ from the most common: check label.value.")


_DIMENSIONS: dict[str, tuple[Callable[[_Data], _Finding], ...]] = {
    "completeness": (missing, text_emptiness, label_maturity, freshness, time_gaps),
    "consistency": (duplicates, inconsistent_categories, type_mix, unseen_levels, volume_trend),
    "validity": (outliers, impossible_times, constant_columns, leakage, class_balance),
}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return float(sum(known)) / len(known) if known else 0.0


def _worst(shares: dict[str, float]) -> str:
    """The three columns with the largest shares above 0, largest first.

    >>> _worst({"team": 0.5, "priority": 0.0, "reporter": 1.0})
    'reporter (100%), team (50%)'
    """
    ranked = sorted((item for item in shares.items() if item[1] > 0), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} ({share:.0%})" for name, share in ranked)


def _is_constant(values: np.ndarray) -> bool:
    known = values[~np.isnan(values)]
    return len(known) == 0 or bool((known == known[0]).all())


def _rank_association(values: np.ndarray, label: np.ndarray, binary: bool) -> float:
    both = ~np.isnan(values)
    values, label = values[both], label[both]
    if len(label) < _FEWEST_LABELS or _is_constant(values) or _is_constant(label):
        return 0.0
    ranks = pd.Series(values).rank().to_numpy()
    if binary:
        return float(abs(ranks[label == 1].mean() - ranks[label == 0].mean()) * 2 / len(ranks))
    return float(abs(np.corrcoef(ranks, pd.Series(label).rank().to_numpy())[0, 1]))


def _level_association(codes: np.ndarray, levels: int, label: np.ndarray) -> float:
    count = np.bincount(codes, minlength=levels)[codes]
    total = np.bincount(codes, weights=label, minlength=levels)[codes]
    shared = count > 1
    if shared.sum() < _FEWEST_LABELS:
        return 0.0
    others = (total[shared] - label[shared]) / (count[shared] - 1)
    if np.ptp(others) < 1e-9 or _is_constant(label[shared]):
        return 0.0
    return float(max(np.corrcoef(others, label[shared])[0, 1], 0.0))
