"""``ModelSpec``: what a model predicts, its source table, features, training, gates and monitoring."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from ml_pipeline.identifiers import is_model_name
from ml_pipeline.specs import temporal
from ml_pipeline.specs.base import Part
from ml_pipeline.specs.business_metric import BusinessMetric
from ml_pipeline.specs.expressions import ExpressionError
from ml_pipeline.specs.monitoring import Monitoring
from ml_pipeline.specs.names import IS_MISSING, TEXT, feature_name, text_lengths
from ml_pipeline.specs.preprocessing import Preprocessing, Selection
from ml_pipeline.specs.source import Label, Source
from ml_pipeline.specs.temporal import Temporal
from ml_pipeline.specs.training import Gate, Training

_OWNER = re.compile(r"team:\S.*|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")  # as Dagster takes them


class Features(Part):
    """Features of the model; all of them are known at event time."""

    text: list[str] = Field(
        [], description="Text columns, joined and used as TF-IDF reduced by SVD; their lengths are features too."
    )
    text_terms: int = Field(2000, ge=10, description="Largest number of TF-IDF terms.")
    text_components: int = Field(16, ge=1, description="Largest number of SVD components of the text.")
    categorical: list[str] = Field([], description="Columns of type category that are features.")
    numeric: list[str] = Field([], description="Columns of type number or boolean that are features.")
    calendar: bool = Field(True, description="Hour, weekday, day and month of the event time (UTC) as features.")
    history: list[str] = Field(
        [],
        description="Category columns; earlier outcomes, counts and open items of an entity's level become features.",
    )
    selection: Selection | None = Field(None, description="Feature selection; all features unless set.")
    # Excluded from the hash while off, so that versions trained before this key existed stay compatible.
    temporal: Temporal = Field(
        Temporal(),
        exclude_if=lambda temporal: temporal == Temporal(),
        description="Further feature families from time and history, all off by default.",
    )


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


class ModelSpec(Part):
    """Specification of one model; each tenant has its own versions of it."""

    name: str = Field(description="Name of the model: lower-case letters, digits and underscores, a letter first.")
    title: str = Field(description="Title of the model in reports and alerts.")
    task: Literal["regression", "binary"] = Field(description="Whether the label is a number, or 0 or 1.")
    owners: list[str] = Field(
        [], description="Owners of the model on Dagster's pages: e-mail addresses or `team:name`."
    )
    source: Source = Field(description="Table with one row per entity.")
    label: Label = Field(description="The value to predict.")
    features: Features = Field(description="Features of the model.")
    preprocessing: Preprocessing = Field(Preprocessing(), description="Preparation of numbers and categories.")
    training: Training = Field(description="Training rows, learners and model selection.")
    gate: Gate = Field(Gate(), description="What a version must reach before it may serve.")
    monitoring: Monitoring = Field(Monitoring(), description="Windows and error rates of the monitoring.")
    business_metrics: list[BusinessMetric] = Field([], description="Metrics in terms of the business.")
    max_open_days: int = Field(
        365, ge=1, description="Days after which an entity without an outcome is no longer predicted."
    )

    @property
    def headline_metric(self) -> str:
        """The metric of gate, reports and tables, ``mae`` or ``brier``; lower is better."""
        return "mae" if self.task == "regression" else "brier"

    @property
    def hash(self) -> str:
        """SHA-256 of the specification, without the keys that change no version and no report."""
        unrelated: dict[str, Any] = {"owners": True, "monitoring": {"checks"}}
        return hashlib.sha256(self.model_dump_json(exclude=unrelated).encode()).hexdigest()

    @property
    def feature_columns(self) -> FeatureColumns:
        """Columns of the feature frame that ``features.point_in_time.build`` returns for this specification."""
        chosen = self.features
        # Some columns belong to two families: the last outcome to lags and expanding, arrivals to history and queue.
        numeric = dict.fromkeys(name for name, _ in self._numeric)
        categorical = tuple(map(feature_name, chosen.categorical))
        return FeatureColumns(tuple(numeric), categorical, (TEXT,) if chosen.text else ())

    @property
    def _numeric(self) -> list[tuple[str, str]]:
        """Each numeric column of the feature frame, with its origin as text for messages."""
        chosen = self.features
        made = [(feature_name(column), f"features.numeric {column!r}") for column in chosen.numeric]
        for column in chosen.text:
            made += [(name, f"the lengths of features.text {column!r}") for name in text_lengths(column)]
        if chosen.calendar:
            made += [(name, temporal.CALENDAR) for name in CALENDAR]
        made += [(name, temporal.TENANT) for name in TENANT_HISTORY]
        for column in chosen.history:
            made += [(f"history_{column}_{part}", temporal.of_group(column)) for part in ("known", "mean", "open")]
        made += chosen.temporal.made(chosen.history)
        return made + [
            (temporal.product(*pair), f"features.temporal's product of {pair[0]!r} and {pair[1]!r}")
            for pair in chosen.temporal.pairs
        ]

    def in_place(self, country: str | None, time_zone: str | None) -> ModelSpec:
        """A copy for a tenant with its own country or time zone; None keeps the value of the specification.

        The hash differs, because a version that was trained with one country's holidays does not fit another country.
        """
        families = self.features.temporal
        if families.business and country:
            families = families.model_copy(update={"country": country})
        if families.is_local and time_zone:
            families = families.model_copy(update={"time_zone": time_zone})
        return self.model_copy(update={"features": self.features.model_copy(update={"temporal": families})})

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Names of the columns to read from the source, entity and event time first."""
        return tuple(dict.fromkeys([self.source.entity, self.source.event_time, *self.source.columns]))

    @field_validator("name")
    @classmethod
    def _identifier(cls, value: str) -> str:
        if not is_model_name(value):
            raise ValueError("use at most 63 lower-case letters, digits and underscores, a letter first")
        return value

    @field_validator("owners")
    @classmethod
    def _addresses_or_teams(cls, value: list[str]) -> list[str]:
        for owner in value:
            if not _OWNER.fullmatch(owner):
                raise ValueError(f"{owner!r} is neither an e-mail address nor 'team:' and a name. Correct it")
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
        kinds = {
            "text": ("text",),
            "categorical": ("category",),
            "numeric": ("number", "boolean"),
            "history": ("category",),
        }
        of_label = {name for expression in self.label.expressions for name in expression.names}
        for key, allowed in kinds.items():
            columns = getattr(self.features, key)
            for column in columns:
                where = f"features.{key} names {column!r}"
                if columns.count(column) > 1:
                    raise ValueError(f"{where} more than once. Remove it there")
                if column not in declared:
                    raise ValueError(f"{where}, which source.columns does not declare. Declare it there or remove it")
                if declared[column].known_at == "label":
                    raise ValueError(
                        f"{where}, which is known only at label time (source column {column!r}, known_at: label). "
                        "Remove it"
                    )
                if column in of_label:
                    raise ValueError(
                        f"{where}, which label.value uses: the label would be its own feature. Remove it, or, if it is "
                        "known at event time and never changes later, give it a second name in a view"
                    )
                if declared[column].type not in allowed:
                    raise ValueError(
                        f"{where}, a column of type {declared[column].type}; this list takes {' or '.join(allowed)}"
                    )
        self._check_target_encoding()
        self.features.temporal.check(self.features.numeric, self.feature_columns.numeric)
        self._check_names()
        self._check_entity()
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
                        f"source.{key} filters by {column!r}, which is known only at label time and missing for open "
                        "entities. Remove it, or exclude labels with label.above and label.at_most"
                    )
        self._check_label_types()
        for column, levels in self.source.include.items():
            if self.source.type_of(column) == "boolean" and not {*levels} <= {"true", "false", None}:
                raise ValueError(
                    f'source.include.{column} is {levels}; a boolean column takes "true", "false" and null'
                )
        for column in used["label.time"]:
            if column in declared and declared[column].type != "time":
                raise ValueError(f"label.time names {column!r}, which is a {declared[column].type} column, not a time")
        if self.training.estimator in self.training.candidates:
            raise ValueError(
                f"training.candidates names {self.training.estimator!r}, which is training.estimator already. Remove it"
            )
        needed = {"online": "regression", "mean": "binary"}.get(self.training.ensemble, self.task)
        if self.task != needed:
            raise ValueError(
                f"training.ensemble is {self.training.ensemble!r}, which is for task {needed!r}; the task is "
                f"{self.task!r}. Use another ensemble"
            )
        if self.task == "binary" and self.training.loss != "log_loss":
            raise ValueError(f"training.loss is {self.training.loss!r}; a binary model takes log_loss")
        if self.task == "regression" and self.training.loss == "log_loss":
            raise ValueError("training.loss is 'log_loss'; a regression takes absolute_error or squared_error")
        return self

    def _check_names(self) -> None:
        """Raise ValueError if two features would have the same name, so that one would replace the other."""
        made = self._numeric
        made += [(feature_name(column), f"features.categorical {column!r}") for column in self.features.categorical]
        numeric = self.feature_columns.numeric
        made += [(f"{name}{IS_MISSING}", f"the flag of missing values of {name!r}") for name in numeric]
        owners: dict[str, str] = {}
        for name, owner in made:
            if owners.setdefault(name, owner) != owner:
                raise ValueError(
                    f"{owners[name]} and {owner} both give the feature {name!r}. Rename the column in a view"
                )

    def _check_entity(self) -> None:
        kind = self.source.type_of(self.source.entity)
        if kind not in ("category", "text"):
            raise ValueError(
                f"source.entity names {self.source.entity!r}, which source.columns declares as {kind}; an identifier "
                "must be an exact text. Declare it as category, or remove it there"
            )

    def _check_label_types(self) -> None:
        types = {column: self.source.type_of(column) for column in self.source_columns}
        for expression in self.label.expressions:
            try:
                expression.check_types(types)
            except ExpressionError as error:
                raise ValueError(f"label.value: {error}") from error

    def _check_target_encoding(self) -> None:
        encoding = self.preprocessing.categorical
        without = [name for name in self.features.categorical if name not in self.features.history]
        if without and "target" in (encoding if isinstance(encoding, list) else [encoding]):
            raise ValueError(
                f"preprocessing.categorical is {encoding!r}; 'target' uses the history features of a column, which "
                f"{without} do not have. Add them to features.history"
            )
