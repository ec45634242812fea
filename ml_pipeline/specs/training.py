"""``Training`` and ``Gate``: how a version is trained, and what it must reach before it may serve."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ml_pipeline.specs.base import Part
from ml_pipeline.specs.experts import MEAN_EXPERTS, ONLINE_EXPERTS, TRAINING, kind_and_number
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
    ensemble: Literal["voting", "stacking", "none", "online", "mean"] = Field(
        "voting",
        description="How the candidates are combined; 'none' selects the best single candidate. 'online' weights "
        "`experts` by every outcome that matures (regression), 'mean' gives them equal weight (binary).",
    )
    experts: tuple[str, ...] | None = Field(
        None,
        exclude_if=lambda experts: experts is None,
        description="Experts of an 'online' or 'mean' ensemble: `last:N` outcomes, `half_life:DAYS`, the last N "
        "outcomes of its `group:N` (the first column of features.history that is also in features.categorical), "
        "`training` labels, a `forest:DAYS` whose leaves are refilled every night with this half-life, N "
        "`neighbours:N` with similar text, and `learners`, one per candidate. Unless set, all of them for 'online'; "
        "the learners and three forests for 'mean'.",
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

    @property
    def is_mixture(self) -> bool:
        """Whether every expert keeps a say, instead of a candidate being selected."""
        return self.ensemble in ("online", "mean")

    @property
    def mixed_experts(self) -> tuple[str, ...]:
        """The experts of the mixture."""
        return self.experts or (ONLINE_EXPERTS if self.ensemble == "online" else MEAN_EXPERTS)

    @field_validator("experts")
    @classmethod
    def _known_experts(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            kind_and_number(name)
            if value is not None and value.count(name) > 1:
                raise ValueError(f"{name!r} occurs more than once. Remove it there")
        return value

    @model_validator(mode="after")
    def _experts_of_a_mixture(self) -> Training:
        if self.experts is not None and not self.is_mixture:
            raise ValueError(
                f"training.experts needs training.ensemble 'online' or 'mean'; it is {self.ensemble!r}. Change it, or "
                "remove the experts"
            )
        awake = (TRAINING, "last", "half_life", "group", "forest")
        if self.ensemble == "mean" and not any(kind_and_number(name)[0] in awake for name in self.mixed_experts):
            raise ValueError(
                f"training.experts is {list(self.mixed_experts)}, which can all be without a forecast for an entity. "
                "Add 'forest:365'"
            )
        if self.ensemble == "online" and TRAINING not in self.mixed_experts:
            raise ValueError(
                "training.experts lacks 'training', the only expert that can forecast before any outcome is known. "
                "Add it"
            )
        if self.is_mixture and self.share == "opt_in":
            raise ValueError(
                f"training.share is 'opt_in'; the pooled value is a candidate, and training.ensemble {self.ensemble!r} "
                "selects none. Use ensemble 'voting', or remove share"
            )
        if self.experts is not None and not self.experts:
            raise ValueError("training.experts is empty. Name at least one expert, or remove the key")
        return self

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
