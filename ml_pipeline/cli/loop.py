"""``ml-pipeline set``, ``unset``, ``explain`` and ``retrain``: the settings, decisions and runs of retraining."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from ml_pipeline.cli.common import (
    Rows,
    by_option,
    check_model_and_tenant,
    checked_spec,
    json_option,
    model_option,
    output,
    prepared,
    print_json,
    progress_bar,
    recover_and_tell,
    tenant_option,
)
from ml_pipeline.cli.completion import complete_models
from ml_pipeline.display import printable

if TYPE_CHECKING:
    from ml_pipeline.settings import Settings

SETTINGS = ("auto_retrain", "auto_rollback", "off_peak", "country", "time_zone", "share")


name_argument = click.argument(
    "name", shell_complete=lambda _context, _argument, begun: [name for name in SETTINGS if name.startswith(begun)]
)
only_model_option = click.option("--model", help="Only this model of the tenant.", shell_complete=complete_models)


@click.command("set")
@name_argument
@click.argument("value")
@tenant_option
@only_model_option
@by_option
@json_option
def set_command(name: str, value: str, tenant: str, model: str | None, by: str, as_json: bool) -> None:
    """Change a setting of one tenant, or of one of its models.

    \b
    auto_retrain, auto_rollback  on or off
    off_peak                     hours in UTC: 22-5
    country                      code of its holidays: CZ, DE-BY (models with calendar features)
    time_zone                    name of its clock: Europe/Prague (models with calendar features)
    share                        on or off (models with training.share)
    """
    from ml_pipeline.work.tenant_settings import parse_setting

    if value == "-":
        raise click.UsageError(f"'-' is not a value. To remove the setting: ml-pipeline unset {name}")
    _write(name, parse_setting(name, value), tenant, model, by)
    if as_json:
        print_json({"tenant": tenant, "model": model, "name": name, "value": value})
    else:
        output.say(f"{name} is {value} for {_whose(tenant, model)}.")


@click.command("unset")
@name_argument
@tenant_option
@only_model_option
@by_option
@json_option
def unset_command(name: str, tenant: str, model: str | None, by: str, as_json: bool) -> None:
    """Remove a setting of a tenant: the installation's or the specification's value applies again."""
    from ml_pipeline.work.tenant_settings import check_setting_name

    check_setting_name(name)
    _write(name, None, tenant, model, by)
    if as_json:
        print_json({"tenant": tenant, "model": model, "name": name, "value": None})
    else:
        output.say(f"{name} is no longer set for {_whose(tenant, model)}.")


def _write(name: str, value: Any, tenant: str, model: str | None, by: str) -> None:
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.tenant_settings import EVERY_MODEL, write_setting

    with prepared() as settings:
        check_model_and_tenant(settings, tenant, model)
        write_setting(Warehouse(settings), tenant, model or EVERY_MODEL, name, value, by)


def _whose(tenant: str, model: str | None) -> str:
    return f"{tenant} {model}" if model else f"every model of {tenant}"


@click.command("explain")
@tenant_option
@model_option
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Decisions up to the end of this day (UTC).")
@json_option
def explain_command(tenant: str, model: str, day: dt.datetime | None, as_json: bool) -> None:
    """Explain the last decisions about a tenant's model, with each safeguard and its numbers."""
    from ml_pipeline.work.context import Clients
    from ml_pipeline.work.retraining.explain import explain

    with prepared() as settings:
        spec = checked_spec(settings, tenant, model)
        found = explain(Clients(settings), spec, tenant, dt.datetime.now(dt.UTC), day.date() if day else None)
    if as_json:
        now = None if found.now is None else {"verdict": found.now.verdict, "reason": found.now.reason}
        print_json({"decisions": found.decisions, "now": now})
        return
    output.say((f"{tenant} {model}", "bold"))
    if not found.decisions:
        output.print("No decision yet.")
    for question, decision in found.decisions.items():
        _print_decision(question, decision)
    if found.now is not None:
        output.say("")
        output.say(("now", "bold"), f": {found.now.reason}")
    if found.undecided:
        output.say("")
        output.say(("now", "bold"), f": no decision: {found.undecided}")


