"""Monitoring settings of a model, the key ``monitoring``."""

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
    """Windows, in days before the day of the report, and error rates of the tests."""

    baseline_from: int = Field(60, ge=2, description="Start of the reference window, in days before the report.")
    baseline_to: int = Field(30, ge=1, description="End of the reference window, in days before the report.")
    current: int = Field(7, ge=1, description="Length of the current window in days, up to the day of the report.")
    min_rows: int = Field(30, ge=2, description="Rows that the current window needs for drift tests.")
    false_discovery_rate: float = Field(
        0.05, gt=0, lt=1, description="Expected share of false findings among the drifted columns."
    )
    alerts_per_1000_days: float = Field(
        11.0, gt=0, lt=1000, description="Accepted number of false drift alerts in 1,000 days; 11 is one per quarter."
    )
    min_completeness: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of outcomes with a prediction; an alert is raised if that of a day is significantly lower.",
    )
    backtest_days: int = Field(28, ge=1, description="Days between the rolling origins of the backtest.")
    backtest_reach_days: int = Field(90, ge=1, description="Entities that took more days to mature are not backtested.")
    health_days: int = Field(28, ge=1, description="Days of outcomes in the performance part of the health score.")
    degradation_days: int = Field(
        180,
        ge=2,
        description="Days of outcomes in which a rise of the loss is tested.",
    )
    degradation_min_outcomes: int = Field(
        20,
        ge=2,
        description="Outcomes needed before and after a change, and in each window of the degradation rule.",
    )
    degradation_false_alarms: float = Field(
        0.0005, gt=0, lt=1, description="False alarms per quiet day; 0.0005 is one in 2,000 quiet days."
    )
    degradation_rule: float = Field(
        0.10,
        gt=0,
        description="Relative rise of the loss over the reference window at which the degradation rule is met.",
    )
    degradation_severity: dict[Literal["MEDIUM", "HIGH", "CRITICAL"], float] = Field(
        {"MEDIUM": 0.05, "HIGH": 0.10, "CRITICAL": 0.20},
        description="Relative rise of the mean loss from which a significant degradation has this severity.",
    )
    targets: dict[Target, float] = Field(
        {}, description="Health targets: smallest (for an error: largest) acceptable value per metric. Raise no alerts."
    )

    checks: Checks = Field(Checks(), description="When the asset checks in Dagster fail.")

    @model_validator(mode="after")
    def _ordered(self) -> Monitoring:
        if not self.baseline_from > self.baseline_to >= self.current:
            raise ValueError("needs baseline_from > baseline_to >= current, so that the windows do not overlap")
        return self
