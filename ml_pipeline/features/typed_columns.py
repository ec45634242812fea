"""The one way from a source's values to typed columns, for rows of a database, of a file and of a request alike.

Values stay Python objects until their declared type is applied. A frame that guesses types would turn the integers of a
column with one missing value into floats, and the level ``7`` into ``7.0``.
"""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.specs import ModelSpec

_NO_VALUE = {type(None), type(pd.NaT), type(pd.NA)}
_NUMBERS = {int, float, bool, Decimal}
_PLAIN = {int, bool, dt.date, dt.datetime, dt.time, uuid.UUID}  # ``str`` writes these exactly


class TypeMismatch(ValueError):
    """A column holds a value that is not of its declared type; the message names column, value and remedy."""


def typed_rows(spec: ModelSpec, rows: pd.DataFrame | Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """The columns ``spec.source_columns``, each converted by its declared type alone.

    - ``category`` and ``text``: object of str or None, as :func:`level` writes a value.
    - ``number``: float64; a boolean is 1 or 0, and a number that is too large for a float is infinite.
    - ``boolean``: float64, 1 for true and 0 for false.
    - ``time``: datetime64[us, UTC]; a date is its first moment in UTC, a time without a zone is taken as UTC.

    What is missing stays missing: None, or NaN. What this function returned comes back from it unchanged.

    Parameters
    ----------
    rows
        A frame, or for each column its Python objects in the order of the rows. Give objects where the types are not
        known to be right: a frame may have guessed them already.

    Raises
    ------
    TypeMismatch
        If a column holds a value that is not of its declared type.
    """
    computed = {name for expression in spec.label.expressions for name in expression.names}
    columns = {}
    for name in spec.source_columns:
        kind = spec.source.type_of(name)
        try:
            columns[name] = _typed(kind, rows[name], in_label=name in computed)
        except (ValueError, TypeError, OverflowError) as error:
            raise TypeMismatch(
                f"column {name!r} of {spec.source.table} holds a value that is no {kind}: {error}. "
                "Correct it in the source, or the column's type in source.columns"
            ) from error
    frame = pd.DataFrame(columns, copy=False)
    return frame.set_axis(rows.index) if isinstance(rows, pd.DataFrame) else frame


def level(value: Any) -> str:
    """A value as a level of a category, or as a text.

    A whole number is written without a fraction, whatever its SQL type, another one as shortly as possible; a boolean
    as ``True`` or ``False``; dates, times and UUIDs as ISO text.

    Raises
    ------
    TypeError
        If the value has no single text of its own: bytes, JSON objects, arrays, ranges, intervals.

    >>> level(7), level(7.0), level(Decimal("7.00")), level(7.5), level(True)
    ('7', '7', '7', '7.5', 'True')
    """
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case Decimal() if value.is_finite():
            return str(int(value)) if value == value.to_integral_value() else f"{value.normalize():f}"
        case Decimal():
            return str(float(value))
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case str() | int() | dt.date() | dt.time() | uuid.UUID():
            return str(value)
    raise TypeError(f"{_shown(value)} has no text of its own; cast it to the text that you want in a view")


def _typed(kind: str, given: Any, *, in_label: bool) -> Any:
    if isinstance(given, pd.Series) and given.dtype != object:
        if kind == "time" and given.dtype.kind == "M":
            return pd.to_datetime(given, utc=True).array.as_unit("us")
        if kind in ("number", "boolean") and given.dtype == np.float64:
            return _zero_or_one(given.to_numpy()) if kind == "boolean" else given.to_numpy()
        given = given.astype(object)
    values: Any = given.to_numpy() if isinstance(given, pd.Series) else given
    types = set(map(type, values))
    if types & (_NO_VALUE - {type(None)}):
        values = [None if type(value) in _NO_VALUE else value for value in values]
    types -= _NO_VALUE
    if kind == "time":
        return _times(values, types)
    if kind in ("number", "boolean"):
        return _numbers(values, types, {bool} if kind == "boolean" else _NUMBERS)
    if bool in types and in_label:
        raise TypeError(f"{_first(values, bool)}, with which label.value computes; the type boolean does")
    return _texts(values, types)


def _texts(values: Sequence[Any], types: set[type]) -> pd.Series:
    if types <= {str}:
        return pd.Series(values, dtype=object, copy=False)
    write = str if len(types) == 1 and types <= _PLAIN else level
    return pd.Series([None if _is_missing(value) else write(value) for value in values], dtype=object)


def _times(values: Sequence[Any], types: set[type]) -> Any:
    for kind in types:
        if not issubclass(kind, dt.date | str | np.datetime64):
            if kind is float and all(_is_missing(value) for value in values if type(value) is float):
                continue
            raise TypeError(_first(values, kind))
    times = pd.to_datetime(pd.Series(values, dtype=object), utc=True)
    return times.array.as_unit("us")


def _numbers(values: Sequence[Any], types: set[type], fitting: set[type]) -> np.ndarray:
    for kind in types:
        plain = type(kind().item()) if issubclass(kind, np.generic) else kind
        if plain not in fitting:
            if plain is float and all(_is_missing(value) for value in values if type(value) is kind):
                continue
            raise TypeError(_first(values, kind))
    try:
        return np.array(values, dtype="float64")
    except OverflowError:  # an integer beyond the largest float
        return np.array([_as_float(value) for value in values], dtype="float64")


def _as_float(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _zero_or_one(values: np.ndarray) -> np.ndarray:
    wrong = ~(np.isnan(values) | (values == 0) | (values == 1))
    if wrong.any():
        raise ValueError(f"{values[wrong][0]:g}, neither 0 nor 1")
    return values


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def _first(values: Sequence[Any], kind: type) -> str:
    return _shown(next(value for value in values if type(value) is kind))


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
