"""``ml-pipeline status``: the state of every tenant's models, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from ml_pipeline.cli.common import (
    Rows,
    chosen_models,
    chosen_tenants,
    json_option,
    models_option,
    output,
    prepared,
    print_json,
    shortened,
    tenants_option,
    usable_specs,
)

if TYPE_CHECKING:
    from ml_pipeline.settings import Settings
    from ml_pipeline.specs import Specs
    from ml_pipeline.work.fleet import Status

LIMIT = 30
ORDERS = ("state", "health", "skill", "rows", "tenant", "model")
COLOURS = {"failing": "bold red", "degraded": "red", "drifting": "yellow", "poor": "yellow", "well": "green"}


@click.command("status")
@tenants_option
@models_option
@click.option("--unhealthy", is_flag=True, help="Only models that are not well.")
@click.option(
    "--sort",
    type=click.Choice(ORDERS),
    default="state",
    show_default=True,
    help="State, health, skill and rows: lowest first.",
)
@click.option("--limit", type=click.IntRange(1), help=f"Maximum number of models.  [default: {LIMIT}; with --json all]")
@json_option
def status_command(
    tenants: Sequence[str], models: Sequence[str], unhealthy: bool, sort: str, limit: int | None, as_json: bool
) -> None:
    """Show each model of each tenant: version, metric against the baseline, health, and why.

    \b
    failing      its last run failed
    degraded     its loss rose significantly
    drifting     its data changed significantly
    poor         its health is below 50 of 100
    not_serving  it has a version, but no champion
    untrained    it has no version
    well         none of these

    Value and baseline are in the model's own metric; skill is the share of the baseline's loss that the version saves.
    """
    with prepared() as settings:
        selection = Selection(unhealthy, sort, limit)
        show_status(settings, usable_specs(settings), tenants, models, as_json, selection)


@dataclass(frozen=True)
class Selection:
    """Which of the models are shown, and in which order."""

    unhealthy: bool = False  # only models that are not well
    sort: str = "tenant"
    limit: int | None = None


ALL = Selection()


def show_status(
    settings: Settings,
    specs: Specs,
    only_tenants: Sequence[str],
    only_models: Sequence[str],
    as_json: bool,
    selection: Selection = ALL,
) -> None:
    """Prints the number of models in each state, and the selected models."""
    from ml_pipeline.resources.registry import Registry
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.fleet import counted, fleet_status, in_order

    warehouse = Warehouse(settings)
    chosen = {name: specs[name] for name in chosen_models(specs, only_models)}
    rows = fleet_status(warehouse, Registry(settings), chosen, chosen_tenants(warehouse.tenants(), only_tenants))
    wanted = in_order([row for row in rows if row.state != "well"] if selection.unhealthy else rows, selection.sort)
    if as_json:
        print_json([asdict(row) for row in wanted[: selection.limit]])
        return
    tenants = len({row.tenant for row in rows})
    what = f"{len(rows):,} model{'' if len(rows) == 1 else 's'} of {tenants:,} tenant{'' if tenants == 1 else 's'}"
    states = ", ".join(f"{count:,} {state}" for state, count in counted(rows).items())
    output.say(f"{what}: {states}" if states else "There are no tenants. Import some: ml-pipeline import jira FILE")
    shown = wanted[: selection.limit or LIMIT]
    if not shown:
        return
    output.print(_table(shown))
    if len(shown) < len(wanted):
        output.say(f"{len(wanted) - len(shown):,} more are not shown: use --limit, --unhealthy, --tenant, --model.")
    output.say("The decisions behind a state: ml-pipeline explain --tenant TENANT --model MODEL")


def _table(rows: Sequence[Status]) -> Rows:
    table = Rows()
    for name in ("tenant", "model"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=24)
    table.add_column("state", no_wrap=True)
    for name in ("version", "value", "baseline", "skill", "health"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("why")
    for row in rows:
        state, why = Text(row.state, COLOURS.get(row.state, "")), shortened(row.state_reason.partition(" (")[0])
        table.add_row(row.tenant, row.model, state, *_numbers(row), why)
    return table


def _numbers(row: Status) -> list[str]:
    def shown(value: Any, form: str) -> str:
        return "" if value is None else format(value, form)

    return [
        shown(row.version, "d"),
        shown(row.value, ".3g"),
        shown(row.baseline_value, ".3g"),
        shown(row.skill, "+.0%"),
        shown(row.health, ".0f"),
    ]
