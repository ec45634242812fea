"""Drift report of one tenant and model: the rows of the last days compared with a profile of earlier rows.

Each column has a test of its values and a test of its missing values. Predictions, labels and the correlations between
columns are tested too. The false-discovery rate over all tests is controlled. A rejected test counts as drift only if
the lower confidence bound of its effect exceeds ``TOLERANCE``, because large samples also show irrelevant differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd

from ml_pipeline.monitoring.drift import messages
from ml_pipeline.monitoring.drift.columns import TOLERANCE, categorical_columns, numeric_columns, read_numeric
from ml_pipeline.monitoring.drift.correlations import joint, joint_test
from ml_pipeline.monitoring.drift.design_effects import MIN_BLOCKS, Days
from ml_pipeline.monitoring.drift.results import (
    Calibration,
    ColumnDrift,
    CorrelationTest,
    DriftReport,
    MissingTest,
    TestResult,
    ValueTest,
)
from ml_pipeline.monitoring.profiles.columns import NumericColumn
from ml_pipeline.monitoring.profiles.profile import (
    LABEL,
    PREDICTION,
    STATE_PREFIX,
    TIME_DRIVEN,
    Profile,
    is_judged,
    numeric_names,
    profile,
    single_values,
)
from ml_pipeline.severity import Severity
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.monitoring import Monitoring

__all__ = ["STATE_PREFIX", "TIME_DRIVEN", "compare", "severity", "too_few_rows", "windows"]

AnyTest = TypeVar("AnyTest", bound=TestResult)

FULL_EFFECT = 0.5  # standard deviations with which a column counts in full (population stability index about 0.25)
LOSS_THRESHOLDS: dict[Severity, float] = {"CRITICAL": 0.20, "HIGH": 0.10, "MEDIUM": 0.05}
SCORE_THRESHOLDS: dict[Severity, float] = {"CRITICAL": 0.50, "HIGH": 0.25, "MEDIUM": 0.10}
# The other half of the alert budget covers the errors of asymptotic distributions and estimated design effects.
BUDGET_USED = 0.5
HISTORY_BLOCKS = 20.0  # blocks of history that the estimate of an extreme quantile needs


def windows(frame: pd.DataFrame, day: date, monitoring: Monitoring) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Baseline and current rows of a feature frame for the report of ``day`` (UTC).

    The current window is the last ``monitoring.current`` days including ``day``. The baseline window begins
    ``baseline_from`` days before ``day`` and ends ``baseline_to`` days before it (exclusive).

    Parameters
    ----------
    frame : DataFrame
        Feature frame, sorted by ``event_time``.
    day : date
        Day of the report.
    monitoring : Monitoring
        Settings of the specification.

    Returns
    -------
    tuple of DataFrame
        Baseline rows and current rows.
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


def compare(
    spec: ModelSpec,
    reference: Profile | pd.DataFrame,
    current: pd.DataFrame,
    *,
    predictions: pd.DataFrame | None = None,
    outcomes: pd.DataFrame | None = None,
    importance: dict[str, float] | None = None,
) -> DriftReport:
    """Compare current rows with a profile and report the drift.

    - A numeric column has one p-value for location, scale, both tails and the distribution function at five deciles.
    - A categorical column has one p-value for the chi-square test and the level whose share moved most.
    - Missing values are tested by Fisher's exact test or its normal limit.

    The methods are in :mod:`ml_pipeline.monitoring.drift.two_sample`. Kolmogorov-Smirnov, chi-square and the population
    stability index are reported with their own p-values, but do not decide. The procedure of Benjamini and Hochberg
    over all tests keeps the false-discovery rate at ``spec.monitoring.false_discovery_rate``. For ``alert`` it uses a
    lower rate, which keeps within ``spec.monitoring.alerts_per_1000_days``.

    If one side has fewer than ``spec.monitoring.min_rows`` values of a column, only its missing values are tested. Text
    and the columns ``TIME_DRIVEN`` are left out. History features are reported but not judged, see ``STATE_PREFIX``.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    reference : Profile or DataFrame
        Profile of the training snapshot or of a baseline window, or the rows of one.
    current : DataFrame
        Rows of a feature frame, sorted by ``event_time``.
    predictions : DataFrame, optional
        Predictions made in the current window, with ``predicted_at`` and ``value``.
    outcomes : DataFrame, optional
        Outcomes that became known in the current window, with ``label_time`` and ``label``.
    importance : dict, optional
        Feature importance of the champion, in any unit.

    Returns
    -------
    DriftReport
        With the status ``insufficient_data`` if one side has too few rows.
    """
    kept = profile(spec, reference) if isinstance(reference, pd.DataFrame) else reference
    if lacking := too_few_rows(spec.monitoring, kept.rows, len(current)):
        return lacking
    days = Days.of(current["event_time"])
    columns, unknown = _columns(spec, kept, current, days)
    singles = {
        PREDICTION: _single(PREDICTION, kept.prediction, predictions, ("predicted_at", "value"), spec.monitoring),
        LABEL: _single(LABEL, kept.label, outcomes, ("label_time", "label"), spec.monitoring),
    }
    together = None
    names = [name for name in kept.joint.columns if name in current]
    if len(names) >= 2:
        together = joint_test(kept.joint, joint(read_numeric(current, names)[0], days))
    known = {name: column for name, column in singles.items() if column is not None}
    compared = {name: column for name, column in columns.items() if column.judged} | known
    compared, together = _decide(compared, together, spec.monitoring.false_discovery_rate, "drifted")
    calibration = _calibration(spec.monitoring, kept, columns)
    compared, together = _decide(
        compared, together, calibration.alert_rate, "alert", beyond=calibration.history_largest
    )
    found = {name: compared.get(name, column) for name, column in columns.items()}
    rows = kept.rows, len(current)
    decided = {name: compared[name] for name in known}
    return _report(_Found(found, decided, together, unknown, rows), calibration, importance)


def severity(performance_loss: float | None, drift_score: float | None) -> Severity | None:
    """Severity by the measured relative rise of the loss (0.1 is 10%), or by the drift score if no loss is measured.

    Drift that does not raise a measured loss has no severity.

    Parameters
    ----------
    performance_loss : float or None
        Relative rise of the loss; None if it is not measured.
    drift_score : float or None
        Score of the drift report, from 0 to 1.

    >>> severity(0.12, 0.9), severity(None, 0.1), severity(None, 0.01)
    ('HIGH', 'MEDIUM', None)
    """
    value, thresholds = (
        (drift_score, SCORE_THRESHOLDS) if performance_loss is None else (performance_loss, LOSS_THRESHOLDS)
    )
    if value is None:
        return None
    return next((level for level, threshold in thresholds.items() if value >= threshold), None)


def too_few_rows(monitoring: Monitoring, baseline_rows: int, current_rows: int) -> DriftReport | None:
    """Report of :func:`compare` if one side has too few rows, else None. Needs no profile."""
    if current_rows < monitoring.min_rows:
        rows, where = current_rows, f"in the last {monitoring.current} days"
    elif baseline_rows < monitoring.min_rows:
        rows, where = baseline_rows, f"between {monitoring.baseline_from} and {monitoring.baseline_to} days before"
    else:
        return None
    reason = f"insufficient_data: {rows} of {monitoring.min_rows} rows {where}"
    wait = "Wait for more rows, or use a longer window. Drift cannot be tested yet."
    return DriftReport(
        "insufficient_data", None, None, [], reason, {}, baseline_rows, current_rows, recommendation=wait
    )


def _columns(
    spec: ModelSpec, kept: Profile, current: pd.DataFrame, days: Days
) -> tuple[dict[str, ColumnDrift], list[str]]:
    """Test every column. Also returns which columns could not be tested, and why."""
    numeric, categorical = numeric_names(spec), list(spec.feature_columns.categorical)
    columns: dict[str, ColumnDrift] = {}
    unknown = []
    for name in [*numeric, *categorical]:
        known_before = name in kept.numeric if name in numeric else name in kept.categorical
        if name in current and known_before:
            continue
        if name not in current and known_before:
            missing = MissingTest(baseline=0.0, current=1.0, p=0.0, effect=1.0, lower=1.0)
            kind: Literal["numeric", "categorical"] = "numeric" if name in numeric else "categorical"
            columns[name] = ColumnDrift(kind=kind, judged=is_judged(name), missing=missing, gone=True)
            unknown.append(f"{name} (missing in the recent rows)")
        elif name in current:
            unknown.append(f"{name} (new, not in the profile)")
    values, unreadable = read_numeric(current, [name for name in numeric if name in current and name in kept.numeric])
    columns |= numeric_columns(kept.numeric, values, days, spec.monitoring.min_rows, kept.common_effect)
    present = [name for name in categorical if name in current and name in kept.categorical]
    columns |= categorical_columns(
        kept.categorical, current, present, days, spec.monitoring.min_rows, kept.common_effect
    )
    for name, count in unreadable.items():
        note = f"{count} values are not numbers and count as missing"
        columns[name] = replace(columns[name], note=note)
        unknown.append(f"{name} ({note})")
    unknown += [f"{name} ({column.unknown})" for name, column in columns.items() if column.unknown and column.judged]
    return {name: columns[name] for name in [*numeric, *categorical] if name in columns}, unknown


def _single(
    name: str, kept: NumericColumn | None, rows: pd.DataFrame | None, names: tuple[str, str], monitoring: Monitoring
) -> ColumnDrift | None:
    """Test predictions or labels; None if the profile or the current rows have none."""
    if kept is None or rows is None or rows.empty:
        return None
    values, days = single_values(rows, *names)
    if not len(values):
        return None
    return numeric_columns({name: kept}, {name: values}, days, monitoring.min_rows)[name]


def _decide(
    columns: Mapping[str, ColumnDrift],
    together: CorrelationTest | None,
    rate: float,
    mark: Literal["drifted", "alert"],
    *,
    beyond: float | None = None,
) -> tuple[dict[str, ColumnDrift], CorrelationTest | None]:
    """Set ``mark`` on the columns and the correlation whose test is rejected and whose effect is large enough.

    ``rate`` is the false-discovery rate over all tests. If ``beyond`` is given, the largest deviation of a column's
    values must exceed it as well.
    """
    from scipy.stats import false_discovery_control

    tests = [test for column in columns.values() for test in column.tests if test.p is not None]
    tests += [together] if together is not None else []
    if not tests:
        return dict(columns), together
    rejected = (false_discovery_control([test.p for test in tests]) <= rate).tolist()  # Benjamini and Hochberg (1995)
    verdicts = {id(test): reject and _matters(test, beyond) for test, reject in zip(tests, rejected, strict=True)}

    def marked(test: AnyTest) -> AnyTest:
        return replace(test, **{mark: verdicts[id(test)]}) if id(test) in verdicts else test

    found = {}
    for name, column in columns.items():
        value = None if column.value is None else marked(column.value)
        moved: dict[str, Any] = {mark: any(verdicts.get(id(test), False) for test in column.tests)}
        found[name] = replace(column, value=value, missing=marked(column.missing), **moved)
    return found, None if together is None else marked(together)


def _matters(test: TestResult, beyond: float | None) -> bool:
    """Whether an effect exceeds ``TOLERANCE``, and ``beyond``, the tenant's usual deviations, if they are known."""
    if test.lower is None or not test.lower > TOLERANCE:
        return False
    if not isinstance(test, ValueTest):
        return True
    return not test.negligible and (beyond is None or test.largest is None or test.largest > beyond)


