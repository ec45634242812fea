"""Degradation report: whether the loss on matured outcomes has risen, by how much, and with what evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.monitoring.degradation.calibration_drift import of_intervals, of_probabilities
from ml_pipeline.monitoring.degradation.detector import Rise, rise
from ml_pipeline.monitoring.metrics import evaluate
from ml_pipeline.severity import Severity
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.monitoring import Monitoring
from ml_pipeline.stats import Floats

HIGHER_IS_BETTER = frozenset({"r2", "f1", "precision", "recall", "accuracy", "roc_auc"})
OWN_OUTCOMES = 100  # outcomes, older than the health window, from which a version is compared with itself only

Numbers = dict[str, float | int | bool | None]


@dataclass(frozen=True)
class Degradation:
    """Degradation as known at the end of a day; every field is a JSON value."""

    status: Literal["stable", "degraded", "insufficient_data"]
    severity: Severity | None  # of the rise, if the sequential test finds one
    rise: float | None  # loss / expected - 1; None if expected is 0 or no comparison is possible
    loss: float | None  # mean loss since the change, or of the current window if there was no change
    expected: float | None  # mean loss of the outcomes before it
    outcomes: int
    baseline_outcomes: int
    since: str | None  # estimated first day of the change, ISO; None unless degraded
    evidence: Numbers  # of the sequential test
    baseline_rise: float | None  # relative rise of the baseline's loss on the same outcomes
    relative_rise: float | None  # relative rise of the loss divided by the baseline's loss: the model's own loss
    rule: Numbers  # current window compared with the reference window, without a significance test
    targets: dict[str, dict[str, float | bool | None]]  # health targets: target, value, met
    calibration: dict[str, Any] | None  # monitoring.calibration.Calibration of the health window
    reason: str


def degradation(spec: ModelSpec, scored: pd.DataFrame, day: date, *, serving_since: date | None = None) -> Degradation:
    """Test for a rise of the mean loss in the outcomes known by the end of ``day`` (UTC).

    The test uses the outcomes of the last ``monitoring.degradation_days`` days: live ones of any version, and
    backtested ones from before the first live one. A rise is reported if
    :func:`ml_pipeline.monitoring.degradation.detector.rise` finds one at ``degradation_false_alarms`` per quiet day, if
    it is large enough to have a severity, and if the current window still shows it. The result depends on ``scored``
    only, so a backfill gives the same report as the day itself.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scored : DataFrame
        Result of :func:`ml_pipeline.monitoring.performance.scored_outcomes`, in its order; rows known after the day are
        ignored.
    day : date
        Day of the report.
    serving_since : date or None
        First day of the serving version; only later days can be the first day of a change. Its outcomes are compared
        with all earlier outcomes until at least 100 of its own are older than the health window. From then on they are
        compared with its own only: the rollback watch, on the same entities, has decided by then whether it is worse
        than the previous version. With fewer own outcomes, a change soon after deployment would go unnoticed.
    """
    monitoring = spec.monitoring
    known = _between(scored, day - timedelta(days=monitoring.degradation_days - 1), day)
    recent = _between(known, day - timedelta(days=monitoring.health_days - 1), day)
    history, first = _history(known, day, serving_since, monitoring)
    loss, days = history["loss"].to_numpy(np.float64), _days(history)
    found = rise(
        loss,
        days,
        history["value"].to_numpy(np.float64),
        false_alarms=monitoring.degradation_false_alarms,
        min_outcomes=monitoring.degradation_min_outcomes,
        first=first,
    )
    start = int(np.searchsorted(days, np.datetime64(day, "D") - np.timedelta64(monitoring.current - 1, "D")))
    # The current window is extended back if it has too few outcomes.
    current = max(min(start, len(days) - monitoring.degradation_min_outcomes), 0)
    split = int(np.searchsorted(days, np.datetime64(found.since or day, "D")))
    lacking = _lacking(known, recent, found, day, monitoring)
    changed = found.alarm and not lacking and _still_risen(loss, split, current, monitoring)
    compared = _compare(history, split if changed else current)
    severity = _severity(compared.rise, monitoring) if changed else None
    status: Literal["stable", "degraded", "insufficient_data"] = (
        "degraded" if severity else "insufficient_data" if lacking else "stable"
    )
    return Degradation(
        status=status,
        severity=severity,
        rise=compared.rise,
        loss=compared.loss,
        expected=compared.expected,
        outcomes=compared.after,
        baseline_outcomes=compared.before,
        since=found.since.isoformat() if severity and found.since else None,
        evidence=_evidence(found, monitoring),
        baseline_rise=compared.baseline_rise,
        relative_rise=compared.relative_rise,
        rule=_rule(known, day, monitoring),
        targets=_targets(spec, recent),
        calibration=_calibration(spec, recent),
        reason=lacking or _sentence(spec, status, found, compared),
    )


def _between(scored: pd.DataFrame, first: date, last: date) -> pd.DataFrame:
    days = _days(scored)
    start, end = np.searchsorted(days, [np.datetime64(first, "D"), np.datetime64(last, "D") + 1])
    return scored.iloc[start:end]


def _days(scored: pd.DataFrame) -> np.ndarray:
    return np.asarray(scored["label_time"].array.as_unit("us").asi8.view("datetime64[us]").astype("datetime64[D]"))


def _history(
    known: pd.DataFrame, day: date, serving_since: date | None, monitoring: Monitoring
) -> tuple[pd.DataFrame, date | None]:
    """The outcomes to test, and the earliest candidate for the first day of a rise."""
    if serving_since is not None:
        own = known[_days(known) >= np.datetime64(serving_since, "D")]
        earlier = _between(own, serving_since, day - timedelta(days=monitoring.health_days))
        if len(earlier) >= OWN_OUTCOMES:
            return own, None
    if "event_time" in known and (known["origin"] == "backtest").any():
        # Backtests contain only entities with quick outcomes, so they are compared with equally quick live ones.
        reach = pd.Timedelta(days=monitoring.backtest_reach_days)
        known = known[known["label_time"] - known["event_time"] <= reach]
    return known, serving_since


def _still_risen(loss: Floats, split: int, current: int, monitoring: Monitoring) -> bool:
    """Whether the latest outcomes since the change are still high enough above the earlier ones for a severity."""
    needed = 1 + min(monitoring.degradation_severity.values())
    return bool(loss[max(split, current) :].mean() >= needed * loss[:split].mean())


class _Compared(NamedTuple):
    """The outcomes from a position on compared with those before it: counts, mean losses and relative rises."""

    before: int
    after: int
    expected: float | None
    loss: float | None
    rise: float | None
    baseline_rise: float | None
    relative_rise: float | None


def _compare(history: pd.DataFrame, split: int) -> _Compared:
    before, after = history.iloc[:split], history.iloc[split:]
    expected, loss = _mean(before["loss"]), _mean(after["loss"])
    ours = _relative(loss, expected)
    baseline = _relative(_mean(after["baseline_loss"]), _mean(before["baseline_loss"]))
    relative = None if ours is None or baseline is None or baseline <= -1 else (1 + ours) / (1 + baseline) - 1
    return _Compared(len(before), len(after), expected, loss, ours, baseline, relative)


def _mean(column: pd.Series) -> float | None:
    values = column.to_numpy(np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _relative(value: float | None, expected: float | None) -> float | None:
    return value / expected - 1 if value is not None and expected else None


def _severity(risen: float | None, monitoring: Monitoring) -> Severity | None:
    if risen is None:
        return "CRITICAL"  # the earlier loss was 0
    reached = [level for level, threshold in monitoring.degradation_severity.items() if risen >= threshold]
    return max(reached, key=monitoring.degradation_severity.__getitem__, default=None)


def _lacking(known: pd.DataFrame, recent: pd.DataFrame, found: Rise, day: date, monitoring: Monitoring) -> str:
    """Which data are missing for a result, as text; empty if the data suffice."""
    if recent.empty:
        return f"insufficient data: no outcome with a prediction in the {monitoring.health_days} days up to {day}"
    if found.since is None:
        needed = monitoring.degradation_min_outcomes
        return (
            f"insufficient data: {len(known)} outcomes with a prediction in {monitoring.degradation_days} days; "
            f"{needed} are needed before a change and {needed} after it"
        )
    return ""


def _evidence(found: Rise, monitoring: Monitoring) -> Numbers:
    return {
        "rate": found.rate,
        "false_alarms": monitoring.degradation_false_alarms,
        "alarm": found.alarm,
        "z": found.z,
        "before": found.before,
        "after": found.after,
        "given_prediction": found.given_prediction,
        "overdispersion": found.overdispersion,
    }


def _rule(known: pd.DataFrame, day: date, monitoring: Monitoring) -> Numbers:
    """The degradation rule: mean loss of the current window compared with the reference window, without a test."""
    baseline = _between(
        known, day - timedelta(days=monitoring.baseline_from), day - timedelta(days=monitoring.baseline_to + 1)
    )
    current = _between(known, day - timedelta(days=monitoring.current - 1), day)
    change = _relative(_mean(current["loss"]), _mean(baseline["loss"]))
    enough = min(len(baseline), len(current)) >= monitoring.degradation_min_outcomes
    return {
        "met": bool(change is not None and change > monitoring.degradation_rule) if enough else None,
        "rise": change,
        "threshold": monitoring.degradation_rule,
        "outcomes": len(current),
        "baseline_outcomes": len(baseline),
        "min_outcomes": monitoring.degradation_min_outcomes,
    }


def _targets(spec: ModelSpec, recent: pd.DataFrame) -> dict[str, dict[str, float | bool | None]]:
    metrics = evaluate(spec.task, recent["label"].to_numpy(np.float64), recent["value"].to_numpy(np.float64))
    found: dict[str, dict[str, float | bool | None]] = {}
    for name, target in spec.monitoring.targets.items():
        value = metrics.get(name)
        met = None if value is None else value >= target if name in HIGHER_IS_BETTER else value <= target
        found[name] = {"target": target, "value": value, "met": met}
    return found


def _calibration(spec: ModelSpec, recent: pd.DataFrame) -> dict[str, Any] | None:
    label, value, lower, upper = (
        recent[name].to_numpy(np.float64, na_value=np.nan) for name in ("label", "value", "lower", "upper")
    )
    allowed = spec.monitoring.degradation_false_alarms
    if spec.task == "binary":
        found = of_probabilities(label, value, allowed)
    else:
        found = of_intervals(label, lower, upper, spec.training.interval, allowed)
    return asdict(found) if found else None


def _sentence(spec: ModelSpec, status: str, found: Rise, compared: _Compared) -> str:
    name = spec.headline_metric
    if compared.expected is None or compared.loss is None:
        return f"no rise of the {name}: all {compared.after} outcomes are in the current window"
    chance = f"false alarm rate {found.rate:.2g} per quiet day"
    against = f"{compared.expected:.3g} on {compared.before} before"
    change = _percent(compared.rise)
    if status == "stable":
        return f"no significant rise of the {name}: {compared.loss:.3g} on the last {compared.after} outcomes, " + (
            f"{against} ({change}; {chance})"
        )
    baseline = "" if compared.baseline_rise is None else f", baseline {_percent(compared.baseline_rise)}"
    return (
        f"the {name} rose to {compared.loss:.3g} on the {compared.after} outcomes since {found.since}, {against} "
        f"({change}{baseline}; {chance})"
    )


def _percent(change: float | None) -> str:
    return "from 0" if change is None else f"{change:+.0%}"
