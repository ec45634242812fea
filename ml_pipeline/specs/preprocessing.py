"""``Preprocessing`` and ``Selection``: how a specification prepares features for the learners."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Missing = Literal["none", "constant", "median", "knn", "iterative"]
Outliers = Literal["none", "cap", "robust"]
Categories = Literal["ordinal", "onehot", "target", "frequency"]
SelectionMethod = Literal["importance", "correlation", "mutual_information", "permutation"]

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "missing": get_args(Missing),
    "missing_indicator": (False, True),
    "outliers": get_args(Outliers),
    "outlier_flag": (False, True),
    "categorical": get_args(Categories),
}


class Settled(NamedTuple):
    """One value for each key of ``preprocessing``."""

    missing: Missing
    fill_value: float
    missing_indicator: bool
    outliers: Outliers
    outlier_flag: bool
    categorical: Categories


class Preprocessing(BaseModel):
    """Preparation of numbers and categories. A list contains choices for the search; its first value is the default.

    The defaults suit boosters: missing values and outliers are kept, categories are encoded as numbers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    missing: Missing | list[Missing] = Field("none", description="How missing numbers are filled; 'none' keeps them.")
    fill_value: float = Field(0.0, description="Value for missing: constant, in the unit of each column.")
    missing_indicator: bool | list[bool] = Field(
        False, description="Add a 0/1 column for each numeric column with missing values."
    )
    outliers: Outliers | list[Outliers] = Field(
        "none",
        description="'cap' clips at the quantiles 0.01 and 0.99; 'robust' scales by median and interquartile range.",
    )
    outlier_flag: bool | list[bool] = Field(
        False, description="Add a 0/1 column: whether an isolation forest finds the numbers of the row unusual."
    )
    categorical: Categories | list[Categories] = Field("ordinal", description="Encoding of categories.")

    @field_validator(*_ALLOWED, mode="before")
    @classmethod
    def _allowed(cls, value: Any, info: ValidationInfo) -> Any:
        allowed = _ALLOWED[info.field_name or ""]
        values = value if isinstance(value, list) else [value]
        if not values or any(one not in allowed or values.count(one) > 1 for one in values):
            names = ", ".join(str(one).lower() for one in allowed)
            raise ValueError(f"takes one of {names}, or a list of different values from these for the search")
        return value

    @property
    def choices(self) -> dict[str, list[Any]]:
        """The keys whose value is a list for the search, with these lists."""
        return {key: value for key in _ALLOWED if isinstance(value := getattr(self, key), list)}

    @property
    def settled(self) -> Settled:
        """All values, with the first value for every list."""
        first = {key: values[0] for key, values in self.choices.items()}
        return Settled(**(self.model_dump() | first))


class Selection(BaseModel):
    """Feature selection: the ``keep`` most useful features, measured on the training rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: SelectionMethod = Field(description="How the usefulness of a feature is measured.")
    keep: int = Field(40, ge=1, description="Largest number of features; the text, or a category, counts as one.")
