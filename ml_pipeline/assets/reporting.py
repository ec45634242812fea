"""How a batched run tells the truth about each tenant: materialized, or failed, with what a person wants to know."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from ml_pipeline.display import markdown
from ml_pipeline.resources.compute import Result
from ml_pipeline.work.alerts.run_failures import ERRORS

SHOWN_FAILURES = 20
SHOWN_TRACEBACKS = 5  # what fails in many tenants mostly fails in one way
LONGEST_ERROR = 1000  # characters: a thousand tenants that fail add no more than 20 of these to the event log
PAGE = "MLflow"  # the one fact that is a link: any other may be what a tenant wrote


def materialization(key: dg.AssetKey, partition: str, facts: Mapping[str, Any]) -> dg.AssetMaterialization:
    """The event that turns one partition green, its facts as metadata; what is None is left out."""
    return dg.AssetMaterialization(key, partition=partition, metadata=metadata(facts))


def metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as Dagster shows them: a table as Markdown with a small chart, numbers to four digits.

    What its pages cannot show (infinity, which is no JSON) is left out like what is not known.
    """
    shown: dict[str, Any] = {}
    for name, value in facts.items():
        if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
            continue
        match value:
            case list():
                shown[name] = dg.MetadataValue.md(comparison(value))
            case str() if name == PAGE:
                shown[name] = dg.MetadataValue.url(value)
            case float():
                shown[name] = float(f"{value:.4g}")
            case _:
                shown[name] = value
    return shown


def comparison(rows: Sequence[tuple[str, float | None, float | None]]) -> str:
    """Markdown table of metric, version and constant, over a bar for each of the first metric."""
    table = ["| metric | version | constant |", "|---|---|---|"]
    table += [f"| {markdown(name)} | {_number(ours)} | {_number(constant)} |" for name, ours, constant in rows]
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


def requested(context: dg.AssetExecutionContext) -> list[Any]:
    """The partitions that a run was asked for.

    Raises
    ------
    Failure
        If there are none: Dagster runs a reversed or unknown range, does nothing, and calls it a success.
    """
    keys = list(context.partition_keys)
    if not keys:
        raise dg.Failure(
            "The range of this run holds no partition: it is reversed, or names a tenant or day that is none. "
            "Tenants are ordered by when they were added",
            allow_retries=False,
        )
    return keys


def each_tenant(
    context: dg.AssetExecutionContext, results: Iterable[Result[str]], total: int
) -> Iterator[tuple[str, dict[Any, Mapping[str, Any]]]]:
    """Each tenant with what its task finished, also where the task then failed.

    Raises
    ------
    Failure
        After the last one, if any failed: the partitions that got no event then show FAILED, and only those.
    """
    failures: dict[str, str] = {}
    tracebacks: dict[str, str] = {}
    tenth = max(1, total // 10)
    for count, result in enumerate(results, start=1):
        report = result.value
        error = result.error or report.error
        if error:
            failures[result.key] = error
            traceback = result.traceback or (report.traceback if report is not None else "")
            if traceback and len(tracebacks) < SHOWN_TRACEBACKS:
                tracebacks[result.key] = traceback
        if report is not None:
            yield result.key, report.done
        if count % tenth == 0 and count < total:  # a line a tenant would swamp the event log
            context.log.info(f"{count} of {total} tenants")
    if failures:
        raise _failure(failures, tracebacks, total)


def _failure(failures: Mapping[str, str], tracebacks: Mapping[str, str], total: int) -> dg.Failure:
    """``tenants`` and ``tracebacks`` are for people, ``errors`` is for programs: no error can forge a JSON entry."""
    shown = {tenant: error[:LONGEST_ERROR] for tenant, error in list(failures.items())[:SHOWN_FAILURES]}
    lines = [f"{tenant}: {_one_line(error)}" for tenant, error in shown.items()]
    more = [f"- and {len(failures) - SHOWN_FAILURES} more"] if len(failures) > SHOWN_FAILURES else []
    listed = "\n".join([*(f"- {_escaped(line)}" for line in lines), *more])
    return dg.Failure(
        f"{len(failures)} of {total} tenants failed; the others are materialized. First: {lines[0]}",
        metadata={
            "failed": len(failures),
            "tenants": dg.MetadataValue.md(listed),
            ERRORS: dg.MetadataValue.json(shown),
            **({"tracebacks": dg.MetadataValue.json(dict(tracebacks))} if tracebacks else {}),
        },
        allow_retries=False,
    )


def _one_line(error: str) -> str:
    return " ".join(error.split())


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, and that opens no tag."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", text)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
