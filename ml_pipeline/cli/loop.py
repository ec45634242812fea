"""``ml-pipeline set``, ``explain`` and ``retrain``: switching the loop on, asking it why, and starting it by hand."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.text import Text

from ml_pipeline.cli.common import (
    Rows,
    check_model_and_tenant,
    json_option,
    output,
    prepared,
    progress_bar,
    recover_and_tell,
)
from ml_pipeline.display import printable
from ml_pipeline.settings import Settings
from ml_pipeline.specs import load_specs

tenant_option = click.option("--tenant", required=True)


@click.command("set")
@click.argument("name")
@click.argument("value")
@tenant_option
@click.option("--model", help="Only this model of the tenant.")
@click.option("--by", default="command line", show_default=True, help="Who changes it, for the record.")
def set_command(name: str, value: str, tenant: str, model: str | None, by: str) -> None:
    """Switch something for one tenant.

    NAME and VALUE: auto_retrain on or off, auto_rollback on or off, off_peak with hours in UTC (22-5); for models with
    calendar features, country with the code of its holidays (CZ, DE-BY) and time_zone with the name of its clock
    (Europe/Prague); for models with training.share, share on or off. A value of - takes it back: what the installation,
    or the specification, says holds again.
    """
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.tenant_settings import EVERY_MODEL, parse_setting, write_setting

    parsed = None if value == "-" else parse_setting(name, value)
    with prepared() as settings:
        check_model_and_tenant(settings, tenant, model)
        write_setting(Warehouse(settings), tenant, model or EVERY_MODEL, name, parsed, by)
    whose = f"{tenant} {model}" if model else f"every model of {tenant}"
    output.say(f"{name} is {'as the installation says' if parsed is None else value} for {whose}.")


@click.command("explain")
@tenant_option
@click.option("--model", required=True)
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="As it was decided by the end of this day (UTC).")
@json_option
def explain_command(tenant: str, model: str, day: dt.datetime | None, as_json: bool) -> None:
    """The last decisions about a tenant's model: each safeguard with its numbers, in plain words."""
    from ml_pipeline.work.context import Clients
    from ml_pipeline.work.retraining.explain import explain

    with prepared() as settings:
        check_model_and_tenant(settings, tenant, model)
        spec = load_specs(settings.specs)[model]
        found = explain(Clients(settings), spec, tenant, dt.datetime.now(dt.UTC), day.date() if day else None)
    if as_json:
        now = None if found.now is None else {"verdict": found.now.verdict, "reason": found.now.reason}
        print(json.dumps({"decisions": found.decisions, "now": now}, default=str, indent=1))
        return
    output.say((f"{tenant} {model}", "bold"))
    if not found.decisions:
        output.print("Nothing was decided yet.")
    for question, decision in found.decisions.items():
        _print_decision(question, decision)
    if found.now is not None:
        output.say("")
        output.say(("now", "bold"), f": {found.now.reason}")
    if found.undecided:
        output.say("")
        output.say(("now", "bold"), f": nothing is decided: {found.undecided}")


def _print_decision(question: str, decision: Mapping[str, Any]) -> None:
    version = f", version {decision['version']}" if decision["version"] else ""
    when = f"{decision['as_of']:%Y-%m-%d %H:%M} UTC{version}"
    output.say("")
    output.say((question, "bold"), f", {when}: {decision['verdict']}")
    output.say(f"  {decision['reason']}")
    safeguards = decision["numbers"].get("safeguards")
    if safeguards:
        output.print(_safeguard_table(safeguards))


def _safeguard_table(safeguards: Sequence[Mapping[str, Any]]) -> Rows:
    table = Rows("safeguard", "", "what it says")
    for guard in safeguards:
        mark = Text("passed", "green") if guard["passed"] else Text("blocks", "red")
        if guard["overridden"]:
            mark = Text(printable(f"overridden by {guard['overridden']}"), "yellow")
        table.add_row(guard["name"], mark, guard["sentence"])
    return table


@click.command("retrain")
@tenant_option
@click.option("--model", required=True)
@click.option("--reason", default="", help="Why, for the record.")
@click.option("--by", default="command line", show_default=True, help="Who asks for it.")
def retrain_command(tenant: str, model: str, reason: str, by: str) -> None:
    """Retrain a tenant's model now.

    Flags, cool-downs, off-peak hours and an undecided watch are overridden; the other safeguards are not.
    """
    from ml_pipeline import launch
    from ml_pipeline.lifecycle.retraining import Request
    from ml_pipeline.resources.leases import lease
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.retraining.decide import decide_for, waiting

    own = str(uuid.uuid4())
    with prepared() as settings, launch.dagster_instance(settings) as instance, lease(settings, own):
        check_model_and_tenant(settings, tenant, model)
        warehouse = Warehouse(settings)
        recover_and_tell(instance, warehouse)
        specs = {model: load_specs(settings.specs)[model]}
        tick = decide_for(
            warehouse,
            settings,
            specs,
            [tenant],
            dt.datetime.now(dt.UTC),
            under_way=len(waiting(warehouse)),
            request=Request(by, reason),
            lease=own,
        )
        for _, decision in tick.blocked:
            raise click.ClickException(decision.reason)
        failures = _run(settings, instance, tick.approved)
    if failures:
        raise click.ClickException("; ".join(failures))


def _run(settings: Settings, instance: Any, approved: Sequence[Any]) -> list[str]:
    from ml_pipeline import launch
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.context import Clients
    from ml_pipeline.work.retraining.explain import explain

    known = launch.add_partitions(instance, Warehouse(settings).tenants())
    with progress_bar("Retraining", len(approved)) as advance:
        launched = launch.retrain(instance, known, approved, advance)
    for item in approved:
        spec = load_specs(settings.specs)[item.model]
        found = explain(Clients(settings), spec, item.tenant, dt.datetime.now(dt.UTC))
        judged = found.decisions.get("training")
        if judged is not None:
            output.say(f"{item.tenant} {item.model}: {judged['verdict']}. {judged['reason']}")
    return launched.failures
