"""The operator guide holds: its queries run as it says, and what it names exists."""

from __future__ import annotations

import ast
import datetime as dt
import re
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from pydantic import BaseModel

from ml_pipeline.cli import main
from ml_pipeline.lifecycle.policy import Policy, load_policy
from ml_pipeline.lifecycle.safeguards import BY_CRITICAL, BY_HAND, REPORTED, check
from ml_pipeline.lifecycle.state import State
from ml_pipeline.monitoring.health import WEIGHTS
from ml_pipeline.resources import postgres, tables
from ml_pipeline.resources.connections import grant_worker_login
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings, load_settings, variable_of
from ml_pipeline.specs.monitoring import Monitoring

PROJECT = Path(__file__).resolve().parent.parent
GUIDE = (PROJECT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
RETENTION = "8. Baselines and retention"
TENANTS = ("acme", "globex")
NOW = dt.datetime.now(dt.UTC)
TODAY = NOW.date()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


CONNECTING, *QUERIES = blocks("sql")


def days_ago(days: float) -> dt.datetime:
    return NOW - dt.timedelta(days=days)


def rows_of(tenant: str) -> Iterator[tuple[sa.Table, dict[str, Any]]]:
    """What a tenant's installation may hold, so that every question has an answer."""
    own = {"tenant_id": tenant, "model": "story_points"}

    def decision(kind: str, verdict: str, days: float, **values: Any) -> tuple[sa.Table, dict[str, Any]]:
        row = {"decision_id": uuid.uuid4(), "kind": kind, "verdict": verdict, "reason": f"{kind} {verdict}"}
        return tables.decisions, own | row | {"as_of": days_ago(days), "created_at": days_ago(days)} | values

    def deployment(action: str, version: int, days: float, watch: str | None) -> tuple[sa.Table, dict[str, Any]]:
        row = {"deployment_id": uuid.uuid4(), "action": action, "version": version, "replaced": 1, "state": "done"}
        return tables.deployments, own | row | {"reason": "better", "as_of": days_ago(days), "watch": watch}

    report = {"status": "stable", "baseline_rows": 900, "current_rows": 60, "drifted": [], "columns": {}}
    day = {"day": TODAY - dt.timedelta(days=3)}
    yield tables.drift_reports, own | day | report | {"health": 61.5, "version": 2, "reason": "None moved."}
    counts = {"outcomes": 50, "evaluated": 40, "origin": "live", "version": 2}
    values = {"metric": "mae", "value": 2.0, "baseline_value": 1.5, "metrics": {}}
    yield tables.daily_metrics, own | day | counts | values
    yield decision("retrain", "blocked", 2, numbers={"trigger": "drift", "blocked_by": ["performance_impact"]})
    yield decision("retrain", "blocked", 1, numbers={"trigger": "degradation", "blocked_by": ["tenant_flag"]})
    yield decision("retrain", "retrain", 0.1, numbers={"trigger": "schedule"}, state="approved")
    asked = {"trigger": "degradation", "action": "train"}
    yield decision("retrain", "retrain", 5, numbers=asked, state="done", settled_at=days_ago(4.9))
    judged = {"skill": 0.2, "gain": 0.1, "champion_mean_loss": 2.0, "action": "train"}
    yield decision("promote", "promote", 4.95, numbers=judged, version=2)
    yield deployment("promote", 2, 4.95, "open")
    yield deployment("rollback", 1, 1, None)
    alert = {"alert_id": uuid.uuid4(), "kind": "drift", "level": "HIGH", "message": "Points moved."}
    yield tables.alerts, own | alert | {"detail": {}, "as_of": days_ago(3)}
    sent = {"alert_id": alert["alert_id"], "channel": "webhook", "occasion": "raised", "level": "HIGH"}
    due = {"state": "pending", "due_at": days_ago(1), "next_attempt_at": NOW}
    yield tables.alert_deliveries, own | sent | due
    yield tables.outcomes, own | {"entity_id": "A-1", "label_time": days_ago(1), "value": 3.0}
    for entity, confidence in (("A-1", 0.9), ("A-2", 0.8), ("A-3", 0.3)):
        made = {
            "entity_id": entity,
            "origin": "live",
            "version": 2,
            "event_time": days_ago(3),
            "confidence": confidence,
        }
        ends = {"value": 3.0, "lower": 1.0, "upper": 8.0, "baseline": 4.0}
        yield tables.predictions, own | made | ends | {"predicted_at": days_ago(2)}
    said = {"entity_id": "A-2", "verdict": "corrected", "value": 5.0, "predicted": 3.0, "version": 2}
    yield tables.feedback, own | said | {"given_at": days_ago(1), "given_by": "ann", "weight": 1.0}
    yield tables.settings, own | {"name": "auto_retrain", "value": True, "changed_by": "ann"}
    refused = {"file": "a.csv", "line": 7, "reason": "no time", "content": "x"}
    yield tables.quarantine, {"tenant_id": tenant} | refused


@pytest.fixture
def operator(settings: Settings, warehouse: Warehouse) -> Iterator[sa.Connection]:
    """The session of a person who logs in as the pipeline does and follows the guide."""
    for tenant in TENANTS:
        warehouse.add_tenant(tenant)
        with warehouse.tenant(tenant) as connection:
            for table, row in rows_of(tenant):
                connection.execute(sa.insert(table).values(row))
    url = postgres.parse_url(settings.database_url or "")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(CONNECTING)
        yield connection


def test_the_login_for_workers_that_the_guide_makes_has_no_more_rights_than_they_need(
    settings: Settings, superuser: sa.Engine
):
    (statement,) = blocks("postgresql")
    url = postgres.parse_url(settings.database_url or "")
    login = statement.split()[2]
    with postgres.engine(url).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(statement)
        try:
            own = settings.model_copy(update={"worker_database_url": postgres.plain(url.set(username=login))})
            grant_worker_login(own, "mlflow")
            rights = (
                "SELECT pg_has_role(%s, 'ml_app', 'SET'), pg_has_role(%s, 'ml_operator', 'SET'), rolsuper FROM pg_roles"
            )
            found = connection.exec_driver_sql(f"{rights} WHERE rolname = %s", (login,) * 3).one()
            assert found == (True, False, False)
        finally:
            with superuser.begin() as removing:
                removing.exec_driver_sql(f"DROP OWNED BY {login}")
                removing.exec_driver_sql(f"DROP ROLE {login}")


def is_compatible(connection: sa.Connection, query: str) -> list[sa.RowMapping]:
    return list(connection.exec_driver_sql(query).mappings())


def number(query: str) -> int:
    found = re.match(r"-- (\d+)\. ", query)
    assert found, query
    return int(found.group(1))


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.splitlines()[0].removeprefix("-- "))
def test_a_query_of_the_guide_answers_an_operator_for_every_tenant(operator: sa.Connection, query: str):
    found = is_compatible(operator, query)
    assert found
    if "tenant_id" in found[0]:
        one_only = "tenant_id = 'acme'" in query
        assert {row["tenant_id"] for row in found} == set(TENANTS[:1] if one_only else TENANTS)


