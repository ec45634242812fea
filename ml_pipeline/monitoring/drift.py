"""Feature drift of one tenant and model: the last days against an earlier window, as one calibrated report.

Every column has a test of its values and one of its missingness. The report rejects under false-discovery control,
and a rejected test counts only where the lower bound of its effect exceeds ``TOLERANCE``: a large sample finds
differences that matter to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import pandas as pd

from ml_pipeline.monitoring import two_sample
from ml_pipeline.specs.model_spec import ModelSpec, Monitoring

Severity = Literal["MEDIUM", "HIGH", "CRITICAL"]

# Their windows differ without anything having changed: a count of everything so far, and the season. Left out.
TIME_DRIVEN = frozenset({"history_known", "calendar_day", "calendar_month"})
# The tenant's state on its way through time: a window sees one short piece of one path, however many rows it has, so
# two windows nearly always differ (on real tenants in 29 of 31 weekly reports). Reported, never judged.
STATE_PREFIX = "history_"
TOLERANCE = 0.05  # standard deviations; a shift of 0.02 sigma stays silent in any number of rows
FULL_EFFECT = 0.5  # standard deviations, a population stability index of about 0.25: the column counts in full
LOSS_THRESHOLDS: dict[Severity, float] = {"CRITICAL": 0.20, "HIGH": 0.10, "MEDIUM": 0.05}
SCORE_THRESHOLDS: dict[Severity, float] = {"CRITICAL": 0.50, "HIGH": 0.25, "MEDIUM": 0.10}
NAMED_COLUMNS = 3
NAMED_LEVELS = 5


@dataclass(frozen=True)
class DriftReport:
    """What moved between two windows; every field can go into JSON as it is."""

    status: Literal["stable", "drift", "insufficient_data"]
    score: float | None  # 0-1: mean over judged columns of effect / FULL_EFFECT, at most 1 each, 0 where not drifted
    severity: Severity | None
    drifted: list[str]  # columns, largest effect first
    reason: str
    columns: dict[str, dict[str, Any]]
    baseline_rows: int
    current_rows: int


def windows(frame: pd.DataFrame, day: date, monitoring: Monitoring) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Baseline and current rows of a feature frame for the report of ``day`` (UTC).

    Current are the entities of the last ``monitoring.current`` days, ``day`` included; baseline those of the days from
    ``baseline_from`` to ``baseline_to`` days before it, the latter excluded.

    Parameters
    ----------
    frame : DataFrame
        Sorted by ``event_time``.
    """
    midnight = pd.Timestamp(day, tz="UTC")
    end = midnight + pd.Timedelta(days=1)
    edges = [
        midnight - pd.Timedelta(days=monitoring.baseline_from),
        midnight - pd.Timedelta(days=monitoring.baseline_to),
        end - pd.Timedelta(days=monitoring.current),
        end,
    ]
    first, last, recent, stop = frame["event_time"].searchsorted(edges)
    return frame.iloc[first:last], frame.iloc[recent:stop]


def compare(spec: ModelSpec, baseline: pd.DataFrame, current: pd.DataFrame) -> DriftReport:
    """The drift report of two windows of a feature frame.

    Numeric columns: Kolmogorov-Smirnov, location, scale and tails as one p-value; categorical: chi-square and the
    level that moved most; missingness: Fisher's exact test or its normal limit; all corrected for the likeness of
    rows of one day (:mod:`ml_pipeline.monitoring.two_sample`). The population stability index is reported with the
    value it exceeds in 5 % of comparisons when nothing changed. Benjamini-Hochberg holds the false-discovery rate of
    the report at ``spec.monitoring.false_discovery_rate``. A column with fewer than ``spec.monitoring.min_rows``
    values on a side has only its missingness tested. The text and the columns of ``TIME_DRIVEN`` are left out; history
    features are reported but not judged, see ``STATE_PREFIX``.

    Parameters
    ----------
    baseline, current : DataFrame
        Rows of a feature frame, each sorted by ``event_time``.
    """
    lacking = _lacking_rows(spec.monitoring, len(baseline), len(current))
    if lacking:
        return DriftReport("insufficient_data", None, None, [], lacking, {}, len(baseline), len(current))
    pooled = two_sample.Pooled.of(baseline["event_time"], current["event_time"])
    columns = _numeric_columns(spec, baseline, current, pooled) | _categorical_columns(spec, baseline, current, pooled)
    judged = {name: column for name, column in columns.items() if column["judged"]}
    _decide(judged, spec.monitoring.false_discovery_rate)
    effects = {name: _moved_by(column) for name, column in judged.items()}
    drifted = sorted((name for name in judged if effects[name] > 0), key=lambda name: (-effects[name], name))
    score = sum(min(1.0, effect / FULL_EFFECT) for effect in effects.values()) / max(1, len(judged))
    return DriftReport(
        status="drift" if drifted else "stable",
        score=score,
        severity=severity(None, score),
        drifted=drifted,
        reason=_reason(judged, drifted, len(baseline), len(current)),
        columns=columns,
        baseline_rows=len(baseline),
        current_rows=len(current),
    )


