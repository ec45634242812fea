"""``ml-pipeline replay``: simulates a retraining policy on a tenant's own past."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_pipeline.cli.common import Rows, json_option, model_option, output, prepared, print_json, tenant_option
from ml_pipeline.display import printable

if TYPE_CHECKING:
    from ml_pipeline.replay.learner import Learner
    from ml_pipeline.replay.result import Replay
    from ml_pipeline.settings import Settings

YEAR = 365
SHOWN = 15
day_type = click.DateTime(["%Y-%m-%d"])


@click.command("replay")
@tenant_option
@model_option
@click.option("--from", "first", type=day_type, help="First day (UTC); default: a year before the last.")
@click.option("--to", "last", type=day_type, help="Last day; default: day of the tenant's newest row.")
@click.option("--policy", default="product", show_default=True, help="A YAML file or a built-in policy.")
@click.option("--against", help="A second policy to compare with: file or name.")
@click.option(
    "--change",
    "changes",
    type=day_type,
    multiple=True,
    help="Day of a known change, to measure how soon it was detected.",
)
@click.option("--drift-every", default=7, show_default=True, type=click.IntRange(1), help="Days between drift reports.")
@click.option("--plot", "picture", type=click.Path(path_type=Path, dir_okay=False), help="Write a PNG.")
@json_option
def replay_command(
    tenant: str,
    model: str,
    first: dt.datetime | None,
    last: dt.datetime | None,
    policy: str,
    against: str | None,
    changes: Sequence[dt.datetime],
    drift_every: int,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Replay a retraining policy on a tenant's past, day by day.

    Built-in policies: product, never, weekly, monthly, every_batch, drift_only. Ctrl-C ends a replay early and shows
    the days that were replayed.
    """
    from ml_pipeline.cli.common import progress_bar
    from ml_pipeline.lifecycle.policy import find_policy
    from ml_pipeline.replay.loop import replay

    policies = [find_policy(name) for name in (policy, against) if name is not None]
    if picture is not None and not picture.parent.is_dir():
        raise click.ClickException(f"--plot {picture}: the folder {picture.parent} does not exist. Create it first")
    with prepared() as settings:
        learner = _learner(settings, tenant, model, first, last)
    days = [change.date() for change in changes]
    replays = []
    for chosen in policies:
        with progress_bar(f"Replaying {chosen.name}", len(learner.history.days)) as advance:
            replays.append(replay(learner, chosen, drift_every=drift_every, changes=days, progress=advance))
    if picture is not None:
        from ml_pipeline.replay.plot import plot
        from ml_pipeline.resources import store

        store.put(str(picture.absolute()), plot(replays))
    if as_json:
        print_json({"tenant": tenant, "replays": [result.to_dict() for result in replays]})
        return
    output.print(_summary(tenant, replays))
    for result in replays:
        for line in _story(result):
            output.say(line)


def _learner(
    settings: Settings, tenant: str, model: str, first: dt.datetime | None, last: dt.datetime | None
) -> Learner:
    """A learner over the tenant's history between the days; its features are built once."""
    from ml_pipeline.cli.common import check_model_and_tenant
    from ml_pipeline.features.point_in_time import build
    from ml_pipeline.replay.history import History, NoHistory
    from ml_pipeline.replay.learner import Learner
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.specs import load_specs
    from ml_pipeline.work.tenant_settings import spec_for

    check_model_and_tenant(settings, tenant, model)
    warehouse = Warehouse(settings)
    spec = spec_for(warehouse, load_specs(settings.specs)[model], tenant)
    now = dt.datetime.now(dt.UTC)
    rows = warehouse.read_source(spec, tenant)
    end = now if last is None else min(now, last.replace(tzinfo=dt.UTC) + dt.timedelta(days=1))
    frame = build(spec, rows, end)
    if frame.empty:
        raise click.ClickException(f"tenant {tenant}, model {model}: no rows up to {end.date()}. Import some first")
    last_day = last.date() if last is not None else frame["event_time"].iloc[-1].date()
    first_day = first.date() if first is not None else last_day - dt.timedelta(days=YEAR - 1)
    try:
        return Learner(History(spec, frame, first_day, last_day))
    except NoHistory as error:
        raise click.ClickException(f"tenant {tenant}, model {error}") from error


def _summary(tenant: str, replays: Sequence[Replay]) -> Any:
    first = replays[0]
    title = f"{tenant} {first.model}, {first.first} to {first.last}"
    table = Rows(title=printable(title), title_justify="left")
    for name in (
        "policy",
        "trained",
        "updated",
        "promoted",
        "alerts",
        "outcomes",
        "loss",
        "baseline",
        "rolling",
    ):
        is_name = name == "policy"  # the one that may be folded
        table.add_column(name, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for replay in replays:
        counts = (replay.trainings, replay.updates, replay.promotions, len(replay.alerts), replay.outcomes)
        means = (replay.mean_loss(), replay.mean_loss("baseline"), replay.mean_loss("rolling"))
        cells = [str(count) for count in counts] + ["" if mean is None else f"{mean:.4g}" for mean in means]
        table.add_row(replay.policy, *cells)
    return table


def _story(replay: Replay) -> list[str]:
    """The events, oldest first: fits, alerts, rollbacks, blocked retrainings; then the delay of each alert."""
    events: list[tuple[dt.date, str]] = []
    for fit in replay.fits:
        events.append((fit.day, f"{fit.action}, {fit.trigger}: {fit.verdict}. {fit.judgement}"))
    for alert in replay.alerts:
        since = f", since {alert.since}" if alert.since else ""
        events.append((alert.day, f"alert, {alert.kind} {alert.severity}{since}. {alert.reason}".rstrip()))
    for rollback in replay.rollbacks:
        events.append((rollback.day, f"rolled back to version {rollback.to}. {rollback.reason}"))
    for block in replay.blocked:
        events.append((block.first, f"blocked for {block.days} days. {block.reason}"))
    events.sort(key=lambda event: event[0])
    lines = [replay.policy + (" (interrupted)" if replay.interrupted else "")]
    lines += [f"  {day}  {what}" for day, what in events[:SHOWN]]
    if len(events) > SHOWN:
        lines.append(f"  and {len(events) - SHOWN} more: --json lists them all")
    for delay in replay.delays:
        raised = f"an alert ({delay['kind']}) after {delay['days']} days" if delay["days"] is not None else "no alert"
        lines.append(f"  The change of {delay['change']} raised {raised}.")
    return lines
