"""Business metrics that a specification defines over predictions and outcomes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ml_pipeline.specs.expressions import Expression, ExpressionError

# Names that technical metrics already have in evaluations, metrics rows and MLflow.
TECHNICAL_METRICS = (
    *("mae", "mdae", "rmse", "r2", "bias", "interval_width", "interval_coverage"),
    *("brier", "log_loss", "accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc", "tp", "fp", "tn", "fn", "ece"),
    *("count", "skill", "standard_error"),
)
TECHNICAL_PREFIXES = ("baseline_", "rows_")
SCORED = ("prediction", "outcome", "baseline")


class BusinessMetric(BaseModel):
    """One value per entity, aggregated over entities; computed with the technical metrics, and for the baseline too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="Name of the metric, in lower case.")
    title: str = Field(description="Title of the metric in reports.")
    value: str = Field(description="Expression over prediction, outcome and baseline (the baseline's prediction).")
    aggregate: Literal["mean", "median", "sum"] = Field(
        "mean", description="How the values of the entities are combined."
    )
    better: Literal["higher", "lower"] = Field("higher", description="Whether higher or lower values are better.")
    gate: float | None = Field(
        None,
        description="Value on the test part that a version needs for promotion: at least this, or at most this with "
        "better: lower.",
    )

    @field_validator("name")
    @classmethod
    def _own_name(cls, value: str) -> str:
        if value in TECHNICAL_METRICS or value.startswith(TECHNICAL_PREFIXES):
            raise ValueError("is the name of a technical metric. Choose another name")
        return value

    @field_validator("value")
    @classmethod
    def _computable(cls, value: str) -> str:
        try:
            expression = Expression(value)
        except ExpressionError as error:
            raise ValueError(str(error)) from error
        for name in expression.names:
            if name not in SCORED:
                raise ValueError(f"names {name!r}; it can use {', '.join(SCORED)}")
        try:
            expression.check_types(dict.fromkeys(SCORED, "number"))
        except ExpressionError as error:
            raise ValueError(f"cannot be computed from numbers: {error}") from error
        return value

    @property
    def expression(self) -> Expression:
        return Expression(self.value)
