"""``Training`` and ``Gate``: how a version is trained, and what it must reach before it may serve."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ml_pipeline.specs.base import Part
from ml_pipeline.specs.search import Search

LearnerName = Literal["xgboost", "lightgbm", "hist_gradient_boosting", "random_forest", "linear"]


class Training(Part):
    """Training rows, learners and model selection."""

    window_days: int = Field(
        730, ge=1, description="Age of the oldest training row in days; doubled if the window has too few rows."
    )
    min_rows: int = Field(100, ge=10, description="Matured rows that a training needs.")
    test_share: float = Field(0.25, gt=0, lt=0.6, description="Share of the rows, the newest, for the test part.")
    validation_share: float = Field(
        0.20, gt=0, lt=0.4, description="Share of the rows, those before the test part, for model selection."
    )
    estimator: LearnerName = Field(description="The declared learner; parameter search and preprocessing are for it.")
    params: dict[str, float | int | str] = Field(
        {}, description="Parameters of the estimator by the library's own names; its defaults unless set."
    )
    candidates: dict[LearnerName, dict[str, float | int | str]] = Field(
        {"linear": {}}, description="Further candidates of the model selection, each with its parameters."
    )
    ensemble: Literal["voting", "stacking", "none"] = Field(
        "voting", description="How the candidates are combined; 'none' selects the best single candidate."
    )
    min_improvement_se: float = Field(
        1.0,
        description="Standard errors by which the loss on held-out rows must be below the baseline's before a learner "
        "is selected. Negative: a learner is selected unless its loss is above by as many.",
    )
    share: Literal["none", "opt_in"] = Field(
        "none",
        description="'opt_in': the typical label of the other tenants that share (`ml-pipeline set share on`) takes "
        "part in the model selection as a further baseline; no other data are shared.",
    )
    recency_half_life_days: float | None = Field(
        None, gt=0, description="Age in days at which the weight of a row is halved; unless set, all weights are equal."
    )
    latency_ms: float | None = Field(
        None,
        gt=0,
        description="Milliseconds that one prediction may take; slow members of the ensemble are dropped to reach it.",
    )
    calibration: Literal["auto", "none", "temperature", "sigmoid", "isotonic"] = Field(
        "auto", description="Calibration of a binary model's probabilities; 'auto' selects it on held-out rows."
    )
    search: Search | None = Field(None, description="Search for better parameters than `params`; off unless set.")
    loss: Literal["absolute_error", "squared_error", "log_loss"] = Field(
        description="Loss of the fits; log_loss for binary models."
    )
    target: Literal["identity", "log"] = Field(
        "identity", description="Scale of the label in fits and history features; 'log' is log(1 + label)."
    )
    interval: float = Field(0.9, gt=0, lt=1, description="Nominal coverage of the prediction interval (regression).")
    slice_by: str | None = Field(None, description="Column whose levels get their own metrics in each evaluation.")
    seed: int = Field(0, description="Seed of all fits; equal seeds give equal versions.")

    @model_validator(mode="before")
    @classmethod
    def _linear_once(cls, values: Any) -> Any:
        """Drop the default candidate ``linear`` if it is the declared estimator."""
        if isinstance(values, dict) and values.get("estimator") == "linear":
            return {"candidates": {}, **values}
        return values


QUALITY = {
    "completeness": ("missing", "text_emptiness", "label_maturity", "freshness", "time_gaps"),
    "consistency": ("duplicates", "inconsistent_categories", "type_mix", "unseen_levels", "volume_trend"),
    "validity": ("outliers", "impossible_times", "constant_columns", "leakage", "class_balance"),
}


class Gate(Part):
    """What a version must reach before it may serve."""

    min_skill: float = Field(0.0, description="1 - loss / loss of the baseline on the test part; must be exceeded.")
    min_quality: float = Field(
        40.0, ge=0, le=100, description="Data quality score (0 to 100) that a snapshot needs for a training."
    )
    min_quality_of: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        {}, description="Scores that dimensions or single measures of the data quality need, by name."
    )

    @field_validator("min_quality_of")
    @classmethod
    def _known_parts(cls, value: dict[str, float]) -> dict[str, float]:
        known = [*QUALITY, *(measure for measures in QUALITY.values() for measure in measures)]
        for name in value:
            if name not in known:
                raise ValueError(
                    f"{name!r} is not a dimension or measure of data quality. Use one of {', '.join(known)}"
                )
        return value