def _calibration(monitoring: Monitoring, kept: Profile, columns: Mapping[str, ColumnDrift]) -> Calibration:
    """Rates and thresholds of the report, and the data that they are based on."""
    rate = monitoring.alerts_per_1000_days / 1000
    effects = [column.value.design_effect for column in columns.values() if column.value is not None]
    blocks = kept.blocks
    beyond = float(np.quantile(kept.history, 1 - rate, method="higher")) if blocks >= HISTORY_BLOCKS else None
    if blocks >= MIN_BLOCKS:
        stands_on = (
            f"{blocks:.0f} blocks of {kept.block_days} days of the tenant's history, each compared with the rest"
        )
    else:
        stands_on = f"clusters of rows: {kept.days} earlier days and the recent days"
    return Calibration(
        false_discovery_rate=monitoring.false_discovery_rate,
        alert_rate=rate * BUDGET_USED,
        alerts_per_1000_days=monitoring.alerts_per_1000_days,
        design_effect=float(np.median(effects)) if effects else 1.0,
        typical_design_effect=float(kept.common_effect.typical[0]),
        weekly_factor=kept.common_effect.weekly_factor,
        blocks=float(blocks),
        days=kept.days,
        history_largest=beyond,
        stands_on=stands_on,
    )


@dataclass(frozen=True)
class _Found:
    """Results of all tests; ``singles`` are predictions and labels, ``rows`` the numbers of both sides."""

    columns: dict[str, ColumnDrift]
    singles: dict[str, ColumnDrift]
    together: CorrelationTest | None
    unknown: list[str]
    rows: tuple[int, int]


