"""``Search``: whether and how the parameters of an estimator are searched for, the key ``training.search``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Value = bool | int | float | str


class Search(BaseModel):
    """How the parameters of the estimator are searched for; the declared ones are always among those that are tried."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="Tree-structured Parzen estimator, at random, or a grid of three values a range."
    )
    trials: int = Field(50, ge=1, description="Parameter sets to try, the declared one and failed ones included.")
    seconds: float | None = Field(None, gt=0, description="Time after which no further fit begins; none unless set.")
    split: Literal["expanding", "rolling", "stratified", "kfold", "grouped"] = Field(
        "expanding", description="How the training rows are cut into folds; the last three disregard time."
    )
    folds: int = Field(3, ge=2, le=20, description="Fits per trial; a trial is judged by their mean loss.")
    gap_days: float = Field(0, ge=0, description="Days before a fold's start by which a label must have been known.")
    group: str | None = Field(None, description="Column whose levels stay together (split: grouped).")
    pruning: Literal["median", "hyperband"] | None = Field(
        "median", description="Gives a trial up after a fold in which it fell behind; null never does (tpe only)."
    )
    processes: int = Field(
        1, ge=1, description="Worker processes of one search, as far as ML_PIPELINE_WORKERS has cores left."
    )
    resume: bool = Field(
        True, description="Keeps the trials in the database until the training has ended: cut off, it goes on there."
    )
    adaptive: bool = Field(True, description="Fewer trials for a tenant whose past searches gained nothing.")
    space: dict[str, list[Value]] = Field(
        {},
        description="Instead of the estimator's usual range: two numbers are its ends, any other list its choices.",
    )

    @field_validator("space")
    @classmethod
    def _ranges(cls, value: dict[str, list[Value]]) -> dict[str, list[Value]]:
        for name, values in value.items():
            if not values:
                raise ValueError(f"{name} has no values. Give two ends, choices, or remove it")
            if len({(type(item), item) for item in values}) < len(values):
                raise ValueError(f"{name} names a value twice in {values}")
            if is_range(values) and not float(values[0]) < float(values[1]):
                raise ValueError(f"{name} is a range from {values[0]} to {values[1]}. Give the lower end first")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        if (self.split == "grouped") != (self.group is not None):
            raise ValueError(
                f"search.split is {self.split!r} and search.group is {self.group!r}. "
                "Give a group for split: grouped, and for no other"
            )
        return self


def is_range(values: list[Value]) -> bool:
    """Whether the values of a parameter are the two ends of a range, and not choices."""
    return len(values) == 2 and all(isinstance(item, int | float) and not isinstance(item, bool) for item in values)
