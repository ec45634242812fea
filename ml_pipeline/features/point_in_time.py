"""Feature frame: the features of each entity as known at its event time, its label as known at ``as_of``."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pandas as pd

from ml_pipeline.errors import UserError
from ml_pipeline.features.temporal.calendar import calendar_features
from ml_pipeline.features.temporal.derived import derived_features
from ml_pipeline.features.temporal.history import DAY, NEVER, Outcomes, history_features
from ml_pipeline.features.temporal.temporal import temporal_features
from ml_pipeline.features.typed_columns import TypeMismatch, level, typed_rows
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.names import TEXT, feature_name, text_lengths

HOUR = DAY // 24
FEWEST_TO_JUDGE_A_KEY = 20


class FeatureError(UserError, ValueError):
    """Features cannot be computed from the source rows; the message names model, column, value and remedy."""


def build(spec: ModelSpec, rows: pd.DataFrame, as_of: datetime) -> pd.DataFrame:
    """Feature frame of one tenant: one row per entity that existed at ``as_of``, oldest first.

    Training, batch predictions and single predictions all call this function. The features of an entity depend on its
    own columns known at creation, and on events of other entities strictly before its event time. Later events
    therefore never change them; only ``label``, ``label_time`` and ``state`` change as ``as_of`` moves on.

    Parameters
    ----------
    spec
        The model.
    rows
        Source rows of the tenant with the columns ``spec.source_columns``, in any order.
        :func:`~ml_pipeline.features.typed_columns.typed_rows` converts them to the declared types. If an entity is
        repeated, its earliest row is used; rows without an entity are ignored.
    as_of
        Aware time; later events are ignored.

    Returns
    -------
    DataFrame
        Sorted by event time and entity, with a RangeIndex. Columns: ``entity_id`` str; ``event_time`` and
        ``label_time`` datetime64[us, UTC]; ``label`` float64 in the reported unit; ``state``, one of ``matured``
        (label known and inside ``above`` and ``at_most``), ``open`` (the outcome may still come) and ``excluded`` (the
        entity ended without a usable label); then ``spec.feature_columns.all``: numeric features as float64 (NaN for
        missing and infinite values), categorical ones as object of str or None, text as str. ``label`` is NaN unless
        matured, ``label_time`` is NaT unless a label is known.

    Raises
    ------
    FeatureError
        If a column is missing, or contains a value that does not have its declared type.
    ValueError
        If ``as_of`` has no time zone.
    """
    if as_of.tzinfo is None:
        raise ValueError(f"as_of is {as_of.isoformat()}, a time without a zone. Give it in UTC")
    moment = pd.Timestamp(as_of).as_unit("us").value // 1000
    entities, event_time, entity_id = _entities(spec, _typed(spec, rows), moment)
    outcomes, label_time, value = _outcomes(spec, entities, event_time)
    visible = ~np.isnan(value) & (label_time <= moment)
    matured = visible & (outcomes.known_at < NEVER)
    columns = {
        "entity_id": pd.Series(entity_id, dtype="str"),
        "event_time": _utc(event_time),
        "label_time": _utc(np.where(visible, label_time, NEVER)),
        "label": np.where(matured, value / spec.label.unit_size, np.nan),
        "state": np.where(matured, "matured", np.where(outcomes.finished_at <= moment, "excluded", "open")),
    }
    features = _features(spec, entities, event_time, outcomes)
    # No other code refers to these arrays, and a copy of hundreds of columns would double the memory.
    return pd.DataFrame(columns | {name: features[name] for name in spec.feature_columns.all}, copy=False)


def build_one(spec: ModelSpec, rows: pd.DataFrame, entity_id: str, as_of: datetime) -> pd.DataFrame:
    """Feature row of one entity, as a frame with one row of ``build(spec, rows, as_of)``.

    Parameters
    ----------
    spec
        The model.
    rows
        Source rows as for ``build``, including the tenant's past, because history features are computed from it.
    entity_id
        Identifier of the entity, as text.
    as_of
        Aware time; later events are ignored.

    Returns
    -------
    DataFrame
        One row with the columns of ``build``.

    Raises
    ------
    FeatureError
        As for ``build``, and if the entity is not among the rows, is filtered out, or begins after ``as_of``.
    ValueError
        If ``as_of`` has no time zone.
    """
    return entity_row(spec, build(spec, rows, as_of), entity_id, as_of)


def entity_row(spec: ModelSpec, frame: pd.DataFrame, entity_id: str, as_of: datetime) -> pd.DataFrame:
    """The row of one entity in the result of ``build(spec, rows, as_of)``.

    Raises
    ------
    FeatureError
        If the entity is not in the frame.
    """
    found = frame[frame["entity_id"] == entity_id].reset_index(drop=True)
    if found.empty:
        raise FeatureError(
            f"{spec.name}: entity {entity_id!r} does not exist at {as_of.isoformat()} among the {len(frame)} entities "
            "that pass source.include and source.require. Check the identifier, or store the entity first"
        )
    return found


def repeated_rows(spec: ModelSpec, rows: pd.DataFrame, as_of: datetime) -> int:
    """Number of rows at ``as_of`` that repeat an entity; ``build`` uses the oldest row of each entity only.

    Raises
    ------
    FeatureError
        If more than half of at least 20 rows repeat one: the column does not identify entities.
    """
    existing = rows.loc[(rows[spec.source.event_time] <= pd.Timestamp(as_of)).to_numpy(), spec.source.entity].dropna()
    repeated = int(existing.duplicated().sum())
    if len(existing) >= FEWEST_TO_JUDGE_A_KEY and repeated > len(existing) / 2:
        raise FeatureError(
            f"{spec.name}: {repeated} of {len(existing)} rows of {spec.source.table} repeat a value of "
            f"{spec.source.entity!r}, so that only the oldest row of each value would be used. Name the column that "
            "identifies an entity as source.entity, or read a view with one row per entity"
        )
    return repeated


def _typed(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in spec.source_columns if name not in rows.columns]
    if missing:
        raise FeatureError(
            f"{spec.name}: {spec.source.table} has no column {', '.join(map(repr, missing))}. "
            "Add it to the table or view, or remove it from source.columns"
        )
    try:
        return typed_rows(spec, rows)
    except TypeMismatch as error:
        raise FeatureError(f"{spec.name}: {error}") from error


def _entities(spec: ModelSpec, rows: pd.DataFrame, moment: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Source rows, event times and identifiers of the entities that exist at ``moment``, oldest first."""
    event_time = _microseconds(rows[spec.source.event_time])
    keep = (event_time <= moment) & rows[spec.source.entity].notna().to_numpy()
    for column, allowed in spec.source.include.items():
        levels = _included(rows[column], spec.source.type_of(column))
        keep &= np.fromiter((value in allowed for value in levels), dtype=bool, count=len(rows))
    for column in spec.source.require:
        keep &= rows[column].notna().to_numpy()
        if spec.source.columns[column].type == "text":
            keep &= np.fromiter(
                (text.strip() != "" for text in _blank_for_none(rows[column])), dtype=bool, count=len(rows)
            )
    kept = np.flatnonzero(keep)
    entity_id = rows[spec.source.entity].to_numpy(dtype=object)[kept]
    order = np.lexsort((entity_id, event_time[kept]))
    order = order[~pd.Series(entity_id[order], dtype=object).duplicated().to_numpy()]
    return rows.iloc[kept[order]].reset_index(drop=True), event_time[kept[order]], entity_id[order]


