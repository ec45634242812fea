"""What the checks of a run say of its tenants."""

from __future__ import annotations

import dagster as dg
import pytest

from ml_pipeline.assets.checks import CHECKS, Tally
from ml_pipeline.assets.factory import with_checks
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.specs.monitoring import Checks

SPEC = load_specs()["story_points"]
SELECTED = {dg.AssetCheckKey(dg.AssetKey([SPEC.name, check.step]), check.name) for check in CHECKS}


def with_settings(**checks) -> ModelSpec:
    monitoring = SPEC.monitoring.model_copy(update={"checks": Checks(**checks)})
    return SPEC.model_copy(update={"monitoring": monitoring})


def report(health: float = 90.0, **facts) -> dict:
    return {"status": "stable", "score": 0.0, "health": health, "reason": "nothing moved", **facts}


def results(tally: Tally) -> dict[str, dg.AssetCheckResult]:
    return {str(result.check_name): result for result in tally.results()}


def shown(result: dg.AssetCheckResult, key: str):
    return result.metadata[f"ml_pipeline/{key}"].value


def health_of(*scores: float, spec: ModelSpec = SPEC) -> dg.AssetCheckResult:
    tally = Tally(spec, SELECTED)
    for number, score in enumerate(scores):
        tally.add(f"t{number}", {"drift_report": [report(score)]})
    return results(tally)["health"]


def test_a_check_counts_the_tenants_and_names_the_worst_first():
    result = health_of(90, 20, 80, 10)
    assert (result.passed, shown(result, "tenants"), shown(result, "failing")) == (False, 4, 2)
    assert shown(result, "worst_tenants").splitlines()[2:] == [
        "| `t3` | health 10 of 100. nothing moved |",
        "| `t1` | health 20 of 100. nothing moved |",
    ]


def test_no_more_than_ten_tenants_are_named():
    result = health_of(*range(40))
    assert shown(result, "worst_tenants").count("\n| `") == 10
    assert shown(result, "worst_tenants").endswith("and 30 more")


@pytest.mark.parametrize(("failing", "passed"), [(0, True), (5, True), (6, False)])
def test_a_share_of_the_tenants_may_fail(failing: int, passed: bool):
    assert health_of(*([10.0] * failing + [90.0] * (100 - failing))).passed is passed


def test_a_check_warns_unless_the_specification_names_it():
    assert health_of(10).severity is dg.AssetCheckSeverity.WARN
    assert health_of(10, spec=with_settings(error=["health"])).severity is dg.AssetCheckSeverity.ERROR


def test_a_tenant_of_whom_nothing_is_known_counts_neither_way():
    tally = Tally(SPEC, SELECTED)
    unknown = report(status="insufficient_data", health=None)
    tally.add("new", {"drift_report": [unknown], "model": [{"decision": "insufficient_data"}]})
    for name in ("drift", "health", "beats_baseline"):
        result = results(tally)[name]
        assert (result.passed, shown(result, "tenants")) == (True, 0)


def test_the_newest_day_of_a_tenant_counts_for_drift_and_all_days_for_outcomes():
    tally = Tally(SPEC, SELECTED)
    days = [{"outcomes": 5, "evaluated": 0, "predictions missing": True}, {"outcomes": 5, "evaluated": 5}]
    alerted = report(score=0.5, drifted=("team",), **{"drift alert": True})
    tally.add("acme", {"daily_metrics": days, "drift_report": [alerted, report()]})
    found = results(tally)
    assert found["drift"].passed
    assert not found["outcome_completeness"].passed
    assert "5 of 10 outcomes" in shown(found["outcome_completeness"], "worst_tenants")


def test_training_checks_read_gates_and_skill():
    tally = Tally(SPEC, SELECTED)
    tally.add("good", {"features": [{"quality": 90.0}], "model": [{"skill": 0.2, "decision": "promote"}]})
    bad = {"quality": 30.0, "failed gates": "quality 30 of 100, needed 40"}
    tally.add("bad", {"features": [bad], "model": [{"skill": 0.0, "decision": "fall_back"}]})
    found = results(tally)
    assert "| `bad` | quality 30 of 100, needed 40 |" in shown(found["data_quality"], "worst_tenants")
    assert "| `bad` | skill 0.0%, decision fall" in shown(found["beats_baseline"], "worst_tenants")


def test_pictures_show_drift_by_column_and_loss_by_day():
    tally = Tally(SPEC, SELECTED, lambda: [0.8, 0.9, 1.2])
    tally.add("acme", {"drift_report": [report(drifted=("<team>", "points"))]})
    found = results(tally)
    for name in ("drift", "health"):
        assert "(data:image/svg+xml;base64," in shown(found[name], "chart")


def test_checks_that_are_not_selected_are_neither_counted_nor_queried():
    tally = Tally(SPEC, set(), lambda: pytest.fail("queried"))
    tally.add("acme", {"drift_report": [report()]})
    assert results(tally) == {}


def test_checks_are_told_also_where_a_tenant_fails_the_run():
    def events():
        yield "materialized"
        raise dg.Failure("1 of 2 tenants failed")

    told = []
    with pytest.raises(dg.Failure):
        for event in with_checks(events(), Tally(SPEC, SELECTED)):
            told.append(event)
    assert (told[0], len(told)) == ("materialized", 1 + len(CHECKS))


def test_the_text_of_a_tenant_or_a_reason_is_no_markup():
    tally = Tally(SPEC, SELECTED)
    tally.add("a|b", {"drift_report": [report(0, reason="<img src=x> | [here](http://evil)")]})
    (row,) = shown(results(tally)["health"], "worst_tenants").splitlines()[2:]
    assert "<img" not in row
    assert "](http://evil)" not in row
