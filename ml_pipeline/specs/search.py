"""``Search``: parameter search for the estimator, the key ``training.search``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Value = bool | int | float | str


class Search(BaseModel):
    """Search for parameters of the estimator; the declared parameters are always tried too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="Tree-structured Parzen estimator, random search, or a grid with three values per range."
    )
    trials: int = Field(50, ge=1, description="Parameter sets to try, including the declared one and failed ones.")
    seconds: float | None = Field(
        None, gt=0, description="Time after which no further fit starts; no limit unless set."
    )
    split: Literal["expanding", "rolling", "stratified", "kfold", "grouped"] = Field(
        "expanding", description="How the training rows are split into folds; the last three ignore time."
    )
    folds: int = Field(3, ge=2, le=20, description="Folds, one fit each; a trial is judged by the mean loss.")
    gap_days: float = Field(0, ge=0, description="Days before a fold's start at which a label must be known.")
    group: str | None = Field(None, description="Column whose levels stay in one fold (split: grouped only).")
    pruning: Literal["median", "hyperband"] | None = Field(
        "median", description="Stops a trial early if its loss is too high after a fold (tpe only); null never does."
    )
    processes: int = Field(
        1, ge=1, description="Worker processes of one search, limited by the free cores of ML_PIPELINE_WORKERS."
    )
    adaptive: bool = Field(True, description="Fewer trials for a tenant whose past searches gained little.")
    space: dict[str, list[Value]] = Field(
        {},
        description="Replaces default ranges of the estimator: two numbers are the ends, any other list is choices.",
    )

    @field_validator("space")
    @classmethod
    def _ranges(cls, value: dict[str, list[Value]]) -> dict[str, list[Value]]:
        for name, values in value.items():
            if not values:
                raise ValueError(f"{name} has no values. Give the two ends or the choices, or remove it")
            if len({(type(item), item) for item in values}) < len(values):
                raise ValueError(f"{name} repeats a value in {values}. Remove it")
            if is_range(values) and not float(values[0]) < float(values[1]):
                raise ValueError(f"{name} is a range from {values[0]} to {values[1]}. Give the lower end first")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        if (self.split == "grouped") != (self.group is not None):
            raise ValueError(
                f"search.split is {self.split!r} and search.group is {self.group!r}. "
                "Give a group with split: grouped, and only then"
            )
        return self


def is_range(values: list[Value]) -> bool:
    """Whether the values of a parameter are the two ends of a range, not choices."""
    return len(values) == 2 and all(isinstance(item, int | float) and not isinstance(item, bool) for item in values)
