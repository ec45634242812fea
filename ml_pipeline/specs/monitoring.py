"""How a model is watched."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ml_pipeline.specs.base import Part

Target = Literal["r2", "mae", "mdae", "rmse", "f1", "precision", "recall", "accuracy", "roc_auc", "brier", "ece"]


CheckName = Literal["data_quality", "beats_baseline", "outcome_completeness", "drift", "health"]


class Checks(Part):
    """The asset checks in Dagster: one of each per run, over all tenants of the run."""

    max_share: float = Field(
        0.05, ge=0, lt=1, description="Share of a run's tenants that may fail a check before the check itself fails."
    )
    min_health: float = Field(50.0, ge=0, le=100, description="Health below which a tenant fails the check `health`.")
    error: list[CheckName] = Field([], description="Checks that fail as errors; all others warn.")


class Monitoring(Part):
    """Windows in days before the report's day, and the error rate of the drift tests."""

    baseline_from: int = Field(60, ge=2)
    baseline_to: int = Field(30, ge=1)
    current: int = Field(7, ge=1)
    min_rows: int = Field(30, ge=2)
    false_discovery_rate: float = Field(0.05, gt=0, lt=1)
    alerts_per_1000_days: float = Field(
        11.0, gt=0, lt=1000, description="False drift alerts to accept in 1,000 days; 11 is one a quarter."
    )
    min_completeness: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of outcomes with a prediction; an alert is raised where a day's is provably below.",
    )
    backtest_days: int = Field(28, ge=1, description="Spacing of the rolling origins of the baseline backtest.")
    backtest_reach_days: int = Field(90, ge=1, description="Entities that took longer to mature are not backtested.")
    health_days: int = Field(28, ge=1, description="Outcomes of so many days make the performance part of the health.")
    degradation_days: int = Field(
        180,
        ge=2,
        description="Days of outcomes in which a rise of the loss is looked for, and which it is held against.",
    )
    degradation_min_outcomes: int = Field(
        20,
        ge=2,
        description="Outcomes needed before a change and after it, and in each window of the degradation rule.",
    )
    degradation_false_alarms: float = Field(
        0.0005, gt=0, lt=1, description="False alarms a day and stream; 0.0005 is one in 2,000 quiet days."
    )
    degradation_rule: float = Field(
        0.10,
        gt=0,
        description="Relative rise of the loss against the baseline window that breaks the degradation rule.",
    )
    degradation_severity: dict[Literal["MEDIUM", "HIGH", "CRITICAL"], float] = Field(
        {"MEDIUM": 0.05, "HIGH": 0.10, "CRITICAL": 0.20},
        description="Relative rise of the mean loss from which a proven degradation has this severity.",
    )
    targets: dict[Target, float] = Field(
        {}, description="Health targets: the least (of an error: the most) that a metric should be. No alarms."
    )

    # How a verdict is shown, not what is found: of no hash.
    checks: Checks = Field(Checks(), exclude=True, description="When the asset checks in Dagster fail.")

    @model_validator(mode="after")
    def _ordered(self) -> Monitoring:
        if not self.baseline_from > self.baseline_to >= self.current:
            raise ValueError("needs baseline_from > baseline_to >= current, so that the windows do not overlap")
        return self