def test_the_answers_are_those_that_the_rows_give(operator: sa.Connection):
    by_number = {number(query): query for query in QUERIES}
    paid = [row for row in is_compatible(operator, by_number[3]) if row["tenant_id"] == "acme"]
    settled = next(row for row in paid if row["state"] == "done")
    assert (settled["version"], settled["verdict"], settled["watch"]) == (2, "promote", "open")
    assert (float(settled["skill"]), float(settled["gain"])) == (0.2, 0.05)
    assert next(row for row in paid if row["state"] == "approved")["version"] is None
    (held, _) = is_compatible(operator, by_number[2])
    assert held["blocked_by"] == ["performance_impact"]
    (switched_off, _) = is_compatible(operator, by_number[5])
    assert switched_off["trigger"] == "degradation"
    assert [float(row["per_1000_stream_days"]) for row in is_compatible(operator, by_number[7])] == [1000.0]
    assert [row["last_report"] for row in is_compatible(operator, by_number[9])] == [TODAY - dt.timedelta(days=3)] * 2
    assert [row["new_labels"] for row in is_compatible(operator, by_number[11])] == [1, 1]


def test_the_session_of_the_guide_cannot_write(operator: sa.Connection):
    with pytest.raises(sa.exc.DBAPIError, match="read-only transaction"):
        operator.exec_driver_sql("DELETE FROM ml.alerts")
    operator.exec_driver_sql("SET default_transaction_read_only = off")
    with pytest.raises(sa.exc.DBAPIError, match="permission denied"):
        operator.exec_driver_sql("DELETE FROM ml.alerts")