def _outcomes(
    spec: ModelSpec, entities: pd.DataFrame, event_time: np.ndarray
) -> tuple[Outcomes, np.ndarray, np.ndarray]:
    """Outcomes, label times (``NEVER`` if missing) and label values in units of the expression, usable or not."""
    value = np.full(len(entities), np.nan)
    for expression in spec.label.expressions:
        value = np.where(np.isnan(value), expression.evaluate(entities).to_numpy(), value)
    times = {term: _microseconds(entities[term.column]) for term in spec.label.times}
    known = [np.where(at < NEVER, at + term.delay // pd.Timedelta(microseconds=1), NEVER) for term, at in times.items()]
    ended = [at for term, at in times.items() if not term.delay]
    # If the time of the first term is missing, the earliest of the others replaces it. If they were tried in order
    # instead, an item still open after the delay would have a label until the day it is resolved and lose it on that
    # day, so that later events would change the past.
    first, *others = known
    label_time = np.maximum(np.where(first < NEVER, first, np.minimum.reduce(others)) if others else first, event_time)
    usable = ~np.isnan(value) & (label_time < NEVER)
    finished_at = np.where(usable, label_time, NEVER)
    for at in ended:
        finished_at = np.minimum(finished_at, np.maximum(at, event_time))
    if spec.label.above is not None:
        usable &= value > spec.label.above
    if spec.label.at_most is not None:
        usable &= value <= spec.label.at_most
    outcomes = Outcomes(
        value=np.where(usable, value / spec.label.unit_size, np.nan),
        known_at=np.where(usable, label_time, NEVER),
        finished_at=finished_at,
    )
    return outcomes, label_time, value


def _features(
    spec: ModelSpec, entities: pd.DataFrame, event_time: np.ndarray, outcomes: Outcomes
) -> dict[str, np.ndarray | pd.Series]:
    chosen = spec.features
    numbers = {feature_name(column): entities[column].to_numpy() for column in chosen.numeric}
    features = {name: np.where(np.isfinite(values), values, np.nan) for name, values in numbers.items()}
    texts = [_blank_for_none(entities[column]) for column in chosen.text]
    for column, values in zip(chosen.text, texts, strict=True):
        characters, words = text_lengths(column)
        features[characters] = np.array([len(text) for text in values], dtype="float64")
        features[words] = np.array([len(text.split()) for text in values], dtype="float64")
    if chosen.calendar:
        features |= _calendar(event_time)
    groups = {column: entities[column].to_numpy() for column in chosen.history}
    features |= history_features(spec, event_time, outcomes, groups)
    features |= calendar_features(chosen.temporal, event_time)
    features |= temporal_features(spec, event_time, outcomes, groups)
    features |= derived_features(chosen.temporal, event_time, features)
    others = {feature_name(column): entities[column] for column in chosen.categorical}
    if texts:
        others[TEXT] = pd.Series(map(" ".join, zip(*texts, strict=True)), dtype="str").str.strip()
    return features | others


def _calendar(event_time: np.ndarray) -> dict[str, np.ndarray]:
    """Hour 0-23, weekday 0 (Monday) to 6, day 1-31 and month 1-12 of each event time in UTC."""
    time = event_time.view("datetime64[us]")
    day, month, year = (time.astype(f"datetime64[{unit}]") for unit in "DMY")
    columns = {
        "calendar_hour": event_time % DAY // HOUR,
        "calendar_weekday": (event_time // DAY + 3) % 7,
        "calendar_day": (day - month).astype("int64") + 1,
        "calendar_month": (month - year).astype("int64") + 1,
    }
    return {name: column.astype("float64") for name, column in columns.items()}


def _microseconds(times: pd.Series) -> np.ndarray:
    """Times as int64 microseconds since 1970 in UTC, ``NEVER`` for missing ones."""
    moments = times.to_numpy(dtype="datetime64[us]")
    return np.where(np.isnat(moments), NEVER, moments.view("int64"))


def _utc(moments: np.ndarray) -> pd.DatetimeIndex:
    missing = np.datetime64("NaT", "us")
    return pd.DatetimeIndex(np.where(moments < NEVER, moments.view("datetime64[us]"), missing)).tz_localize("UTC")


def _included(column: pd.Series, kind: str) -> list[str | None]:
    """What ``source.include`` compares with: levels, and of a boolean column ``true`` and ``false``."""
    if kind == "boolean":
        return [None if np.isnan(value) else "true" if value else "false" for value in column]
    return [None if missing else level(value) for value, missing in zip(column, column.isna(), strict=True)]


def _blank_for_none(column: pd.Series) -> list[str]:
    return ["" if text is None else text for text in column]