def severity(performance_loss: float | None, drift_score: float | None) -> Severity | None:
    """How bad it is, from the measured relative rise of the loss (0.1 is 10 %), else from the drift score.

    Measured loss overrules: drift that costs nothing has no severity.

    >>> severity(0.12, 0.9), severity(None, 0.1), severity(None, 0.01)
    ('HIGH', 'MEDIUM', None)
    """
    value, thresholds = (
        (drift_score, SCORE_THRESHOLDS) if performance_loss is None else (performance_loss, LOSS_THRESHOLDS)
    )
    if value is None:
        return None
    return next((level for level, threshold in thresholds.items() if value >= threshold), None)


def _lacking_rows(monitoring: Monitoring, baseline_rows: int, current_rows: int) -> str | None:
    if current_rows < monitoring.min_rows:
        rows, where = current_rows, f"in the last {monitoring.current} days"
    elif baseline_rows < monitoring.min_rows:
        rows, where = baseline_rows, f"between {monitoring.baseline_from} and {monitoring.baseline_to} days before"
    else:
        return None
    return f"insufficient_data: {rows} of {monitoring.min_rows} rows {where}"


def _numeric_columns(spec: ModelSpec, baseline, current, pooled: two_sample.Pooled) -> dict[str, dict[str, Any]]:
    names = [name for name in spec.feature_columns.numeric if name not in TIME_DRIVEN]
    values = np.vstack([baseline[names].to_numpy(np.float64), current[names].to_numpy(np.float64)]).T
    columns = _missingness(names, "numeric", np.isnan(values), pooled)
    counts = [(~np.isnan(part)).sum(axis=1) for part in (values[:, : pooled.baseline], values[:, pooled.baseline :])]
    enough = np.flatnonzero(np.minimum(*counts) >= spec.monitoring.min_rows)
    if len(enough):
        tests = two_sample.numeric_tests(values[enough], pooled)
        fields = {"p": tests.p, "effect": tests.effect, "lower": tests.lower, **tests.statistics}
        table = np.array(list(fields.values())).T.tolist()
        for position, row in zip(enough, table, strict=True):
            columns[names[position]]["value"] = dict(zip(fields, row, strict=True))
    return columns


def _categorical_columns(spec: ModelSpec, baseline, current, pooled: two_sample.Pooled) -> dict[str, dict[str, Any]]:
    names = list(spec.feature_columns.categorical)
    if not names:
        return {}
    coded = {name: _codes(baseline[name], current[name]) for name in names}
    missing = np.array([codes < 0 for codes, _ in coded.values()])
    columns = _missingness(names, "categorical", missing, pooled)
    for name, (codes, levels) in coded.items():
        parts = [codes[: pooled.baseline], codes[pooled.baseline :]]
        counts = [np.bincount(part[part >= 0], minlength=len(levels)) for part in parts]
        if min(count.sum() for count in counts) < spec.monitoring.min_rows:
            continue
        test, top = two_sample.category_test(codes, len(levels), pooled)
        columns[name]["value"] = test
        columns[name]["new_levels"] = _new_levels(levels, *counts)
        if top >= 0:
            shares = [float(count[top] / count.sum()) for count in counts]
            columns[name]["most_moved"] = {"level": str(levels[top]), "baseline": shares[0], "current": shares[1]}
    return columns