def test_in_the_session_of_a_tenant_only_its_own_rows_are_deleted(operator: sa.Connection):
    given = re.findall(r"`(SET (?:ROLE|app\.tenant_id)[^`]+)`", section("7. When something is down or wrong"))
    assert len(given) == 2
    for statement in ["RESET ROLE", "SET default_transaction_read_only = off", *given]:
        operator.exec_driver_sql(statement)
    assert operator.exec_driver_sql("DELETE FROM ml.quarantine").rowcount == 1
    operator.exec_driver_sql("SET ROLE ml_operator")
    assert operator.exec_driver_sql("SELECT tenant_id FROM ml.quarantine").scalars().all() == ["globex"]


def test_the_queries_are_numbered_in_order_and_each_reference_finds_one():
    numbers = [number(query) for query in QUERIES]
    assert numbers == list(range(1, len(QUERIES) + 1))
    assert {int(text) for text in re.findall(r"query (\d+)", GUIDE)} <= set(numbers)


def commands() -> list[list[str]]:
    """Every ``ml-pipeline`` command of the guide, as words."""
    inline = re.findall(r"`(ml-pipeline [^`]+)`", GUIDE)
    fenced = re.findall(r"^(ml-pipeline [^#\n]+)", GUIDE, re.MULTILINE)
    return [text.split() for text in [*inline, *fenced]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_guide_exists_with_its_options(words: Sequence[str]):
    command = main.commands[words[1]]
    assert isinstance(command, click.Command)
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_every_setting_that_the_guide_names_exists():
    known = {variable_of(name) for name in Settings.model_fields}
    named = set(re.findall(r"\bML_PIPELINE_[A-Z_]+", GUIDE))
    assert named and named <= known


def test_every_alert_that_is_raised_is_explained():
    raised = set()
    for path in (PROJECT / "ml_pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("NewAlert", "_alert"):
                given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "kind")]
                words = [str(value.value) for value in given if isinstance(value, ast.Constant)]
                raised |= {word for word in words if re.fullmatch("[a-z_]+", word)}
    explained = set(re.findall(r"^\| `(\w+)` \|", section("2. What an alert means"), re.MULTILINE))
    assert raised == explained


def safeguards() -> dict[str, tuple[str, str]]:
    """Of each safeguard what it asks for and who may overrule it, as the guide's table says."""
    table = section("5. Retrain, promote, watch, roll back").partition("| safeguard |")[2].partition("\n\n")[0]
    found = {}
    for first, asks, who in re.findall(r"^\| (`[^|]+) \|([^|]+)\|([^|]+)\|$", table, re.MULTILINE):
        found |= dict.fromkeys(re.findall(r"`(\w+)`", first), (asks, who))
    return found


def test_every_safeguard_is_listed_with_what_the_policy_asks_for():
    counts = {"matured": 0, "new_labels": 0, "new_labels_since_training": 0, "labels_since_change": 0}
    state, policy = State("acme", "story_points", NOW, **counts, weekly_items=0.0), Policy()
    judged = [guard for cause in REPORTED for guard in check(state, policy, cause, "HIGH")]
    listed = safeguards()
    assert {guard.name for guard in judged} == set(listed)
    for guard in judged:
        if type(guard.needed) in (int, float) and guard.needed > 0:
            assert f"{guard.needed:g} " in listed[guard.name][0], guard.name
    assert f"from {policy.watch_days:g} days after" in listed["watch"][1]
    assert f"or {policy.change_days:g} days" in listed["since_change"][0]


def test_a_person_is_not_asked_for_what_the_guide_says():
    counts = {"matured": 0, "new_labels": 0, "new_labels_since_training": 0, "labels_since_change": 0}
    asked = check(State("acme", "story_points", NOW, **counts, weekly_items=0.0), Policy(), "manual", None)
    not_asked = {name for name, (_, who) in safeguards().items() if who == " not asked for a person "}
    assert not_asked == set(safeguards()) - {guard.name for guard in asked}


