"""The length of a day in several units."""

from __future__ import annotations

import datetime as dt

DAY = dt.timedelta(days=1)
SECONDS_PER_DAY = 86_400
MICROSECONDS_PER_DAY = 86_400_000_000
