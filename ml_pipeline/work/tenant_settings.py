"""Settings of one tenant, or of one of its models, in ``ml.settings``."""

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
from ml_pipeline.specs.countries import check_country
from ml_pipeline.specs.temporal import check_time_zone

EVERY_MODEL = ""
AUTO_RETRAIN, AUTO_ROLLBACK, OFF_PEAK = "auto_retrain", "auto_rollback", "off_peak"
COUNTRY, TIME_ZONE = "country", "time_zone"
SHARE = "share"
HOURS = re.compile(r"([01]?\d|2[0-3])-([01]?\d|2[0-3])")


class BadSetting(UserError, ValueError):
    """A setting does not exist, or its value is invalid; the message says what is accepted."""


def _switch(name: str, text: str) -> bool:
    if text not in ("on", "off"):
        raise BadSetting(f"{name} is {text!r}. Write on or off")
    return text == "on"


def _hours(name: str, text: str) -> str:
    if not HOURS.fullmatch(text):
        raise BadSetting(f"{name} is {text!r}. Write two hours in UTC, for example 22-5")
    return text


def _checked_by(check: Callable[[str], str]) -> Callable[[str, str], str]:
    """Reads a text that ``check`` accepts; its ValueError becomes a BadSetting."""

    def read(name: str, text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise BadSetting(f"{name} is {text!r}: {error}") from error

    return read


_READERS: Mapping[str, Callable[[str, str], Any]] = {
    AUTO_RETRAIN: _switch,
    AUTO_ROLLBACK: _switch,
    OFF_PEAK: _hours,
    COUNTRY: _checked_by(check_country),
    TIME_ZONE: _checked_by(check_time_zone),
    SHARE: _switch,
}


def parse_setting(name: str, text: str) -> Any:
    """The value that a person wrote for a setting.

    Raises
    ------
    BadSetting
        If the setting does not exist, or the value is invalid.

    >>> parse_setting("auto_retrain", "on")
    True
    """
    check_setting_name(name)
    return _READERS[name](name, text)


def check_setting_name(name: str) -> None:
    """Checks that a setting exists.

    Raises
    ------
    BadSetting
        If it does not; the message lists the settings.
    """
    if name not in _READERS:
        raise BadSetting(f"there is no setting {name!r}; the settings are: {', '.join(_READERS)}")


@dataclass(frozen=True)
class TenantSettings:
    """Every tenant's settings by (tenant, model, name)."""

    values: Mapping[tuple[str, str, str], Any]

    def get(self, tenant: str, model: str, name: str, default: Any = None) -> Any:
        """The value for the tenant's model, else for the tenant, else ``default``."""
        for level in (model, EVERY_MODEL):
            if (tenant, level, name) in self.values:
                return self.values[tenant, level, name]
        return default


def read_settings(connection: sa.Connection) -> TenantSettings:
    """The settings that the connection can see: those of one tenant, or of all for an operator."""
    table = tables.settings
    rows = connection.execute(sa.select(table.c.tenant_id, table.c.model, table.c.name, table.c.value))
    return TenantSettings({(row.tenant_id, row.model, row.name): row.value for row in rows})


def spec_for(warehouse: Warehouse, spec: ModelSpec, tenant: str) -> ModelSpec:
    """The specification with the tenant's own country and time zone, if its features use them.

    Call it before building features for a tenant, and before asking whether a version fits the specification.
    """
    if not spec.features.temporal.is_local:
        return spec
    with warehouse.tenant(tenant) as connection:
        settings = read_settings(connection)
    return spec.in_place(*(settings.get(tenant, spec.name, name) for name in (COUNTRY, TIME_ZONE)))


def write_setting(warehouse: Warehouse, tenant: str, model: str, name: str, value: Any, changed_by: str) -> None:
    """Stores a setting of the tenant's model, or of all its models (``EVERY_MODEL``); None removes it."""
    table = tables.settings
    with warehouse.tenant(tenant) as connection:
        if value is None:
            own = (table.c.tenant_id == tenant, table.c.model == model, table.c.name == name)
            connection.execute(sa.delete(table).where(*own))
            return
        row = {"tenant_id": tenant, "model": model, "name": name, "value": value, "changed_by": changed_by}
        warehouse.upsert(connection, table, [row | {"changed_at": dt.datetime.now(dt.UTC)}])