def test_a_safeguard_is_overruled_by_whom_the_guide_says():
    listed = safeguards()
    assert {name for name, (_, who) in listed.items() if who.startswith(" a person")} == BY_HAND
    assert {name for name, (_, who) in listed.items() if "CRITICAL" in who} == BY_CRITICAL | {"watch"}


def test_a_setting_of_the_guide_takes_its_value():
    given = re.findall(r"`(ML_PIPELINE_[A-Z_]+)=(\w+)`", GUIDE)
    assert len(given) >= 6
    for name, value in given:
        load_settings({name: value})


def test_every_schedule_sensor_and_job_is_listed():
    from ml_pipeline.definitions import defs

    repository = defs.get_repository_def()
    own_jobs = {name for name in repository.job_names if not name.startswith("__")}
    listed = set(re.findall(r"`(\w+)`", GUIDE))
    assert {one.name for one in repository.schedule_defs} <= listed
    assert {one.name for one in repository.sensor_defs} <= listed
    assert own_jobs <= listed


def section(title: str) -> str:
    return GUIDE.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(next(block for block in blocks("yaml") if "cooldown_days" in block), encoding="utf-8")
    return path


def test_the_policy_of_the_guide_is_one(policy_file: Path):
    policy = load_policy(policy_file)
    assert (policy.cooldown_days, policy.concurrent) == (14, 2)


def test_the_rollback_job_takes_the_configuration_of_the_guide():
    from ml_pipeline.definitions import defs

    given = yaml.safe_load(next(block for block in blocks("yaml") if "ops:" in block))
    valid = dg.validate_run_config(defs.resolve_job_def("rollback"), given)
    assert valid["ops"]["return_to_version"]["config"]["to"] == 3


def test_what_is_kept_is_kept_as_long_as_the_guide_says():
    kept = re.findall(r"\| (?:(\d+) days|forever) \| `ML_PIPELINE_(\w+_RETENTION_DAYS)` \|", section(RETENTION))
    said = {name.lower(): int(days) if days else None for days, name in kept}
    assert said == {name: value for name, value in Settings().model_dump().items() if name.endswith("retention_days")}


def test_a_channel_gets_alerts_from_the_level_that_the_guide_says():
    levels = re.findall(r"\| (\w+): `ML_PIPELINE_(ALERT_\w+_LEVEL)` \|", GUIDE)
    assert len(levels) == 3
    assert all(getattr(Settings(), name.lower()) == level for level, name in levels)


def test_the_weights_of_the_health_are_those_of_the_guide():
    assert all(f"{part} {weight}" in " ".join(GUIDE.split()) for part, weight in WEIGHTS.items())


def test_every_key_of_monitoring_that_the_guide_names_exists():
    named = set(re.findall(r"`monitoring\.(\w+)`", GUIDE))
    assert named and named <= set(Monitoring.model_fields)


def as_written(default: Any) -> str:
    if isinstance(default, dict):
        return ", ".join(f"{value:.2f}" for value in default.values()) or "none"
    if isinstance(default, BaseModel):
        return ", ".join(as_written(value) for _, value in default)
    return str(default).removesuffix(".0") if default != [] else "none"


def test_the_keys_of_monitoring_are_described_with_their_defaults():
    text = (PROJECT / "docs" / "how-to" / "add-a-model.md").read_text(encoding="utf-8")
    chapter = text.partition("## Monitoring\n")[2].partition("\n## ")[0]
    described, default = [], Monitoring()
    for names, defaults in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", chapter, re.MULTILINE):
        keys = re.findall(r"`(\w+)`", names)
        assert defaults == ", ".join(as_written(getattr(default, key)) for key in keys)
        described += keys
    assert sorted(described) == sorted(Monitoring.model_fields)
    (example,) = re.findall(r"```yaml\n(monitoring:.*?)```", chapter, re.DOTALL)
    assert Monitoring(**yaml.safe_load(example)["monitoring"]).targets == {"r2": 0.7, "mae": 2.0}
