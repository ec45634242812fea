"""Conversion of source values to typed columns, the same for rows from a database, a file or a request.

Values stay Python objects until their declared type is applied. If pandas inferred the types, integers in a column with
one missing value would become floats, and the level ``7`` would become ``7.0``.
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
    """A column contains a value that does not have its declared type; the message names column, value and remedy."""


def typed_rows(spec: ModelSpec, rows: pd.DataFrame | Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """The columns ``spec.source_columns``, each converted to its declared type.

    - ``category`` and ``text``: object of str or None, written by :func:`level`.
    - ``number``: float64; a boolean becomes 1 or 0, and a number too large for a float becomes infinite.
    - ``boolean``: float64, 1 for true and 0 for false.
    - ``time``: datetime64[us, UTC]; a date becomes midnight in UTC, a time without a zone is read as UTC.

    Missing values stay missing: None, or NaN. Applying the function to its own result changes nothing.

    Parameters
    ----------
    rows
        A frame, or a mapping of column name to Python objects in the order of the rows. Pass objects unless the dtypes
        are known to be right, because pandas may have inferred them already.

    Raises
    ------
    TypeMismatch
        If a column contains a value that does not have its declared type.
    """
    computed = {name for expression in spec.label.expressions for name in expression.names}
    columns = {}
    for name in spec.source_columns:
        kind = spec.source.type_of(name)
        try:
            columns[name] = _typed(kind, rows[name], in_label=name in computed)
        except (ValueError, TypeError, OverflowError) as error:
            raise TypeMismatch(
                f"column {name!r} of {spec.source.table} contains a value that is not a {kind}: {error}. "
                "Correct the value in the source, or the column's type in source.columns"
            ) from error
    frame = pd.DataFrame(columns, copy=False)
    return frame.set_axis(rows.index) if isinstance(rows, pd.DataFrame) else frame


def level(value: Any) -> str:
    """Text of a value that is a level of a category, or a text.

    Whole numbers are written without a fraction, whatever their SQL type, other numbers as briefly as possible;
    booleans as ``True`` or ``False``; dates, times and UUIDs in ISO format.

    Raises
    ------
    TypeError
        If the value has no unique text form: bytes, JSON objects, arrays, ranges, intervals.

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
    raise TypeError(f"{_shown(value)} has no unique text form; cast it to text in a view")


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
        raise TypeError(f"{_first(values, bool)}; label.value needs the type boolean for it")
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
