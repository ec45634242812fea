"""Retraining policies: the product's policy, simple ones to compare it with, and policies in YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ml_pipeline.errors import UserError
from ml_pipeline.severity import Severity

Trigger = Literal["degradation", "drift", "schedule", "volume"]
EVERY_TRIGGER: tuple[Trigger, ...] = ("degradation", "drift", "schedule", "volume")


class PolicyError(UserError):
    """A policy is not valid; the message names the file, the key, the value and the remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VolumeClass(_Part):
    """Schedule of the tenants with at least ``weekly_items`` new items a week."""

    weekly_items: float = Field(ge=0, description="Smallest number of new items a week in this class.")
    days: float = Field(gt=0, description="Days between two scheduled trainings.")
    samples: int = Field(ge=0, description="New matured labels that a scheduled training needs.")


class Policy(_Part):
    """When a model is retrained, and what blocks a retraining. The defaults are the product's policy."""

    name: str = Field("product", description="Name of the policy in decisions and replays.")
    triggers: tuple[Trigger, ...] = Field(
        EVERY_TRIGGER, description="What may trigger a retraining, in addition to a person."
    )
    schedule: tuple[VolumeClass, ...] = Field(
        (
            VolumeClass(weekly_items=50, days=7, samples=100),
            VolumeClass(weekly_items=20, days=14, samples=50),
            VolumeClass(weekly_items=0, days=30, samples=25),
        ),
        description="Classes by weekly volume; one begins at 0.",
    )
    online_days: float = Field(
        91.0,
        gt=0,
        description="Least days of the schedule for an online ensemble, which takes up outcomes every night.",
    )
    backoff: float = Field(
        1.5,
        ge=1,
        description="Factor on the days of the schedule if the loss has not risen, and per rejected training in a row.",
    )
    max_backoff: float = Field(2.0, ge=1, description="Largest factor on the days of the schedule.")
    shorten: float = Field(
        0.5, gt=0, le=1, description="Factor on the days of the schedule if the loss has risen or data quality is low."
    )
    quality_floor: float = Field(70.0, ge=0, le=100, description="Data quality below this score shortens the schedule.")
    update_labels: int = Field(100, ge=1, description="New matured labels that trigger a warm-start update.")
    cooldown_days: float = Field(7.0, ge=0, description="Days between two fits; a CRITICAL trigger overrides it.")
    rollback_cooldown_days: float = Field(
        7.0, ge=0, description="Days without a fit after a rollback; only a person overrides it."
    )
    watch_days: float | None = Field(
        3.0,
        ge=0,
        description="Days after a promotion for which its undecided rollback watch also blocks a CRITICAL trigger, so "
        "that a bad version is rolled back first. Null: the watch blocks nothing.",
    )
    retry_days: float = Field(1.0, ge=0, description="Days between two runs, whatever the result of the first.")
    min_samples: int = Field(100, ge=1, description="Matured labels that a training needs.")
    change_days: float = Field(
        60.0,
        ge=0,
        description="Days after a change of the outcomes until which a training waits for min_samples newer labels.",
    )
    min_new_labels: int = Field(25, ge=1, description="New labels that a training after drift or degradation needs.")
    min_severity: Severity = Field(
        "HIGH", description="Lowest severity of drift or degradation that triggers a retraining."
    )
    require_performance_impact: bool = Field(
        True, description="Drift is blocked if enough outcomes show no rise of the loss."
    )
    performance_outcomes: int = Field(
        30, ge=1, description="Matured outcomes that are enough to show that the loss has not risen."
    )
    report_days: float = Field(14.0, gt=0, description="Age in days up to which a report is a trigger.")
    off_peak: tuple[int, ...] | None = Field(
        None, description="Hours (UTC) in which a training may start. Default: the tenant's quiet hours."
    )
    concurrent: int = Field(5, ge=1, description="Largest number of trainings under way in the fleet.")

    @field_validator("schedule")
    @classmethod
    def _classes(cls, value: tuple[VolumeClass, ...]) -> tuple[VolumeClass, ...]:
        starts = [part.weekly_items for part in value]
        if len(set(starts)) < len(starts) or 0 not in starts:
            raise ValueError("needs classes with different weekly_items; one class must have 0")
        return tuple(sorted(value, key=lambda part: -part.weekly_items))

    @field_validator("off_peak")
    @classmethod
    def _hours(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or not set(value) <= set(range(24))):
            raise ValueError("needs at least one hour; hours are from 0 to 23")
        return value

    @model_validator(mode="after")
    def _backoff_is_bounded(self) -> Policy:
        if self.max_backoff < self.backoff:
            raise ValueError(f"max_backoff ({self.max_backoff:g}) is less than backoff ({self.backoff:g}). Increase it")
        return self

    def volume_class(self, weekly_items: float) -> VolumeClass:
        """Schedule of a tenant with ``weekly_items`` new items a week.

        >>> Policy().volume_class(20.0).days
        14.0
        """
        return next(part for part in self.schedule if weekly_items >= part.weekly_items)


def _fixed(name: str, days: float) -> Policy:
    """Policy that trains every ``days`` days if there is at least one new label."""
    return Policy(
        name=name,
        triggers=("schedule",),
        schedule=(VolumeClass(weekly_items=0, days=days, samples=1),),
        online_days=days,
        backoff=1,
        max_backoff=1,
        shorten=1,
        cooldown_days=0,
        retry_days=0,
        rollback_cooldown_days=0,
        watch_days=None,
    )


BUILT_IN: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(),
        Policy(name="never", triggers=()),
        _fixed("weekly", 7),
        _fixed("monthly", 28),
        _fixed("every_batch", 1),
        Policy(name="drift_only", triggers=("drift",), require_performance_impact=False),
    )
}


def load_policy(path: Path) -> Policy:
    """Read a policy from a YAML file of parameters. Other parameters keep the defaults of the product's policy.

    Parameters
    ----------
    path : Path
        The file. Its name without the suffix is the default name of the policy.

    Raises
    ------
    PolicyError
        If the file cannot be read or a parameter is not valid; the message lists every problem with its key and value.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PolicyError(f"{path}: cannot be read as YAML. Correct the file or the path: {error}") from error
    if not isinstance(content, dict):
        raise PolicyError(
            f"{path}: contains {type(content).__name__}. Write a mapping of parameters, such as cooldown_days: 14"
        )
    try:
        return Policy.model_validate({"name": path.stem} | content)
    except ValidationError as error:
        raise PolicyError(f"{path}: {'; '.join(map(_problem, error.errors()))}.") from error


def _problem(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key}: is missing. Add it"
    if problem["type"] == "extra_forbidden":
        known = ", ".join(Policy.model_fields)
        return f"{key} is not a parameter (value {problem['input']!r}). Remove it; the parameters are {known}"
    return f"{key}: {problem['input']!r}: {message}" if key else message


def find_policy(name_or_file: str) -> Policy:
    """Built-in policy by name, or the policy in a YAML file.

    Parameters
    ----------
    name_or_file : str
        Key of ``BUILT_IN``, or path of a file.

    Raises
    ------
    PolicyError
        If there is no such policy or file, or the file is not valid.

    >>> find_policy("weekly").schedule[0].days
    7.0
    """
    if name_or_file in BUILT_IN:
        return BUILT_IN[name_or_file]
    path = Path(name_or_file)
    if not path.is_file():
        raise PolicyError(f"policy {name_or_file!r} does not exist. Give a YAML file, or one of: {', '.join(BUILT_IN)}")
    return load_policy(path)