def _codes(baseline: pd.Series, current: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    return pd.factorize(np.concatenate([baseline.to_numpy(object), current.to_numpy(object)]))


def _new_levels(levels, baseline_counts, current_counts) -> list[str]:
    new = np.flatnonzero((baseline_counts == 0) & (current_counts > 0))
    return [str(levels[code]) for code in new[np.argsort(-current_counts[new], kind="stable")][:NAMED_LEVELS]]


def _missingness(
    names: list[str], kind: str, missing: np.ndarray, pooled: two_sample.Pooled
) -> dict[str, dict[str, Any]]:
    n, m = pooled.baseline, pooled.rows - pooled.baseline
    hits = [part.sum(axis=1) for part in (missing[:, :n], missing[:, n:])]
    columns: dict[str, dict[str, Any]] = {
        name: {
            "type": kind,
            "judged": not name.startswith(STATE_PREFIX),
            "drifted": False,
            "value": None,
            "missing": {"baseline": float(before / n), "current": float(after / m), "p": None},
        }
        for name, before, after in zip(names, *hits, strict=True)
    }
    some = np.flatnonzero(hits[0] + hits[1])
    if len(some):
        chosen = missing[some].astype(np.float64)
        deff = two_sample.design_effect(chosen, np.ones_like(chosen, dtype=bool), pooled)
        p, z = two_sample.proportion_tests(hits[0][some], n, hits[1][some], m, deff)
        root = np.sqrt(n * m / (n + m))
        lower = (np.abs(z) - two_sample.LOWER_BOUND_Z * np.sqrt(deff)) / root
        for position, *row in zip(some, p.tolist(), (np.abs(z) / root).tolist(), lower.tolist(), strict=True):
            columns[names[position]]["missing"] |= dict(zip(("p", "effect", "lower"), row, strict=True))
    return columns


def _decide(columns: dict[str, dict[str, Any]], rate: float) -> None:
    """Marks tests and columns as drifted: rejected under false-discovery control, and beyond the tolerance."""
    tests = [
        test
        for column in columns.values()
        for test in (column["value"], column["missing"])
        if test is not None and test["p"] is not None
    ]
    rejected = two_sample.benjamini_hochberg(np.array([test["p"] for test in tests]), rate)
    for test, reject in zip(tests, rejected.tolist(), strict=True):
        test["drifted"] = reject and test["lower"] > TOLERANCE
    for column in columns.values():
        column["drifted"] = _moved_by(column) > 0


def _moved_by(column: dict[str, Any]) -> float:
    """The largest effect among the drifted tests of a column; 0 when none is."""
    tests = [test for test in (column["value"], column["missing"]) if test is not None and test.get("drifted")]
    return max((test["effect"] for test in tests), default=0.0)


def _reason(columns: dict[str, dict[str, Any]], drifted: list[str], baseline_rows: int, current_rows: int) -> str:
    rows = f"{current_rows} recent against {baseline_rows} earlier rows"
    if not drifted:
        return f"None of {len(columns)} columns moved ({rows})."
    named = ", ".join(f"{name} ({_how(columns[name])})" for name in drifted[:NAMED_COLUMNS])
    rest = f" and {len(drifted) - NAMED_COLUMNS} more" if len(drifted) > NAMED_COLUMNS else ""
    return f"{len(drifted)} of {len(columns)} columns moved: {named}{rest} ({rows})."


def _how(column: dict[str, Any]) -> str:
    parts = []
    value, missing = column["value"], column["missing"]
    if value is not None and value["drifted"]:
        parts.append(f"PSI {value['psi']:.2f}" if column["type"] == "categorical" else f"KS {value['ks']:.2f}")
        top = column.get("most_moved")
        if top and top["level"] in column["new_levels"]:
            parts.append(f"new level {top['level']!r}")
        elif top:
            parts.append(f"{top['level']!r} {top['baseline']:.0%} -> {top['current']:.0%}")
    if missing.get("drifted"):
        parts.append(f"missing {missing['baseline']:.0%} -> {missing['current']:.0%}")
    return ", ".join(parts)
