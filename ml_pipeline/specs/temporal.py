"""``features.temporal`` of a specification: feature families from time and history, and the names of their columns."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ml_pipeline.specs.countries import check_country
from ml_pipeline.specs.names import feature_name

LAGS = (1, 7, 30)
WINDOWS = (3, 7, 14, 30, 90)
WEEK_HARMONICS, YEAR_HARMONICS = (1, 2, 3), (1, 2, 3, 4)
GROWING = ("_known", "_open")
_PREFIXES = {"history": 0, "calendar": 1}
CALENDAR, TENANT = "the calendar", "the tenant's history"  # origin of a column, as text for messages

WITHIN_WEEK = ("calendar_minute_of_day", "calendar_hour_of_week", "calendar_quarter_of_day", "calendar_is_weekend")
WITHIN_YEAR = (
    "calendar_week_of_month",
    "calendar_week_of_year",
    "calendar_day_of_year",
    "calendar_quarter",
    "calendar_half",
    "calendar_day_of_quarter",
    "calendar_days_in_month",
    "calendar_days_to_month_end",
    "calendar_days_to_quarter_end",
    "calendar_is_month_start",
    "calendar_is_month_end",
    "calendar_is_quarter_start",
    "calendar_is_quarter_end",
    "calendar_is_year_start",
    "calendar_is_year_end",
)
BUSINESS = (
    "calendar_is_holiday",
    "calendar_is_business_day",
    "calendar_is_business_hour",
    "calendar_business_hours_left",
    "calendar_business_hours_passed",
    "calendar_business_day_of_month",
    "calendar_business_days_in_month",
    "calendar_business_days_to_month_end",
    "calendar_days_since_holiday",
    "calendar_days_to_holiday",
    "calendar_days_to_nearest_holiday",
    "calendar_is_before_day_off",
    "calendar_is_after_day_off",
    "calendar_is_bridge_day",
)
WAVES = ("sin", "cos")
CYCLE_OF_WEEK = tuple(f"calendar_{unit}_{wave}" for unit in ("hour", "weekday") for wave in WAVES)
CYCLE_OF_YEAR = tuple(f"calendar_{unit}_{wave}" for unit in ("day", "month") for wave in WAVES)
FOURIER_OF_WEEK = tuple(f"calendar_week_{wave}_{harmonic}" for harmonic in WEEK_HARMONICS for wave in WAVES)
FOURIER_OF_YEAR = tuple(f"calendar_year_{wave}_{harmonic}" for harmonic in YEAR_HARMONICS for wave in WAVES)
LAG_PARTS = tuple(f"lag_{lag}" for lag in LAGS)
ROLLING_PARTS = tuple(
    f"rolling_{days}d_{statistic}"
    for days in WINDOWS
    for statistic in ("mean", "std", "min", "q25", "median", "q75", "max")
)
EXPANDING_PARTS = ("lag_1", "std", "min", "max", "days_since_outcome")
GROUP_EXPANDING_PARTS = (*EXPANDING_PARTS, "departure", "share")
TREND_PARTS = (
    "slope_30d",
    "fit_30d",
    "slope_90d",
    "fit_90d",
    "slope_all",
    "fit_all",
    "change_30d",
    "change_20",
    "cusum_up",
    "cusum_down",
)
QUEUE_PARTS = (
    "arrivals_1d",
    "arrivals_7d",
    "arrivals_30d",
    "arrivals_same_hour",
    "hours_since_arrival",
    "endings_7d",
    "endings_30d",
    "hours_since_ending",
    "in_progress_30d",
    "wait_days",
)
# In a window of a few weeks, these columns show the season, not a change.
SEASONAL = frozenset({"calendar_day", "calendar_month", *WITHIN_YEAR, *BUSINESS, *CYCLE_OF_YEAR, *FOURIER_OF_YEAR})


class Temporal(BaseModel):
    """Feature families from time and history, all off by default; groups are the columns of ``features.history``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calendar: bool = Field(
        False, description="19 columns: weeks, quarters, starts and ends of periods, remaining days."
    )
    business: bool = Field(False, description="14 columns: holidays, business days and business hours of the country.")
    cyclical: bool = Field(False, description="8 columns: sine and cosine of hour, weekday, day and month.")
    fourier: bool = Field(False, description="14 columns: three harmonics of the week and four of the year.")
    lags: bool = Field(
        False, description="The last, 7th last and 30th last known outcome, of the tenant and of each group."
    )
    rolling: bool = Field(
        False,
        description="Seven statistics of outcomes known in the last 3, 7, 14, 30 and 90 days, of tenant and groups.",
    )
    expanding: bool = Field(
        False, description="Spread, range, last value and age of all known outcomes, of tenant and groups."
    )
    trend: bool = Field(
        False, description="Slopes, their fit and change scores of known outcomes, of tenant and groups."
    )
    queue: bool = Field(False, description="Arrivals, endings and work in progress, of tenant and groups.")
    country: str | None = Field(
        None, description="ISO 3166 code of the country for holidays (CZ, DE-BY); a tenant's setting overrides it."
    )
    time_zone: str = Field(
        "UTC", description="IANA time zone of these calendar columns; a tenant's setting overrides it."
    )
    interactions: list[tuple[str, str]] = Field(
        [], description="Pairs of numeric columns; their products become columns."
    )
    polynomial: list[str] = Field([], description="Numeric columns; their squares and products become columns.")
    log1p: list[str] = Field([], description="Columns of features.numeric; log(1 + x) becomes a column.")
    sqrt: list[str] = Field([], description="Columns of features.numeric; the square root becomes a column.")
    rank: list[str] = Field(
        [], description="Columns of features.numeric; share of earlier entities with a smaller value."
    )
    zscore: list[str] = Field([], description="Columns of features.numeric; z-score among earlier entities.")

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        return check_time_zone(value)

    @field_validator("country")
    @classmethod
    def _country(cls, value: str | None) -> str | None:
        return None if value is None else check_country(value)

    @model_validator(mode="after")
    def _has_country(self) -> Temporal:
        if self.business and self.country is None:
            raise ValueError("features.temporal.business needs a country. Add features.temporal.country, such as CZ")
        return self

    @property
    def is_local(self) -> bool:
        """Whether the columns depend on the tenant's country or time zone."""
        return self.calendar or self.business or self.cyclical or self.fourier

    @property
    def transforms(self) -> dict[str, list[str]]:
        """Columns to transform, by the name of the transform."""
        return {"log1p": self.log1p, "sqrt": self.sqrt, "rank": self.rank, "zscore": self.zscore}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each pair whose product is a column, once; history columns come first, then calendar columns."""
        squares = [
            (first, second) for position, first in enumerate(self.polynomial) for second in self.polynomial[position:]
        ]
        return list(dict.fromkeys(_named_order(*pair) for pair in [*self.interactions, *squares]))

    def columns(self, groups: Sequence[str]) -> list[str]:
        """Names of all columns except products, given the columns of ``features.history``."""
        return [name for name, _ in self.made(groups)]

    def made(self, groups: Sequence[str]) -> list[tuple[str, str]]:
        """:meth:`columns`, each with its origin as text for messages."""
        families = (
            (self.calendar, WITHIN_WEEK + WITHIN_YEAR),
            (self.business, BUSINESS),
            (self.cyclical, CYCLE_OF_WEEK + CYCLE_OF_YEAR),
            (self.fourier, FOURIER_OF_WEEK + FOURIER_OF_YEAR),
        )
        made = [(name, CALENDAR) for on, columns in families if on for name in columns]
        made += [(f"history_{part}", TENANT) for part in self._parts(EXPANDING_PARTS)]
        for group in groups:
            made += [(f"history_{group}_{part}", of_group(group)) for part in self._parts(GROUP_EXPANDING_PARTS)]
        for kind, columns in self.transforms.items():
            made += [(transformed(kind, column), f"features.temporal.{kind} of {column!r}") for column in columns]
        return made

    def check(self, numeric: Sequence[str], made: Sequence[str]) -> None:
        """Check that transforms and products refer to existing columns.

        Parameters
        ----------
        numeric
            ``features.numeric``.
        made
            All numeric columns of the frame.

        Raises
        ------
        ValueError
            If one does not; the message names key, value and remedy.
        """
        for kind, columns in self.transforms.items():
            for column in columns:
                if column not in numeric:
                    raise ValueError(
                        f"features.temporal.{kind} names {column!r}, which is not in features.numeric. Add it there"
                    )
        products = {product(*pair) for pair in self.pairs}
        for column in dict.fromkeys(name for pair in self.pairs for name in pair):
            where = f"features.temporal.interactions or .polynomial names {column!r}"
            if column in numeric and column not in made:
                raise ValueError(f"{where}, which is called {feature_name(column)!r} in the frame. Write that")
            if column not in made or column in products:
                raise ValueError(f"{where}, which is not a numeric column of the frame, or is a product. Remove it")
            if is_growing(column):
                raise ValueError(f"{where}, a count that grows with time and is not given to learners. Remove it")

    def _parts(self, expanding: Iterable[str]) -> list[str]:
        families = (
            (self.lags, LAG_PARTS),
            (self.rolling, ROLLING_PARTS),
            (self.expanding, expanding),
            (self.trend, TREND_PARTS),
            (self.queue, QUEUE_PARTS),
        )
        return [part for on, parts in families if on for part in parts]


def transformed(kind: str, column: str) -> str:
    """Name of a transformed column; transforms that depend on the tenant's past get the prefix ``history_``.

    >>> transformed("log1p", "amount"), transformed("rank", "amount")
    ('amount_log1p', 'history_amount_rank')
    """
    return f"history_{column}_{kind}" if kind in ("rank", "zscore") else feature_name(f"{column}_{kind}")


def of_group(column: str) -> str:
    """Origin of the history features of a column, as text for messages."""
    return f"features.history of {column!r}"


def product(first: str, second: str) -> str:
    """Name of the product of two columns."""
    return f"{first}_x_{second}"


def factors(name: str) -> list[str]:
    """The two columns of a product; for any other column, the column itself.

    >>> factors(product("history_mean", "amount")), factors("amount")
    (['history_mean', 'amount'], ['amount'])
    """
    return name.split("_x_")


def is_growing(name: str) -> bool:
    """Whether the column is a count that grows with the tenant's age."""
    return name.startswith("history_") and name.endswith(GROWING)


def check_time_zone(value: str) -> str:
    """Return the name of the time zone if it exists.

    Raises
    ------
    ValueError
        If it does not exist.
    """
    if value not in zoneinfo.available_timezones():
        raise ValueError(f"unknown time zone {value!r}. Write an IANA name, such as Europe/Prague or UTC")
    return value


def _named_order(first: str, second: str) -> tuple[str, str]:
    first, second = sorted((first, second), key=lambda name: (_PREFIXES.get(name.partition("_")[0], 2), name))
    return first, second
