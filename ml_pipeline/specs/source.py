"""``Source`` and ``Label``: the table with one row per entity, and the value to predict."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from ml_pipeline.specs.base import Part
from ml_pipeline.specs.expressions import Expression, ExpressionError

_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")
_TIME_TERM = re.compile(r"(?P<column>[A-Za-z_][A-Za-z0-9_]*)(?:\s*\+\s*(?P<days>\d+)d)?")


class Column(Part):
    """A source column: its type, and when its value is known."""

    type: Literal["text", "category", "number", "boolean", "time"] = Field(description="Type of the values.")
    known_at: Literal["created", "label"] = Field(
        "created",
        description="When the value is known: at the event time (created), or only with the label (label). Columns "
        "known at label time cannot be features.",
    )


class LabelTime(NamedTuple):
    """A term of ``label.time``: a time column plus an assumed delay."""

    column: str
    delay: dt.timedelta


class Source(Part):
    """The table or view with one row per entity."""

    table: str = Field(description="schema.name of a table or view.")
    url: str | None = Field(
        None, description="PostgreSQL URL, or env:VARIABLE; the pipeline's own database unless set."
    )
    # Excluded from the hash, because tenant isolation does not change what a version predicts.
    isolation: Literal["row_level_security", "filter"] = Field(
        "row_level_security",
        exclude=True,
        description="Tenant isolation of a source in the pipeline's own database: row-level security, or only a filter "
        "by the tenant column in the pipeline's queries.",
    )
    tenant: str = Field("tenant_id", description="Column with the tenant of a row.")
    entity: str = Field(description="Column that identifies the entity.")
    event_time: str = Field(description="Time column: when the entity began and is to be predicted.")
    columns: dict[str, Column] = Field(description="Columns to read, by name; all others are ignored.")
    include: dict[str, list[str | None]] = Field(
        {}, description="Allowed levels per column; null allows a missing value."
    )
    require: list[str] = Field([], description="Columns that must have a value (for text: not blank).")

    def type_of(self, column: str) -> str:
        """The declared type of a source column; an identifier is a category."""
        if column == self.event_time:
            return "time"
        return self.columns[column].type if column in self.columns else "category"

    @field_validator("table")
    @classmethod
    def _schema_and_name(cls, value: str) -> str:
        if not _TABLE.fullmatch(value):
            raise ValueError("write it as schema.name, with letters, digits and underscores only")
        return value


class Label(Part):
    """The value to predict."""

    value: list[str] = Field(
        description="Expressions for the label; a row uses the first one whose columns all have a value."
    )
    time: list[str] = Field(
        description="When the label was known ('column' or 'column + 14d'): the first term, or the earliest of the "
        "others if the row lacks the first."
    )
    above: float | None = Field(
        None, description="Labels must be greater than this, in units of the expression; others are excluded."
    )
    at_most: float | None = Field(
        None, description="Labels must not be greater than this, in units of the expression; others are excluded."
    )
    unit: str = Field("", description="Name of the reported unit, such as days.")
    unit_size: float = Field(
        1.0, gt=0, description="Size of the reported unit in units of the expression (86400 for days)."
    )
    feedback: bool = Field(
        False, description="Train on accepted and corrected predictions too, until the outcome is known."
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
                raise ValueError(f"{term!r} must be written as 'column' or 'column + 14d'")
        return value

    @property
    def expressions(self) -> list[Expression]:
        return [Expression(text) for text in self.value]

    @property
    def times(self) -> list[LabelTime]:
        terms = []
        for term in self.time:
            match = _TIME_TERM.fullmatch(term.strip())
            if match is None:  # rejected by the validator above
                raise ValueError(term)
            terms.append(LabelTime(match["column"], dt.timedelta(days=int(match["days"] or 0))))
        return terms
