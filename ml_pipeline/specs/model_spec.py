"""``ModelSpec``: what a model predicts, from which table, with which features, and when it is good enough."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ml_pipeline.features.expressions import Expression, ExpressionError
from ml_pipeline.specs.business_metric import BusinessMetric
from ml_pipeline.specs.preprocessing import Preprocessing, Selection
from ml_pipeline.specs.search_spec import Search
from ml_pipeline.specs.temporal import Temporal, product

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")
_TIME_TERM = re.compile(r"(?P<column>[A-Za-z_][A-Za-z0-9_]*)(?:\s*\+\s*(?P<days>\d+)d)?")


class SpecError(Exception):
    """A model specification cannot be used; the message names file, key, value and remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Part):
    """A source column: its type, and when its value is known."""

    type: Literal["text", "category", "number", "time"]
    known_at: Literal["created", "label"] = "created"


class LabelTime(NamedTuple):
    """One way to know when a label was known: a time column, plus an assumed delay in days."""

    column: str
    delay: pd.Timedelta


class Source(_Part):
    """The table or view that holds one row per entity."""

    table: str = Field(description="schema.name of a table or view.")
    url: str | None = Field(
        None, description="PostgreSQL URL, or env:VARIABLE; the pipeline's own database unless set."
    )
    tenant: str = "tenant_id"
    entity: str
    event_time: str
    columns: dict[str, Column]
    include: dict[str, list[str | None]] = Field(
        {}, description="Allowed levels per column; null allows a missing value."
    )
    require: list[str] = Field([], description="Columns that must have a value (for text: be non-blank).")

    @field_validator("table")
    @classmethod
    def _schema_and_name(cls, value: str) -> str:
        if not _TABLE.fullmatch(value):
            raise ValueError("write it as schema.name, letters, digits and underscores only")
        return value


