"""How a batched run tells the truth about each tenant: materialized, or failed, with what a person wants to know."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

SHOWN_FAILURES = 20


def materialization(key: dg.AssetKey, partition: str, facts: Mapping[str, Any]) -> dg.AssetMaterialization:
    """The event that turns one partition green, its facts as metadata; what is None is left out."""
    return dg.AssetMaterialization(key, partition=partition, metadata=metadata(facts))


def metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as Dagster shows them: a table as Markdown with a small chart, everything else by its type."""
    shown = {}
    for name, value in facts.items():
        if value is None or value == "":
            continue
        shown[name] = dg.MetadataValue.md(comparison(value)) if isinstance(value, list) else value
    return shown


def comparison(rows: Sequence[tuple[str, float | None, float | None]]) -> str:
    """Markdown table of metric, version and constant, over a bar for each of the first metric."""
    table = ["| metric | version | constant |", "|---|---|---|"]
    table += [f"| {name} | {_number(ours)} | {_number(constant)} |" for name, ours, constant in rows]
    _, ours, constant = rows[0]
    chart = (
        [f"![version against constant]({bars(ours, constant)})"] if ours is not None and constant is not None else []
    )
    return "\n".join([*chart, "", *table])


def bars(ours: float, constant: float) -> str:
    """A data URI of two bars, the version's above the constant's, in some 400 bytes."""
    longest = max(ours, constant) or 1.0
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="240" height="40">'
        f'<rect width="{240 * ours / longest:.0f}" height="16" fill="#2b7de9"/>'
        f'<rect y="20" width="{240 * constant / longest:.0f}" height="16" fill="#9aa4b2"/></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def fail_if_any(context: dg.AssetExecutionContext, failures: Mapping[str, str], total: int) -> Iterator[Any]:
    """Ends the step as failed when a tenant failed, so that exactly the partitions without an event show FAILED."""
    if not failures:
        return
    shown = [f"- `{tenant}`: {error}" for tenant, error in list(failures.items())[:SHOWN_FAILURES]]
    for line in shown:
        context.log.error(line)
    more = f"\n- and {len(failures) - SHOWN_FAILURES} more" if len(failures) > SHOWN_FAILURES else ""
    raise dg.Failure(
        f"{len(failures)} of {total} tenants failed; the others are materialized. First: {shown[0][2:]}",
        metadata={"failed": len(failures), "tenants": dg.MetadataValue.md("\n".join(shown) + more)},
        allow_retries=False,
    )
    yield  # a generator, so that the assets end with one `yield from`


def progress(context: dg.AssetExecutionContext, results: Iterable, total: int) -> Iterator:
    """Passes results on, with a log line at every tenth of the way: one line a tenant would swamp the event log."""
    step = max(1, total // 10)
    for done, result in enumerate(results, start=1):
        yield result
        if done % step == 0 and done < total:
            context.log.info(f"{done} of {total} tenants")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
