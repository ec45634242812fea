"""Values that JSON can represent."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any


def json_safe(value: Any) -> Any:
    """The value with NaN and infinity replaced by None, NumPy scalars by numbers, and times by ISO text."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    return value
