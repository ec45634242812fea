"""How a version is trained, and what it must reach before it may serve."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ml_pipeline.specs.base import Part
from ml_pipeline.specs.search import Search

LearnerName = Literal["xgboost", "lightgbm", "hist_gradient_boosting", "random_forest", "linear"]


class Training(Part):
    """Which rows a version is trained on, and with which learner."""

    window_days: int = Field(730, ge=1, description="Age of the oldest training row; widens when it holds too few.")
    min_rows: int = Field(100, ge=10, description="Matured samples below which nothing is trained.")
    test_share: float = Field(0.25, gt=0, lt=0.6)
    validation_share: float = Field(0.20, gt=0, lt=0.4)
    estimator: LearnerName
    params: dict[str, float | int | str] = {}
    candidates: dict[LearnerName, dict[str, float | int | str]] = Field(
        {"linear": {}}, description="Further learners of the race, each with its parameters."
    )
    ensemble: Literal["voting", "stacking", "none"] = Field(
        "voting", description="How the candidates answer together; 'none': the best one alone."
    )
    min_improvement_se: float = Field(
        1.0,
        description="Standard errors by which a loss on held-out rows must be below the constant's before learners may "
        "answer; negative: they answer unless it is above by as many.",
    )
    share: Literal["none", "opt_in"] = Field(
        "none",
        description="'opt_in': what is typical of the other tenants that share (`ml-pipeline set share on`) races as a "
        "constant of its own; nothing else ever crosses.",
    )
    recency_half_life_days: float | None = Field(
        None, gt=0, description="Age at which a row counts half in a fit; all count alike unless set."
    )
    latency_ms: float | None = Field(
        None, gt=0, description="Most milliseconds that one prediction may take; the slowest members go until it holds."
    )
    calibration: Literal["auto", "none", "temperature", "sigmoid", "isotonic"] = Field(
        "auto", description="Of a binary model's probabilities; 'auto': what held-out rows prefer."
    )
    search: Search | None = Field(None, description="Searches for better parameters than `params`; off unless set.")
    loss: Literal["absolute_error", "squared_error", "log_loss"]
    target: Literal["identity", "log"] = "identity"
    interval: float = Field(0.9, gt=0, lt=1, description="Nominal coverage of the prediction interval (regression).")
    slice_by: str | None = Field(None, description="Column whose levels get metrics of their own in each evaluation.")
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _linear_once(cls, values: Any) -> Any:
        """A linear model is a candidate unless the specification says otherwise; declared, it is none beside itself."""
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

    min_skill: float = Field(
        0.0, description="1 - loss / loss of the constant baseline, on the test part; must be exceeded."
    )
    min_quality: float = Field(
        40.0, ge=0, le=100, description="Data-quality score of the snapshot below which nothing is trained."
    )
    min_quality_of: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        {}, description="The same for a dimension or a single measure of the data quality."
    )

    @field_validator("min_quality_of")
    @classmethod
    def _known_parts(cls, value: dict[str, float]) -> dict[str, float]:
        known = [*QUALITY, *(measure for measures in QUALITY.values() for measure in measures)]
        for name in value:
            if name not in known:
                raise ValueError(
                    f"{name!r} is neither a dimension nor a measure of data quality. Take one of {', '.join(known)}"
                )
        return value
