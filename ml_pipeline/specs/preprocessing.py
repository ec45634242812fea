"""``Preprocessing`` and ``Selection``: what a specification says of the way from features to a learner's matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

if TYPE_CHECKING:
    from ml_pipeline.specs.model_spec import ModelSpec

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
    """How numbers and categories are prepared. A list is what the search may choose from, its first value the default.

    The defaults are what the boosters need: missing values and outliers pass, categories are numbered.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    missing: Missing | list[Missing] = Field("none", description="What missing numbers become; 'none' keeps them.")
    fill_value: float = Field(0.0, description="The number of missing: constant, in the unit of each column.")
    missing_indicator: bool | list[bool] = Field(
        False, description="A column of 0 and 1 for each numeric column with missing values."
    )
    outliers: Outliers | list[Outliers] = Field(
        "none", description="'cap': at the quantiles 0.01 and 0.99; 'robust': median 0, interquartile range 1."
    )
    outlier_flag: bool | list[bool] = Field(
        False, description="A column of 0 and 1: whether an isolation forest finds the row's numbers unusual."
    )
    categorical: Categories | list[Categories] = "ordinal"

    @field_validator(*_ALLOWED, mode="before")
    @classmethod
    def _allowed(cls, value: Any, info: ValidationInfo) -> Any:
        allowed = _ALLOWED[info.field_name or ""]
        values = value if isinstance(value, list) else [value]
        if not values or any(one not in allowed or values.count(one) > 1 for one in values):
            names = ", ".join(str(one).lower() for one in allowed)
            raise ValueError(f"takes one of {names}, or a list of different ones of them to choose from")
        return value

    @property
    def choices(self) -> dict[str, list[Any]]:
        """The keys that are left to the search, each with its values."""
        return {key: value for key in _ALLOWED if isinstance(value := getattr(self, key), list)}

    @property
    def settled(self) -> Settled:
        """The first value of every list, and what is no list."""
        first = {key: values[0] for key, values in self.choices.items()}
        return Settled(**(self.model_dump() | first))


class Selection(BaseModel):
    """Which features a learner gets: at most ``keep`` of them, by their use for the label in the training rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: SelectionMethod
    keep: int = Field(40, ge=1, description="Features at most; the text counts as one, and so does a category.")


def choices(spec: ModelSpec) -> dict[str, list[Any]]:
    """What ``spec.preprocessing`` leaves to the search: its keys that hold a list, with the values to try.

    A search that tries none of them gets the first value of each.
    """
    return spec.preprocessing.choices


def with_choices(spec: ModelSpec, chosen: dict[str, Any]) -> ModelSpec:
    """``spec`` with each key of ``chosen`` fixed at its value; keys that ``chosen`` does not name stay as they are.

    Its hash is another one: a version carries the hash of the specification as it was written.

    Raises
    ------
    ValueError
        If a key is no key of ``preprocessing`` that is open, or the value is none that it leaves open.
    """
    open_keys = spec.preprocessing.choices
    for key, value in chosen.items():
        if key not in open_keys or value not in open_keys[key]:
            raise ValueError(
                f"{spec.name}: preprocessing.{key} cannot be chosen as {value!r}; the specification leaves open "
                f"{open_keys or 'nothing'}. Add the value to the list there"
            )
    return spec.model_copy(update={"preprocessing": spec.preprocessing.model_copy(update=chosen)})
