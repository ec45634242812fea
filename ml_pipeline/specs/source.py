"""What is asked: the table with an entity a row, and the label that is to be foreseen."""

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

    type: Literal["text", "category", "number", "boolean", "time"]
    known_at: Literal["created", "label"] = "created"


class LabelTime(NamedTuple):
    """One way to know when a label was known: a time column, plus an assumed delay in days."""

    column: str
    delay: dt.timedelta


class Source(Part):
    """The table or view that holds one row per entity."""

    table: str = Field(description="schema.name of a table or view.")
    url: str | None = Field(
        None, description="PostgreSQL URL, or env:VARIABLE; the pipeline's own database unless set."
    )
    # Not part of the question, so of no hash: a version answers the same whoever keeps tenants apart.
    isolation: Literal["row_level_security", "filter"] = Field(
        "row_level_security",
        exclude=True,
        description="What keeps tenants apart in a source of the pipeline's own database. filter: the pipeline filters "
        "by the tenant column; nothing else enforces it.",
    )
    tenant: str = "tenant_id"
    entity: str
    event_time: str
    columns: dict[str, Column]
    include: dict[str, list[str | None]] = Field(
        {}, description="Allowed levels per column; null allows a missing value."
    )
    require: list[str] = Field([], description="Columns that must have a value (for text: be non-blank).")

    def type_of(self, column: str) -> str:
        """The declared type of a source column; an identifier is a category."""
        if column == self.event_time:
            return "time"
        return self.columns[column].type if column in self.columns else "category"

    @field_validator("table")
    @classmethod
    def _schema_and_name(cls, value: str) -> str:
        if not _TABLE.fullmatch(value):
            raise ValueError("write it as schema.name, letters, digits and underscores only")
        return value


class Label(Part):
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
            terms.append(LabelTime(match["column"], dt.timedelta(days=int(match["days"] or 0))))
        return terms