class Label(_Part):
    """The value to predict. ``value`` lists expressions; a row takes the first that it has all columns for."""

    value: list[str]
    time: list[str] = Field(
        description="When the label was known: the first of these that the row has ('column' or 'column + 14d')."
    )
    above: float | None = None
    at_most: float | None = None
    unit: str = ""
    unit_size: float = Field(
        1.0, gt=0, description="Size of the reported unit in units of the expression (86400 for days)."
    )
    feedback: bool = Field(
        False, description="Train on what people accepted and corrected too, while there is no outcome yet."
    )

    @field_validator("value", "time", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("value")
    @classmethod
    def _parses(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                Expression(text)
            except ExpressionError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("time")
    @classmethod
    def _time_terms(cls, value: list[str]) -> list[str]:
        for term in value:
            if not _TIME_TERM.fullmatch(term.strip()):
                raise ValueError(f"{term!r} is neither 'column' nor 'column + 14d'")
        return value

    @property
    def expressions(self) -> list[Expression]:
        return [Expression(text) for text in self.value]

    @property
    def times(self) -> list[LabelTime]:
        terms = []
        for term in self.time:
            match = _TIME_TERM.fullmatch(term.strip())
            if match is None:  # refused by the validator above
                raise ValueError(term)
            terms.append(LabelTime(match["column"], pd.Timedelta(days=int(match["days"] or 0))))
        return terms


class Features(_Part):
    """What the model sees. Everything here is known at event time."""

    text: list[str] = Field(
        [], description="Text columns, joined, as TF-IDF reduced by SVD; their lengths are features too."
    )
    text_terms: int = Field(2000, ge=10)
    text_components: int = Field(16, ge=1)
    categorical: list[str] = []
    numeric: list[str] = []
    calendar: bool = True
    history: list[str] = Field(
        [], description="Columns whose level's earlier outcomes, counts and open items are features."
    )
    selection: Selection | None = Field(None, description="Which of the features the learner gets; all unless set.")
    # Left out of the hash while it is off: a version trained before there was such a key answers the same question.
    temporal: Temporal = Field(
        Temporal(),
        exclude_if=lambda temporal: temporal == Temporal(),
        description="Families of columns about time and history, all off.",
    )


LearnerName = Literal["xgboost", "lightgbm", "hist_gradient_boosting", "random_forest", "linear"]


class Training(_Part):
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


class Gate(_Part):
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


Target = Literal["r2", "mae", "mdae", "rmse", "f1", "precision", "recall", "accuracy", "roc_auc", "brier", "ece"]


class Monitoring(_Part):
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

    @model_validator(mode="after")
    def _ordered(self) -> Monitoring:
        if not self.baseline_from > self.baseline_to >= self.current:
            raise ValueError("needs baseline_from > baseline_to >= current, so that the windows do not overlap")
        return self


class FeatureColumns(NamedTuple):
    """Names of the columns of a feature frame, by type."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    text: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return self.numeric + self.categorical + self.text


CALENDAR = ("calendar_hour", "calendar_weekday", "calendar_day", "calendar_month")
TENANT_HISTORY = (
    "history_known",
    "history_mean",
    "history_recent_median",
    "history_open",
    "history_arrivals_7d",
    "history_arrivals_30d",
)


class ModelSpec(_Part):
    """One model: a question that is answered per tenant."""

    name: str
    title: str
    task: Literal["regression", "binary"]
    source: Source
    label: Label
    features: Features
    preprocessing: Preprocessing = Preprocessing()
    training: Training
    gate: Gate = Gate()
    monitoring: Monitoring = Monitoring()
    business_metrics: list[BusinessMetric] = []
    max_open_days: int = Field(
        365, ge=1, description="Entities without an outcome after this many days are not scored."
    )

    @property
    def headline_metric(self) -> str:
        """The metric of the gate and of every table: lower is better for both."""
        return "mae" if self.task == "regression" else "brier"

    @property
    def hash(self) -> str:
        """SHA-256 of everything that the specification says."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def feature_columns(self) -> FeatureColumns:
        """Columns of the frame that ``features.point_in_time.build`` makes from this specification."""
        chosen = self.features
        numeric = list(chosen.numeric)
        for column in chosen.text:
            numeric += [f"{column}_chars", f"{column}_words"]
        if chosen.calendar:
            numeric += CALENDAR
        numeric += TENANT_HISTORY
        for column in chosen.history:
            numeric += [f"history_{column}_known", f"history_{column}_mean", f"history_{column}_open"]
        numeric += chosen.temporal.columns(chosen.history)
        numeric += [product(*pair) for pair in chosen.temporal.pairs]
        # The last outcome is a lag and part of the whole past too; arrivals are a history and a queue.
        numeric = list(dict.fromkeys(numeric))
        return FeatureColumns(tuple(numeric), tuple(chosen.categorical), ("text",) if chosen.text else ())

    def in_place(self, country: str | None, time_zone: str | None) -> ModelSpec:
        """The same model for a tenant that has a country or a clock of its own; None leaves the specification's.

        Its hash is another: a version that learned one country's holidays answers nothing in another.
        """
        temporal = self.features.temporal
        if temporal.business and country:
            temporal = temporal.model_copy(update={"country": country})
        if temporal.is_local and time_zone:
            temporal = temporal.model_copy(update={"time_zone": time_zone})
        return self.model_copy(update={"features": self.features.model_copy(update={"temporal": temporal})})

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Columns that are read from the source, entity and event time first."""
        return tuple(dict.fromkeys([self.source.entity, self.source.event_time, *self.source.columns]))

    @field_validator("name")
    @classmethod
    def _identifier(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("use lower-case letters, digits and underscores, a letter first, at most 63")
        return value

    @field_validator("business_metrics")
    @classmethod
    def _distinct(cls, value: list[BusinessMetric]) -> list[BusinessMetric]:
        names = [metric.name for metric in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two metrics are named {name!r}. Rename one of them")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        declared = self.source.columns
        kinds = {"text": ("text",), "categorical": ("category",), "numeric": ("number",), "history": ("category",)}
        for key, allowed in kinds.items():
            for column in getattr(self.features, key):
                where = f"features.{key} names {column!r}"
                if column not in declared:
                    raise ValueError(f"{where}, which source.columns does not declare. Declare it there or remove it")
                if declared[column].known_at == "label":
                    raise ValueError(
                        f"{where}, which is known only at label time (source column {column!r}, known_at: label). "
                        "Remove it"
                    )
                if declared[column].type not in allowed:
                    raise ValueError(
                        f"{where}, a column of type {declared[column].type}; this list takes {' or '.join(allowed)}"
                    )
        self._check_target_encoding()
        self.features.temporal.check(self.features.numeric, self.features.history, self.feature_columns.numeric)
        used = {
            "source.include": list(self.source.include),
            "source.require": self.source.require,
            "label.value": [name for expression in self.label.expressions for name in expression.names],
            "label.time": [term.column for term in self.label.times],
            "training.slice_by": [self.training.slice_by] if self.training.slice_by else [],
            "training.search.group": [search.group] if (search := self.training.search) and search.group else [],
        }
        for key, columns in used.items():
            for column in columns:
                if column not in declared and column != self.source.event_time:
                    raise ValueError(f"{key} names {column!r}, which source.columns does not declare. Declare it there")
        for key in ("include", "require"):
            for column in getattr(self.source, key):
                if column in declared and declared[column].known_at == "label":
                    raise ValueError(
                        f"source.{key} filters by {column!r}, which is known only at label time: open entities could "
                        "not be told apart. Remove it, or exclude by label.above and label.at_most"
                    )
        for column in used["label.time"]:
            if column in declared and declared[column].type != "time":
                raise ValueError(f"label.time names {column!r}, which is a {declared[column].type} column, not a time")
        if self.training.estimator in self.training.candidates:
            raise ValueError(
                f"training.candidates names {self.training.estimator!r}, which is training.estimator already. Remove it"
            )
        if self.task == "binary" and self.training.loss != "log_loss":
            raise ValueError(f"training.loss is {self.training.loss!r}; a binary model takes log_loss")
        if self.task == "regression" and self.training.loss == "log_loss":
            raise ValueError("training.loss is 'log_loss'; a regression takes absolute_error or squared_error")
        return self

    def _check_target_encoding(self) -> None:
        encoding = self.preprocessing.categorical
        without = [name for name in self.features.categorical if name not in self.features.history]
        if without and "target" in (encoding if isinstance(encoding, list) else [encoding]):
            raise ValueError(
                f"preprocessing.categorical is {encoding!r}, and 'target' takes the earlier outcomes of a level from "
                f"its history, which {without} lack. Add them to features.history"
            )


def load_spec(path: Path) -> ModelSpec:
    """The specification in one YAML file.

    Raises
    ------
    SpecError
        If the file is not YAML or not a specification; every problem is listed with its key and value.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise SpecError(f"{path}: holds {type(content).__name__}, not a mapping. See docs/add-a-model.md")
    try:
        return ModelSpec.model_validate(content)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "missing":
                problems.append(f"{key}: is missing. Add it")
            elif problem["type"] == "extra_forbidden":
                problems.append(f"{key}: is no key of a specification (value {problem['input']!r}). Remove it")
            elif key:
                problems.append(f"{key}: {problem['input']!r}: {message}")
            else:
                problems.append(message)
        raise SpecError(f"{path}: " + "; ".join(problems) + ".") from error


def load_specs(folders: Iterable[Path] = ()) -> dict[str, ModelSpec]:
    """Every specification shipped with the package and in ``folders``, by name, in name order.

    Raises
    ------
    SpecError
        If a file is wrong, a folder is missing, or two files describe the same model.
    """
    specs: dict[str, ModelSpec] = {}
    for folder in (Path(__file__).parent, *folders):
        if not folder.is_dir():
            raise SpecError(f"{folder}: is not a folder. Correct ML_PIPELINE_SPECS")
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
            spec = load_spec(path)
            if spec.name in specs:
                raise SpecError(f"{path}: name: {spec.name!r} is described by another file too. Rename one of them")
            specs[spec.name] = spec
    return dict(sorted(specs.items()))
