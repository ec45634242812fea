"""Asset checks: one result per check and run, over all tenants of the run.

A check per tenant would cost a query and an event each. These checks evaluate the metadata that the run returns, count
the tenants that fail, and name the worst. The details of each tenant are in the pipeline's tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from ml_pipeline.assets import charts
from ml_pipeline.assets.reporting import metadata, number
from ml_pipeline.display import code, markdown
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.monitoring import CheckName
from ml_pipeline.work.monitoring.task import DAILY_METRICS, DRIFT_REPORT
from ml_pipeline.work.training.task import FEATURES, MODEL

SHOWN_TENANTS = 10
SHOWN_COLUMNS = 10

Facts = Mapping[str, Any]
History = Callable[[], Sequence[float]]


@dataclass(frozen=True)
class Verdict:
    """The result of a check for one tenant. Failing tenants are listed by ``badness``, largest first."""

    failed: bool
    badness: float
    detail: str


@dataclass(frozen=True)
class Check:
    """A check of one tenant by the metadata of one step: of each day, oldest first, or of the one run."""

    name: CheckName
    step: str
    description: str
    judge: Callable[[ModelSpec, Sequence[Facts]], Verdict | None]  # None: the check does not apply to this tenant


def data_quality(model: ModelSpec, facts: Sequence[Facts]) -> Verdict | None:
    (only,) = facts
    failed = only.get("failed gates") or ""
    return Verdict(bool(failed), -only["quality"], failed or f"quality {only['quality']:.0f} of 100")


def beats_baseline(model: ModelSpec, facts: Sequence[Facts]) -> Verdict | None:
    (only,) = facts
    skill = only.get("skill")
    if skill is None:  # no model was trained
        return None
    return Verdict(skill <= 0, -skill, f"skill {skill:.1%}, decision {only['decision']}")


def outcome_completeness(model: ModelSpec, facts: Sequence[Facts]) -> Verdict | None:
    outcomes = sum(day["outcomes"] for day in facts)
    if not outcomes:
        return None
    evaluated = sum(day["evaluated"] for day in facts)
    missing = any(day.get("predictions missing") for day in facts)
    return Verdict(missing, -evaluated / outcomes, f"{evaluated} of {outcomes} outcomes had a prediction before them")


def drift(model: ModelSpec, facts: Sequence[Facts]) -> Verdict | None:
    newest = facts[-1]
    if newest["status"] == "insufficient_data":
        return None
    return Verdict(bool(newest.get("drift alert")), newest.get("score") or 0.0, newest["reason"])


def health(model: ModelSpec, facts: Sequence[Facts]) -> Verdict | None:
    newest = facts[-1]
    score = newest.get("health")
    if score is None:
        return None
    return Verdict(score < model.monitoring.checks.min_health, -score, f"health {score:.0f} of 100. {newest['reason']}")


CHECKS = (
    Check(
        "data_quality",
        FEATURES,
        "The snapshot passes every quality gate, so that a model may be trained.",
        data_quality,
    ),
    Check("beats_baseline", MODEL, "The trained version is better than the baseline on the test part.", beats_baseline),
    Check(
        "outcome_completeness",
        DAILY_METRICS,
        "At least the share monitoring.min_completeness of the outcomes had a prediction before them.",
        outcome_completeness,
    ),
    Check("drift", DRIFT_REPORT, "The newest report raises no drift alert.", drift),
    Check("health", DRIFT_REPORT, "Health is at least monitoring.checks.min_health.", health),
)


def check_specs(model: ModelSpec, steps: Sequence[str]) -> list[dg.AssetCheckSpec]:
    """The checks of the model's assets that are made by these steps."""
    tolerated = f"{model.monitoring.checks.max_share:.0%}"
    return [
        dg.AssetCheckSpec(
            check.name,
            asset=dg.AssetKey([model.name, check.step]),
            description=f"{check.description} The check fails if more than {tolerated} of a run's tenants do not.",
        )
        for check in CHECKS
        if check.step in steps
    ]


@dataclass
class _Count:
    evaluated: int = 0
    failing: list[tuple[str, Verdict]] = field(default_factory=list)


class Tally:
    """Counts the verdicts of the selected checks over the tenants of one run.

    ``loss_by_day`` is called at most once, for the check ``health``. It returns the loss of the fleet as a share of the
    baseline's, oldest day first.
    """

    def __init__(self, model: ModelSpec, selected: set[dg.AssetCheckKey], loss_by_day: History = tuple) -> None:
        self._model = model
        self._loss_by_day = loss_by_day
        self._counts = {
            check: _Count()
            for check in CHECKS
            if dg.AssetCheckKey(dg.AssetKey([model.name, check.step]), check.name) in selected
        }
        self._drifted: Counter[str] = Counter()

    def add(self, tenant: str, done: Mapping[str, Sequence[Facts]]) -> None:
        """Adds a tenant: its metadata by step."""
        for check, count in self._counts.items():
            facts = done.get(check.step)
            verdict = check.judge(self._model, facts) if facts else None
            if verdict is None:
                continue
            count.evaluated += 1
            if verdict.failed:
                count.failing.append((tenant, verdict))
            if check.name == "drift" and facts:
                self._drifted.update(facts[-1].get("drifted") or ())

    def results(self) -> Iterator[dg.AssetCheckResult]:
        """One result per selected check."""
        for check, count in self._counts.items():
            yield self._result(check, count)

    def _result(self, check: Check, count: _Count) -> dg.AssetCheckResult:
        checks = self._model.monitoring.checks
        failing = len(count.failing)
        facts: dict[str, Any] = {"tenants": count.evaluated, "failing": failing}
        if count.evaluated:
            facts["share failing"] = failing / count.evaluated
        shown = metadata(facts)
        if count.failing:
            first = sorted(count.failing, key=lambda found: (-found[1].badness, found[0]))[:SHOWN_TENANTS]
            lines = ["| tenant | |", "|---|---|"]
            lines += [f"| {code(tenant)} | {markdown(verdict.detail[:300])} |" for tenant, verdict in first]
            if more := len(count.failing) - len(first):
                lines.append(f"\nand {more} more")
            shown |= metadata({"worst tenants": dg.MetadataValue.md("\n".join(lines))})
        if picture := self._picture(check, count):
            shown |= metadata({"chart": dg.MetadataValue.md(picture)})
        return dg.AssetCheckResult(
            asset_key=dg.AssetKey([self._model.name, check.step]),
            check_name=check.name,
            passed=failing <= checks.max_share * count.evaluated,
            severity=dg.AssetCheckSeverity.ERROR if check.name in checks.error else dg.AssetCheckSeverity.WARN,
            description=f"{failing} of {count.evaluated} tenants fail."
            if count.evaluated
            else "The check does not apply to any tenant of this run.",
            metadata=shown,
        )

    def _picture(self, check: Check, count: _Count) -> str:
        if check.name == "drift" and self._drifted:
            named = {name: number / count.evaluated for name, number in self._drifted.most_common(SHOWN_COLUMNS)}
            described = "share of tenants in which a column has drifted"
            return f"{charts.image(described, charts.shares(named))}\n\n{described}"
        if check.name == "health" and (losses := self._loss_by_day()):
            described = "median loss by day as a share of the baseline's, which is the dashed line"
            return f"{charts.image(described, charts.line(losses, alarm=1.0))}\n\n{described}: {number(losses[-1])}"
        return ""
