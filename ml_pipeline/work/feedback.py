"""Feedback of people on predictions: checked, stored in ``ml.feedback``, and read as known at an as-of time."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml_pipeline.errors import UserError
from ml_pipeline.features.feedback import ACCEPTED, CORRECTED, FEEDBACK_COLUMNS, REJECTED, VERDICTS, usable
from ml_pipeline.importers.checking import Problems, type_columns
from ml_pipeline.importers.flow import time_zone
from ml_pipeline.importers.mapping import Column
from ml_pipeline.importers.reading import Chunk, read_chunks
from ml_pipeline.importers.summary import ImportFailed, ImportSummary
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec

COLUMNS = (
    Column("entity_id", "level", ("entity",), required=True),
    Column("verdict", "level", required=True),
    Column("value", "level"),  # read as a number below: a label may be negative
    Column("weight", "number"),
    Column("given_by", "level", ("by",)),
    Column("given_at", "time", ("at",)),
)


class BadFeedback(UserError, ValueError):
    """A feedback record cannot be stored; the message says what is wrong with it."""


@dataclass(frozen=True)
class FeedbackRecord:
    """Feedback of one person on one prediction.

    Parameters
    ----------
    verdict : str
        ``accepted``, ``corrected`` or ``rejected``.
    value : float or None
        The corrected value in the label's reported unit; None unless the verdict is ``corrected``.
    weight : float
        Weight in a training, above 0 and at most 1; an outcome has weight 1.
    """

    entity_id: str
    given_at: dt.datetime
    given_by: str
    verdict: str
    value: float | None
    weight: float


def store_feedback(
    warehouse: Warehouse, spec: ModelSpec, tenant: str, given: pd.DataFrame, problems: Problems, now: dt.datetime
) -> pd.DataFrame:
    """Stores the valid rows and marks the others in ``problems``; returns the stored rows.

    Each row must follow a live prediction of its entity, whose value and version are stored with it. A row with the
    entity, person and time of a stored row replaces that one. For a binary model, an accepted probability counts as the
    class that it makes more likely.

    Parameters
    ----------
    given : DataFrame
        Typed ``FEEDBACK_COLUMNS``; ``value`` in the label's reported unit, given for corrections only.
    problems : Problems
        With the same index as ``given``.
    """
    _check(spec, given, problems, now)
    with warehouse.tenant(tenant) as connection:
        said = _predictions_before(connection, spec, tenant, given[problems.good])
        given = given.join(said)
        problems.add(given["predicted"].isna(), "there is no prediction before it", given["entity_id"])
        stored = given[problems.good]
        answer = (stored["predicted"] >= 0.5).astype(float) if spec.task == "binary" else stored["predicted"]
        stored = stored.assign(value=stored["value"].where(stored["verdict"] != ACCEPTED, answer))
        warehouse.upsert(connection, tables.feedback, _rows(spec, tenant, stored))
    return stored


def store_one(
    warehouse: Warehouse, spec: ModelSpec, tenant: str, record: FeedbackRecord, now: dt.datetime
) -> dict[str, Any]:
    """Stores a single record; returns it with the prediction that it is about.

    Raises
    ------
    BadFeedback
        If the record is invalid.
    """
    given = _typed(pd.DataFrame([astuple(record)], columns=list(FEEDBACK_COLUMNS)))
    problems = Problems(given.index)
    stored = store_feedback(warehouse, spec, tenant, given, problems, now)
    if stored.empty:
        raise BadFeedback(
            f"tenant {tenant}, model {spec.name}, {record.entity_id}: {problems.message(0)}. Nothing was stored"
        )
    return _rows(spec, tenant, stored)[0]


def import_feedback(
    warehouse: Warehouse, spec: ModelSpec, tenant: str, path: Path, *, given_by: str, timezone: str, now: dt.datetime
) -> ImportSummary:
    """Stores the rows of a CSV file; invalid rows are stored in ``ml.quarantine`` with their reason.

    ``given_by`` and ``now`` apply to rows without a person or time, ``timezone`` to times without an offset.

    Raises
    ------
    ImportFailed
        If the file cannot be read, lacks ``entity_id`` or ``verdict``, the time zone is unknown, or all rows are
        invalid.
    """
    read, loaded, zone = 0, 0, time_zone(timezone)
    reasons: Counter[str] = Counter()
    with warehouse.tenant(tenant) as connection:  # of an earlier import of the file
        table = tables.quarantine
        connection.execute(sa.delete(table).where(table.c.tenant_id == tenant, table.c.file == path.name))
    for chunk in read_chunks(path, COLUMNS):
        raw = pd.DataFrame([record.values for record in chunk.records], columns=chunk.names)
        problems = Problems(raw.index)
        typed = type_columns(raw, COLUMNS, zone, problems, now).reindex(columns=list(FEEDBACK_COLUMNS))
        value = pd.to_numeric(typed["value"], errors="coerce")
        problems.add(typed["value"].notna() & value.isna(), "value is not a number", typed["value"])
        given = _typed(typed.assign(value=value, verdict=typed["verdict"].str.casefold()))
        missing = {"given_at": pd.Timestamp(now), "given_by": given_by, "weight": 1.0}
        loaded += len(store_feedback(warehouse, spec, tenant, given.fillna(missing), problems, now))
        read += len(chunk)
        reasons.update([record.problem for record in chunk.rejected] + problems.kind.dropna().tolist())
        _quarantine(warehouse, tenant, path.name, chunk, problems)
    if not loaded:
        found = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        raise ImportFailed(f"{path.name}: all {read:,} rows are invalid: {found}. See ml.quarantine for each row")
    return ImportSummary(path.name, read, loaded, 0, read - loaded, dict(reasons.most_common()), (tenant,))


def read_feedback(warehouse: Warehouse, spec: ModelSpec, tenant: str, as_of: dt.datetime) -> pd.DataFrame:
    """``FEEDBACK_COLUMNS`` of the feedback that was given up to ``as_of``."""
    table = tables.feedback
    query = sa.select(*(table.c[name] for name in FEEDBACK_COLUMNS)).where(
        table.c.tenant_id == tenant, table.c.model == spec.name, table.c.given_at <= as_of
    )
    with warehouse.tenant(tenant) as connection:
        return _typed(pd.DataFrame(connection.execute(query).all(), columns=list(FEEDBACK_COLUMNS)))


def _check(spec: ModelSpec, given: pd.DataFrame, problems: Problems, now: dt.datetime) -> None:
    verdict, value = given["verdict"], given["value"]
    corrected = verdict == CORRECTED
    problems.add(~verdict.isin(VERDICTS), f"verdict is not one of {', '.join(VERDICTS)}", verdict)
    problems.add(corrected & value.isna(), "a correction needs a value")
    problems.add(~corrected & value.notna(), f"value is given, which is for {CORRECTED} alone", value.astype(str))
    problems.add(corrected & ~usable(spec, value), "value cannot be a label of this model", value.astype(str))
    weight = given["weight"]
    problems.add(~((weight > 0) & (weight <= 1)), "weight is not above 0 and at most 1", weight.astype(str))
    problems.add(given["given_at"] > pd.Timestamp(now), "it is given in the future", given["given_at"].astype(str))


def _predictions_before(connection: sa.Connection, spec: ModelSpec, tenant: str, given: pd.DataFrame) -> pd.DataFrame:
    """``predicted`` and ``version`` of the last live prediction before each row, by its index."""
    table = tables.predictions
    names = ["entity_id", "predicted_at", "value", "version"]
    entities = sa.func.unnest(sa.cast(sorted(set(given["entity_id"])), sa.ARRAY(sa.Text)))
    query = sa.select(*(table.c[name] for name in names)).where(
        table.c.tenant_id == tenant,
        table.c.model == spec.name,
        table.c.origin == "live",
        table.c.entity_id.in_(sa.select(entities)),
    )
    made = pd.DataFrame(connection.execute(query).all(), columns=names)
    made["predicted_at"] = pd.to_datetime(made["predicted_at"], utc=True).astype("datetime64[us, UTC]")
    made = made.sort_values(["predicted_at", "version"]).astype({"entity_id": object, "value": "float64"})
    asked = given[["entity_id", "given_at"]].astype({"entity_id": object}).rename_axis("row").reset_index()
    found = pd.merge_asof(
        asked.sort_values("given_at"), made, left_on="given_at", right_on="predicted_at", by="entity_id"
    )
    return found.set_index("row")[["value", "version"]].rename(columns={"value": "predicted"})


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    given_at = pd.to_datetime(frame["given_at"], utc=True).astype("datetime64[us, UTC]")
    return frame.assign(given_at=given_at).astype({"value": "float64", "weight": "float64", "given_by": object})


def _rows(spec: ModelSpec, tenant: str, stored: pd.DataFrame) -> list[dict[str, Any]]:
    columns = stored[[*FEEDBACK_COLUMNS, "predicted"]].astype(object)
    rows: list[dict[str, Any]] = []
    for record, version in zip(columns.to_dict("records"), stored["version"].tolist(), strict=True):
        row = {"tenant_id": tenant, "model": spec.name, **{str(name): value for name, value in record.items()}}
        row["value"] = None if row["verdict"] == REJECTED else row["value"]
        rows.append(row | {"version": int(version)})
    return rows


def _quarantine(warehouse: Warehouse, tenant: str, file: str, chunk: Chunk, problems: Problems) -> None:
    bad = [(record, record.problem) for record in chunk.rejected]
    bad += [(chunk.records[at], problems.message(at)) for at in np.flatnonzero(~problems.good).tolist()]
    rows = [
        {
            "tenant_id": tenant,
            "file": file,
            "line": record.line,
            "reason": reason,
            "content": record.storable_content,
        }
        for record, reason in bad
    ]
    with warehouse.tenant(tenant) as connection:
        warehouse.upsert(connection, tables.quarantine, rows)
