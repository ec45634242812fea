"""Data classes of a drift report, with their JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ml_pipeline.severity import Severity


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """Result of a two-sample test.

    Parameters
    ----------
    p : float or None
        P-value; None without a test, because no value or every value is missing on both sides.
    effect, lower : float or None
        Effect in standard deviations (for a correlation, its difference) and its one-sided 95% lower bound.
    drifted, alert : bool or None
        Whether the test is rejected at the rate of the report, or at the lower rate of alerts, with a large enough
        effect; None if the test was not judged.
    """

    p: float | None
    effect: float | None = None
    lower: float | None = None
    drifted: bool | None = None
    alert: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None or name == "p"}


@dataclass(frozen=True, kw_only=True)
class ValueTest(TestResult):
    """Test of a column's values.

    ``largest`` is the largest deviation in standard errors. ``negligible`` tells whether a shift of all values by 0.05
    standard deviations explains the difference. ``statistics`` are well-known tests, which do not decide.
    """

    p: float
    effect: float
    lower: float
    design_effect: float
    largest: float | None = None
    negligible: bool | None = None
    statistics: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        found = super().to_json()
        statistics: dict[str, float] = found.pop("statistics")
        return found | statistics


@dataclass(frozen=True, kw_only=True)
class MissingTest(TestResult):
    """Test of a column's missing values, with their shares of the rows."""

    baseline: float
    current: float


@dataclass(frozen=True, kw_only=True)
class CorrelationTest(TestResult):
    """The pair of columns, of all ``pairs``, whose rank correlation changed most."""

    p: float
    effect: float
    lower: float
    pair: tuple[str, str]
    baseline: float
    current: float
    pairs: int
    design_effect: float

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"pair": list(self.pair)}


@dataclass(frozen=True)
class LevelMove:
    """The level of a categorical column whose share moved most."""

    level: str
    baseline: float
    current: float


@dataclass(frozen=True)
class Medians:
    """Medians of a numeric column."""

    baseline: float
    current: float


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """Tests of one column, of the predictions, or of the labels.

    Parameters
    ----------
    judged : bool
        Whether the column counts in the report; history features do not.
    value : ValueTest or None
        None if there are too few values; ``unknown`` then tells how many.
    gone : bool
        Whether the current rows do not have the column.
    stuck_at : float or None
        The value that all current rows have, if the earlier rows had several values.
    """

    kind: Literal["numeric", "categorical"]
    judged: bool
    missing: MissingTest
    value: ValueTest | None = None
    unknown: str | None = None
    gone: bool = False
    note: str | None = None
    median: Medians | None = None
    stuck_at: float | None = None
    new_levels: tuple[str, ...] = ()
    most_moved: LevelMove | None = None
    drifted: bool = False
    alert: bool | None = None

    @property
    def tests(self) -> tuple[TestResult, ...]:
        return (self.missing,) if self.value is None else (self.value, self.missing)

    @property
    def drift_effect(self) -> float:
        """Largest effect of the tests that found drift; 0 without drift."""
        return max((test.effect or 0.0 for test in self.tests if test.drifted), default=0.0)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": self.kind,
            "judged": self.judged,
            "drifted": self.drifted,
            "value": None if self.value is None else self.value.to_json(),
            "missing": self.missing.to_json(),
            "unknown": self.unknown,
        }
        if self.kind == "numeric" and self.value is not None:
            found |= {"median": None if self.median is None else asdict(self.median), "stuck_at": self.stuck_at}
        if self.kind == "categorical" and not self.gone:
            found["new_levels"] = list(self.new_levels)
        if self.most_moved is not None:
            found["most_moved"] = asdict(self.most_moved)
        optional = {"gone": self.gone or None, "note": self.note, "alert": self.alert}
        return found | {name: value for name, value in optional.items() if value is not None}


@dataclass(frozen=True)
class Cause:
    """A possible cause of changed predictions; ``weight`` (0 to 1) is its effect times its importance."""

    name: str
    how: str
    effect: float
    importance: float | None
    weight: float


@dataclass(frozen=True)
class Calibration:
    """Rates and thresholds of a report, and the data that they are based on (``stands_on``)."""

    false_discovery_rate: float
    alert_rate: float
    alerts_per_1000_days: float
    design_effect: float
    typical_design_effect: float
    weekly_factor: float
    blocks: float
    days: int
    history_largest: float | None
    stands_on: str


@dataclass(frozen=True)
class DriftReport:
    """Result of the comparison of current rows with a profile."""

    status: Literal["stable", "drift", "insufficient_data"]
    score: float | None  # mean over the judged columns of effect / FULL_EFFECT, at most 1; 0 for columns without drift
    severity: Severity | None
    drifted: list[str]  # columns, largest effect first
    reason: str
    columns: dict[str, ColumnDrift]
    baseline_rows: int
    current_rows: int
    alert: bool = False  # drift at the lower rate that keeps within the alert budget: people are notified
    prediction: ColumnDrift | None = None
    label: ColumnDrift | None = None
    joint: CorrelationTest | None = None
    causes: tuple[Cause, ...] = ()
    recommendation: str = ""
    calibration: Calibration | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as it is stored in the database."""
        parts = {"prediction": self.prediction, "label": self.label, "joint": self.joint}
        return {
            "status": self.status,
            "score": self.score,
            "severity": self.severity,
            "drifted": self.drifted,
            "reason": self.reason,
            "columns": {name: column.to_json() for name, column in self.columns.items()},
            "baseline_rows": self.baseline_rows,
            "current_rows": self.current_rows,
            "alert": self.alert,
            **{name: None if part is None else part.to_json() for name, part in parts.items()},
            "causes": [asdict(cause) for cause in self.causes],
            "recommendation": self.recommendation,
            "calibration": {} if self.calibration is None else asdict(self.calibration),
        }