def _print_decision(question: str, decision: Mapping[str, Any]) -> None:
    version = f", version {decision['version']}" if decision["version"] else ""
    when = f"{decision['as_of']:%Y-%m-%d %H:%M} UTC{version}"
    output.say("")
    output.say((question, "bold"), f", {when}: {decision['verdict']}")
    output.say(f"  {decision['reason']}")
    if business := _business(decision["numbers"]):
        output.say(f"  business metrics: {business}")
    safeguards = decision["numbers"].get("safeguards")
    if safeguards:
        output.print(_safeguard_table(safeguards))


def _business(numbers: Mapping[str, Any]) -> str:
    prefix, suffix = "business_", "_baseline"
    names = [key.removeprefix(prefix) for key in numbers if key.startswith(prefix) and not key.endswith(suffix)]
    found = [(name, numbers[f"{prefix}{name}"], numbers.get(f"{prefix}{name}{suffix}")) for name in names]
    return ", ".join(
        f"{name} {value:.3g}" + ("" if baseline is None else f" (baseline {baseline:.3g})")
        for name, value, baseline in found
        if value is not None
    )


def _safeguard_table(safeguards: Sequence[Mapping[str, Any]]) -> Rows:
    table = Rows()
    table.add_column("safeguard", no_wrap=True, overflow="ellipsis")
    table.add_column("")
    table.add_column("why", ratio=1)
    for guard in safeguards:
        mark = Text("passed", "green") if guard["passed"] else Text("blocks", "red")
        if guard["overridden"]:
            mark = Text(printable(f"overridden by {guard['overridden']}"), "yellow")
        table.add_row(guard["name"], mark, guard["sentence"])
    return table


@click.command("retrain")
@tenant_option
@model_option
@click.option("--reason", default="", help="Reason, stored with the decision.")
@by_option
@json_option
def retrain_command(tenant: str, model: str, reason: str, by: str, as_json: bool) -> None:
    """Retrain a tenant's model now.

    This overrides flags, cool-downs, off-peak hours and an open rollback watch, but no other safeguard.
    """
    from ml_pipeline import launch
    from ml_pipeline.lifecycle.retraining import Request
    from ml_pipeline.resources.leases import lease
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.context import Clients
    from ml_pipeline.work.retraining.decide import decide_for, waiting
    from ml_pipeline.work.retraining.fleet_state import Running

    own = str(uuid.uuid4())
    with prepared() as settings, launch.dagster_instance(settings) as instance, lease(settings, own):
        specs = {model: checked_spec(settings, tenant, model)}
        warehouse = Warehouse(settings)
        recover_and_tell(instance, warehouse)
        tick = decide_for(
            Clients(settings),
            specs,
            [tenant],
            dt.datetime.now(dt.UTC),
            running=Running(fleet=len(waiting(warehouse))),
            request=Request(by, reason),
            lease=own,
        )
        for _, decision in tick.blocked:
            raise click.ClickException(decision.reason)
        failures = _run(settings, instance, tick.approved, as_json)
    if failures:
        raise click.ClickException("; ".join(failures))


def _run(settings: Settings, instance: Any, approved: Sequence[Any], as_json: bool) -> list[str]:
    from ml_pipeline import launch
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.context import Clients
    from ml_pipeline.work.retraining.explain import explain

    known = launch.add_partitions(instance, Warehouse(settings).tenants())
    with progress_bar("Retraining", len(approved)) as advance:
        launched = launch.retrain(instance, known, approved, advance)
    for item in approved:
        spec = checked_spec(settings, item.tenant, item.model)
        found = explain(Clients(settings), spec, item.tenant, dt.datetime.now(dt.UTC))
        judged = found.decisions.get("training")
        if as_json:
            print_json({"tenant": item.tenant, "model": item.model, "action": item.action, "training": judged})
        elif judged is not None:
            output.say(f"{item.tenant} {item.model}: {judged['verdict']}. {judged['reason']}")
    return launched.failures
