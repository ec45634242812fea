"""What a drift report consists of, and how it goes into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ml_pipeline.severity import Severity


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """One two-sample test.

    Parameters
    ----------
    p : float or None
        None where both sides are the same by definition: no value, or every value, is missing.
    effect, lower : float or None
        In standard deviations (of a correlation: its move), and the lower confidence bound of it.
    drifted, alert : bool or None
        Whether the test is rejected at the rate of the report and at the stricter one of alerts, and the effect large
        enough; None where nothing was decided.
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
    """The test of a column's values.

    ``largest`` is its largest deviation in standard errors; ``negligible`` says that a shift of all values by a
    twentieth of a standard deviation explains it; ``statistics`` are the well-known tests that stand beside it.
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
    """The test of a column's missingness: shares of the rows without a value."""

    baseline: float
    current: float


@dataclass(frozen=True, kw_only=True)
class CorrelationTest(TestResult):
    """The pair of columns whose rank correlation moved most, tested among all ``pairs``."""

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
    baseline: float
    current: float


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """What is found of one column, of the predictions or of the labels.

    Parameters
    ----------
    judged : bool
        Whether the column counts in the report; history features are shown only.
    value : ValueTest or None
        None where too few values are known; ``unknown`` then says so.
    gone : bool
        Whether the current rows do not have the column.
    stuck_at : float or None
        The one value that all current rows have, where the earlier ones had several.
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
        """The largest effect among the drifted tests; 0 without one."""
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
    """Something that moved, and how much of a changed prediction it explains: ``weight``, at most 1."""

    name: str
    how: str
    effect: float
    importance: float | None
    weight: float


@dataclass(frozen=True)
class Calibration:
    """What the thresholds of a report stand on."""

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
    """What moved between the rows of a profile and current ones."""

    status: Literal["stable", "drift", "insufficient_data"]
    score: float | None  # 0-1: mean over judged columns of effect / FULL_EFFECT, at most 1 each, 0 where not drifted
    severity: Severity | None
    drifted: list[str]  # columns, largest effect first
    reason: str
    columns: dict[str, ColumnDrift]
    baseline_rows: int
    current_rows: int
    alert: bool = False  # whether a person is told: the stricter level, which keeps to the alert budget
    prediction: ColumnDrift | None = None
    label: ColumnDrift | None = None
    joint: CorrelationTest | None = None
    causes: tuple[Cause, ...] = ()
    recommendation: str = ""
    calibration: Calibration | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as it is stored."""
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