def _report(found: _Found, calibration: Calibration, importance: Mapping[str, float] | None) -> DriftReport:
    judged = {name: column for name, column in found.columns.items() if column.judged}
    effects = {name: column.drift_effect for name, column in judged.items()}
    drifted = sorted((name for name in judged if effects[name] > 0), key=lambda name: (-effects[name], name))
    score = sum(min(1.0, effect / FULL_EFFECT) for effect in effects.values()) / max(1, len(judged))
    moved_singles = {name: column for name, column in found.singles.items() if column.drifted}
    moved_together = found.together if found.together is not None and found.together.drifted else None
    causes = messages.causes({name: judged[name] for name in drifted} | moved_singles, found.together, importance)
    alert = any(column.alert for column in [*judged.values(), *found.singles.values()])
    alert = alert or (found.together is not None and bool(found.together.alert))
    prediction, label = found.singles.get(PREDICTION), found.singles.get(LABEL)
    sentences = messages.other_moves(moved_singles, moved_together)
    return DriftReport(
        status="drift" if drifted or moved_singles or moved_together else "stable",
        score=score,
        severity=severity(None, score),
        drifted=drifted,
        reason=messages.reason(judged, drifted, sentences, found.rows, found.unknown),
        columns=found.columns,
        baseline_rows=found.rows[0],
        current_rows=found.rows[1],
        alert=alert,
        prediction=prediction,
        label=label,
        joint=found.together,
        causes=causes,
        recommendation=messages.recommendation(judged, causes, label, prediction, alert),
        calibration=calibration,
    )
