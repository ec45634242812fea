"""Reports each tenant of a batched run to Dagster: materialized or failed, with metadata for people."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import dagster as dg

from ml_pipeline.assets.charts import bars, image
from ml_pipeline.display import markdown
from ml_pipeline.resources.compute import Result
from ml_pipeline.work.alerts.run_failures import ERRORS, FAILED

PREFIX = "ml_pipeline/"
SHOWN_FAILURES = 20
SHOWN_TRACEBACKS = 5  # many tenants usually fail for the same reason
LONGEST_ERROR = 1000  # characters of each of the listed errors
PAGE = "MLflow"  # the only value shown as a link; others may contain text of a tenant


def materialization(key: dg.AssetKey, partition: str, facts: Mapping[str, Any]) -> dg.AssetMaterialization:
    """The event that marks one partition as materialized, with its facts as metadata."""
    return dg.AssetMaterialization(key, partition=partition, metadata=metadata(facts))


def metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as Dagster's metadata: uniform names, tables as Markdown with a small chart, numbers with four digits.

    Empty values are left out, and so are infinity and NaN, which JSON and thus Dagster's pages cannot show.
    """
    shown: dict[str, Any] = {}
    for name, value in facts.items():
        if value is None or value == "" or value == () or (isinstance(value, float) and not math.isfinite(value)):
            continue
        key = metadata_key(name)
        match value:
            case list():
                shown[key] = dg.MetadataValue.md(comparison(value))
            case dg.MetadataValue():  # before tuple, because it is one
                shown[key] = value
            case tuple():
                shown[key] = ", ".join(value)
            case str() if name == PAGE:
                shown[key] = dg.MetadataValue.url(value)
            case float():
                shown[key] = float(f"{value:.4g}")
            case _:
                shown[key] = value
    return shown


@lru_cache(maxsize=1024)  # the same few names for each of thousands of tenants
def metadata_key(name: str) -> str:
    """The name of a fact in Dagster, with a prefix that separates it from names of other tools.

    >>> metadata_key("weakest measure"), metadata_key("Hours saved, of the baseline")
    ('ml_pipeline/weakest_measure', 'ml_pipeline/hours_saved_of_the_baseline')
    """
    return PREFIX + re.sub(r"\W+", "_", name).strip("_").lower()


def comparison(rows: Sequence[tuple[str, float | None, float | None]]) -> str:
    """Two bars for the first metric, and below them a Markdown table of metric, version and baseline."""
    table = ["| metric | version | baseline |", "|---|---|---|"]
    table += [f"| {markdown(name)} | {number(ours)} | {number(baseline)} |" for name, ours, baseline in rows]
    _, ours, baseline = rows[0]
    if ours is None or baseline is None:
        return "\n".join(["", *table])
    return "\n".join([image("version against baseline", bars(ours, baseline)), "", *table])


def requested(context: dg.AssetExecutionContext) -> list[Any]:
    """The partitions of a run.

    Raises
    ------
    Failure
        If there are none. Without this error, Dagster would report a reversed or unknown range as a success.
    """
    keys = list(context.partition_keys)
    if not keys:
        raise dg.Failure(
            "The range of this run contains no partition: it is reversed, or names an unknown tenant or day. Tenants "
            "are ordered by when they were added. Start the run again with the two ends in that order",
            allow_retries=False,
        )
    return keys


def each_tenant(
    context: dg.AssetExecutionContext, results: Iterable[Result[str]], total: int
) -> Iterator[tuple[str, dict[Any, Mapping[str, Any]]]]:
    """Each tenant with the results of its task; of a failed task, the results from before the failure.

    Raises
    ------
    Failure
        After the last tenant, if any failed. Dagster then shows exactly the partitions without an event as failed.
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
        if count % tenth == 0 and count < total:  # one line per tenant would fill the event log
            context.log.info(f"{count} of {total} tenants")
    if failures:
        raise _failure(failures, tracebacks, total)


def _failure(failures: Mapping[str, str], tracebacks: Mapping[str, str], total: int) -> dg.Failure:
    """The failure of a run. Programs read the errors as JSON, in which the text of an error cannot forge an entry."""
    shown = {tenant: error[:LONGEST_ERROR] for tenant, error in list(failures.items())[:SHOWN_FAILURES]}
    lines = [f"{tenant}: {' '.join(error.split())}" for tenant, error in shown.items()]
    escaped = [re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", line) for line in lines]  # Markdown and HTML characters
    more = [f"- and {len(failures) - SHOWN_FAILURES} more"] if len(failures) > SHOWN_FAILURES else []
    listed = "\n".join([*(f"- {line}" for line in escaped), *more])
    return dg.Failure(
        f"{len(failures)} of {total} tenants failed; the others are materialized. First: {lines[0]}",
        metadata={
            FAILED: len(failures),
            metadata_key("tenants"): dg.MetadataValue.md(listed),
            ERRORS: dg.MetadataValue.json(shown),
            **({metadata_key("tracebacks"): dg.MetadataValue.json(dict(tracebacks))} if tracebacks else {}),
        },
        allow_retries=False,
    )


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
