"""What is set for one tenant, or one of its models, in ``ml.settings``."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ml_pipeline.errors import UserError
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.countries import UnknownCountry, check_country
from ml_pipeline.specs.temporal import check_time_zone

EVERY_MODEL = ""
AUTO_RETRAIN, AUTO_ROLLBACK, OFF_PEAK = "auto_retrain", "auto_rollback", "off_peak"
COUNTRY, TIME_ZONE = "country", "time_zone"
SHARE = "share"
HOURS = re.compile(r"([01]?\d|2[0-3])-([01]?\d|2[0-3])")


class BadSetting(UserError, ValueError):
    """A setting that does not exist, or a value that it does not take; the message says what is accepted."""


def _switch(name: str, text: str) -> bool:
    if text not in ("on", "off"):
        raise BadSetting(f"{name} is {text!r}. Write on or off")
    return text == "on"


def _hours(name: str, text: str) -> str:
    if not HOURS.fullmatch(text):
        raise BadSetting(f"{name} is {text!r}. Write two hours in UTC, for example 22-5")
    return text


def _country(name: str, text: str) -> str:
    try:
        return check_country(text)
    except UnknownCountry as error:
        raise BadSetting(f"{name} is {text!r}: {error}") from error


def _time_zone(name: str, text: str) -> str:
    try:
        return check_time_zone(text)
    except ValueError as error:
        raise BadSetting(f"{name} is {text!r}: {error}") from error


_READERS: Mapping[str, Callable[[str, str], Any]] = {
    AUTO_RETRAIN: _switch,
    AUTO_ROLLBACK: _switch,
    OFF_PEAK: _hours,
    COUNTRY: _country,
    TIME_ZONE: _time_zone,
    SHARE: _switch,
}


def parse_setting(name: str, text: str) -> Any:
    """The value that a person wrote for a setting.

    Raises
    ------
    BadSetting
        If there is no such setting, or it does not take the value.

    >>> parse_setting("auto_retrain", "on")
    True
    """
    check_setting_name(name)
    return _READERS[name](name, text)


def check_setting_name(name: str) -> None:
    """Refuses a name that is no setting.

    Raises
    ------
    BadSetting
        If it is none; the message lists the settings.
    """
    if name not in _READERS:
        raise BadSetting(f"there is no setting {name!r}; the settings are: {', '.join(_READERS)}")


@dataclass(frozen=True)
class TenantSettings:
    """Every tenant's settings by (tenant, model, name)."""

    values: Mapping[tuple[str, str, str], Any]

    def get(self, tenant: str, model: str, name: str, default: Any = None) -> Any:
        """What is set for the tenant's model, else for the tenant, else ``default``."""
        for level in (model, EVERY_MODEL):
            if (tenant, level, name) in self.values:
                return self.values[tenant, level, name]
        return default


def read_settings(connection: sa.Connection) -> TenantSettings:
    """The settings that the connection may see: one tenant's, or an operator's view of all."""
    table = tables.settings
    rows = connection.execute(sa.select(table.c.tenant_id, table.c.model, table.c.name, table.c.value))
    return TenantSettings({(row.tenant_id, row.model, row.name): row.value for row in rows})


def spec_for(warehouse: Warehouse, spec: ModelSpec, tenant: str) -> ModelSpec:
    """The specification with the tenant's own country and clock, where its features look at either.

    Everything that builds features for a tenant, or asks whether a version answers its question, begins with this.
    """
    if not spec.features.temporal.is_local:
        return spec
    with warehouse.tenant(tenant) as connection:
        settings = read_settings(connection)
    return spec.in_place(*(settings.get(tenant, spec.name, name) for name in (COUNTRY, TIME_ZONE)))


def write_setting(warehouse: Warehouse, tenant: str, model: str, name: str, value: Any, changed_by: str) -> None:
    """Sets it for the tenant's model, or for all its models (``EVERY_MODEL``); None takes the setting back."""
    table = tables.settings
    with warehouse.tenant(tenant) as connection:
        if value is None:
            own = (table.c.tenant_id == tenant, table.c.model == model, table.c.name == name)
            connection.execute(sa.delete(table).where(*own))
            return
        row = {"tenant_id": tenant, "model": model, "name": name, "value": value, "changed_by": changed_by}
        warehouse.upsert(connection, table, [row | {"changed_at": dt.datetime.now(dt.UTC)}])
