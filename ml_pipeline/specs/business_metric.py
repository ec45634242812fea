"""A figure that the business asks for, as a specification defines it over predictions and outcomes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ml_pipeline.specs.expressions import Expression, ExpressionError

# Names that metrics have already, in evaluations, in metrics rows and in MLflow.
TECHNICAL_METRICS = (
    *("mae", "mdae", "rmse", "r2", "bias", "interval_width", "interval_coverage"),
    *("brier", "log_loss", "accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc", "tp", "fp", "tn", "fn", "ece"),
    *("count", "skill", "standard_error"),
)
TECHNICAL_PREFIXES = ("baseline_", "rows_")
SCORED = ("prediction", "outcome", "baseline")


class BusinessMetric(BaseModel):
    """One value per entity, aggregated; computed wherever the technical metrics are, for the constant too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    title: str
    value: str = Field(description="Expression over prediction, outcome and baseline, the constant's answer.")
    aggregate: Literal["mean", "median", "sum"] = "mean"
    better: Literal["higher", "lower"] = "higher"
    gate: float | None = Field(
        None, description="Least (better: lower: most) on the test part without which a version is not promoted."
    )

    @field_validator("name")
    @classmethod
    def _own_name(cls, value: str) -> str:
        if value in TECHNICAL_METRICS or value.startswith(TECHNICAL_PREFIXES):
            raise ValueError("is the name of a technical metric. Choose another")
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
                raise ValueError(f"names {name!r}; there is {', '.join(SCORED)}")
        try:
            expression.check_types(dict.fromkeys(SCORED, "number"))
        except ExpressionError as error:
            raise ValueError(f"cannot be computed from numbers: {error}") from error
        return value

    @property
    def expression(self) -> Expression:
        return Expression(self.value)
