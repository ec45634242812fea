"""A source in the pipeline's own database keeps tenants apart by itself, or the specification says that it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_pipeline.doctor import examine
from ml_pipeline.resources.warehouse import SourceNotIsolated, SourceUnreadable, Warehouse
from ml_pipeline.specs import ModelSpec, load_spec
from ml_pipeline.work.training.version_files import fingerprint_of

TABLE = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.claims (customer text, claim integer, filed_at timestamptz, settled_at timestamptz);
    INSERT INTO shop.claims VALUES ('acme', 1, '2026-01-01', NULL), ('globex', 2, '2026-01-01', NULL);
    GRANT USAGE ON SCHEMA shop TO ml_app;
    GRANT SELECT ON shop.claims TO ml_app;
"""
POLICY = (
    "CREATE POLICY own ON shop.claims TO ml_app USING (customer = nullif(current_setting('app.tenant_id', true), ''));"
)
FORCED = "ALTER TABLE shop.claims ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
GRANT = "GRANT SELECT ON shop.open_claims TO ml_app;"
VIEW = "CREATE VIEW shop.open_claims {options} AS SELECT * FROM shop.{below};" + GRANT
INVOKER = VIEW.format(options="WITH (security_invoker = on)", below="claims")
OWNERS = VIEW.format(options="", below="claims")


def spec(table: str = "claims", **source) -> ModelSpec:
    described = {"table": f"shop.{table}", "tenant": "customer", "entity": "claim", "event_time": "filed_at"}
    columns = {"settled_at": {"type": "time", "known_at": "label"}}
    return ModelSpec.model_validate(
        {
            "name": "claims",
            "title": "Days to settle",
            "task": "regression",
            "source": described | {"columns": columns} | source,
            "label": {"value": "settled_at - filed_at", "time": "settled_at"},
            "features": {},
            "training": {"estimator": "xgboost", "loss": "absolute_error"},
        }
    )


@pytest.fixture
def run(superuser: sa.Engine) -> Callable[..., None]:
    """Runs SQL as a team's administrator does, a superuser."""

    def execute(*statements: str) -> None:
        with superuser.begin() as connection:
            for statement in statements:
                connection.execute(sa.text(statement.replace(":", r"\:")))

    execute(TABLE)
    return execute


REFUSED = {
    "a table without row-level security": ([], "claims", r"has no policy on app.tenant_id and does not enable"),
    "a policy that nothing enables": ([POLICY], "claims", "does not enable row-level security and does not force"),
    "a table whose owner is let through": (
        [POLICY, "ALTER TABLE shop.claims ENABLE ROW LEVEL SECURITY"],
        "claims",
        r"shop.claims does not force row-level security\. .* ALTER TABLE shop.claims FORCE ROW LEVEL SECURITY;",
    ),
    "a second policy that lets all through": (
        [POLICY, FORCED, "CREATE POLICY everybody ON shop.claims USING (true)"],
        "claims",
        r"has policies without app.tenant_id \(everybody\)\. .* DROP POLICY everybody ON shop.claims;",
    ),
    "a policy that only mentions the tenant": (
        [FORCED, "CREATE POLICY loose ON shop.claims USING (current_setting('app.tenant_id', true) IS NOT NULL)"],
        "claims",
        "show rows without a tenant",
    ),
    "a policy that shows all where no tenant is set": (
        [FORCED, POLICY.replace("USING (", "USING (current_setting('app.tenant_id', true) = '' OR ")],
        "claims",
        "show rows without a tenant",
    ),
    "a view with its owner's rights": (
        [POLICY, FORCED, OWNERS],
        "open_claims",
        r"shop.open_claims is a view .* ALTER VIEW shop.open_claims SET \(security_invoker = true\);",
    ),
    "a view below a good view": (
        [
            POLICY,
            FORCED,
            "CREATE VIEW shop.below AS SELECT * FROM shop.claims; GRANT SELECT ON shop.below TO ml_app",
            VIEW.format(options="WITH (security_invoker = true)", below="below"),
        ],
        "open_claims",
        r"shop.below is a view .* ALTER VIEW shop.below SET",
    ),
    "a bare table below a good view": ([INVOKER], "open_claims", "shop.claims has no policy"),
    "a function of a view that runs with its owner's rights": (
        [
            POLICY,
            FORCED,
            "CREATE FUNCTION shop.all_claims() RETURNS SETOF shop.claims LANGUAGE sql SECURITY DEFINER "
            "AS 'SELECT * FROM shop.claims'",
            VIEW.format(options="WITH (security_invoker = true)", below="all_claims()"),
        ],
        "open_claims",
        r"calls shop.all_claims\(\), .* ALTER FUNCTION shop.all_claims\(\) SECURITY INVOKER;",
    ),
    "a materialized view": (
        [
            "CREATE MATERIALIZED VIEW shop.open_claims AS SELECT * FROM shop.claims",
            GRANT,
        ],
        "open_claims",
        "is a materialized view, which cannot have row-level security",
    ),
    "a foreign table": (
        [
            "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing; "
            "CREATE FOREIGN TABLE shop.far (customer text, claim integer, filed_at timestamptz, settled_at timestamptz)"
            " SERVER elsewhere; GRANT SELECT ON shop.far TO ml_app"
        ],
        "far",
        "is a foreign table",
    ),
    "a partitioned table": (
        [
            "CREATE TABLE shop.parted (LIKE shop.claims) PARTITION BY LIST (customer);"
            "CREATE TABLE shop.part PARTITION OF shop.parted DEFAULT; GRANT SELECT ON shop.parted TO ml_app"
        ],
        "parted",
        "shop.parted has no policy",
    ),
    "a part of a good table that can be read past it": (
        [
            "CREATE TABLE shop.parted (LIKE shop.claims) PARTITION BY LIST (customer);"
            "CREATE TABLE shop.part PARTITION OF shop.parted DEFAULT; GRANT SELECT ON shop.parted, shop.part TO ml_app",
            POLICY.replace("shop.claims", "shop.parted"),
            FORCED.replace("shop.claims", "shop.parted"),
        ],
        "parted",
        r"isolate the tenants in shop\.parted, .*: shop.part has no policy",
    ),
}


@pytest.mark.parametrize(("statements", "table", "problem"), REFUSED.values(), ids=REFUSED)
def test_neither_a_training_nor_the_doctor_takes(warehouse: Warehouse, run, statements, table: str, problem: str):
    run(*statements)
    for read in (lambda: warehouse.read_source(spec(table), "acme"), lambda: warehouse.check_source(spec(table))):
        with pytest.raises(SourceNotIsolated, match=problem) as caught:
            read()
        assert "model claims" in str(caught.value) and "isolation: filter" in str(caught.value)
    if table != "far":
        assert len(warehouse.read_source(spec(table, isolation="filter"), "acme")) == (0 if table == "parted" else 1)


@pytest.mark.parametrize(
    ("statements", "table"),
    [
        ([POLICY, FORCED], "claims"),
        ([POLICY, FORCED, INVOKER], "open_claims"),
        ([FORCED, POLICY.replace("customer =", "claim::text =").replace("'')", "'')")], "claims"),
        (
            [
                FORCED,
                POLICY.replace("customer =", "claim =").replace("))", ")::integer)"),
            ],
            "claims",
        ),
        ([POLICY, FORCED, "CREATE POLICY auditors ON shop.claims TO ml_operator USING (true)"], "claims"),
    ],
    ids=["a table", "a view", "a cast column", "a numeric tenant", "a policy of another role"],
)
def test_what_keeps_tenants_apart_is_read(warehouse: Warehouse, run, statements: list[str], table: str):
    run(*statements)
    warehouse.check_source(spec(table))
    assert warehouse.read_source(spec(table), "7").empty


def test_the_statements_of_the_message_are_all_that_it_takes(warehouse: Warehouse, run):
    """A view of a view of a bare table that the pipeline's role may not even read, mended by what the message says."""
    run(
        "REVOKE SELECT ON shop.claims FROM ml_app",
        "CREATE VIEW shop.below AS SELECT * FROM shop.claims",
        VIEW.format(options="", below="below"),
    )
    with pytest.raises(SourceNotIsolated) as caught:
        warehouse.read_source(spec("open_claims"), "acme")
    run(str(caught.value).partition("Close it with: ")[2])
    assert warehouse.read_source(spec("open_claims"), "acme")["claim"].tolist() == ["1"]


COMMITS = """
    CREATE SCHEMA ci;
    CREATE TABLE ci.commits (tenant_id text, commit text, committed_at timestamptz, ns float8, nm float8, nf float8,
        entropy float8, la float8, ld float8, lt float8, fix float8);
    CREATE TABLE ci.fixes (tenant_id text, blames text, committed_at timestamptz, reported_at timestamptz);
    INSERT INTO ci.commits VALUES ('acme', 'a1', '2026-01-01'), ('globex', 'g1', '2026-01-01');
    INSERT INTO ci.fixes VALUES ('acme', 'a1', '2026-01-02', '2026-01-03'), ('globex', 'g1', '2026-01-02', '2026-01-04')
"""


def test_the_sql_of_the_documentation_makes_a_view_that_is_taken_and_the_one_without_invoker_is_not(warehouse, run):
    root = Path(__file__).parents[2]
    documented = (
        (root / "docs" / "how-to" / "add-a-model.md").read_text(encoding="utf-8").split("```sql\n")[1].split("```")[0]
    )
    defect_risk = load_spec(root / "examples" / "specs" / "defect_risk.yaml")
    run(COMMITS, documented)
    for tenant, commit in (("acme", "a1"), ("globex", "g1")):
        rows = warehouse.read_source(defect_risk, tenant)
        assert rows["commit"].tolist() == [commit] and rows["fixed_at"].notna().all()
    assert warehouse.tenants() == ["acme"]
    run("ALTER VIEW repository.commits RESET (security_invoker)")
    with warehouse.tenant("acme") as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM repository.commits")) == 2  # what an owner's view shows
    with pytest.raises(SourceNotIsolated, match=r"ALTER VIEW repository\.commits SET \(security_invoker = true\);"):
        warehouse.check_source(defect_risk)


def test_a_source_is_examined_once_in_a_process_and_again_by_the_doctor(warehouse: Warehouse, run):
    run(POLICY, FORCED)
    warehouse.read_source(spec(), "acme")
    statements: list[str] = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def note(connection, cursor, statement, *_):
        statements.append(statement)

    try:
        warehouse.read_source(spec(), "globex")
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert not any("pg_policy" in statement for statement in statements)
    run("ALTER TABLE shop.claims DISABLE ROW LEVEL SECURITY")
    with pytest.raises(SourceNotIsolated):
        warehouse.check_source(spec())


def test_who_keeps_tenants_apart_is_no_part_of_the_question():
    assert spec().hash == spec(isolation="filter").hash
    assert fingerprint_of(spec()) == fingerprint_of(spec(isolation="filter"))


def test_a_table_that_is_missing_is_named_and_not_called_open(warehouse: Warehouse, run):
    with pytest.raises(SourceUnreadable, match=r'"shop.nothing" does not exist'):
        warehouse.read_source(spec("nothing"), "acme")


CLAIMS = """
name: claims
title: Days to settle
task: regression
source:
  table: shop.claims
  tenant: customer
  entity: claim
  event_time: filed_at
  isolation: {isolation}
  columns:
    settled_at: {{type: time, known_at: label}}
label: {{value: settled_at - filed_at, time: settled_at}}
features: {{}}
training: {{estimator: xgboost, loss: absolute_error}}
"""


def test_the_doctor_warns_of_a_filter_and_of_rows_that_no_tenant_can_have(settings, warehouse, run, tmp_path):
    (tmp_path / "claims.yaml").write_text(CLAIMS.format(isolation="filter"))
    run("INSERT INTO shop.claims VALUES ('q?x', 3, '2026-01-01'), ('Acme', 4, '2026-01-01'), (NULL, 5, '2026-01-01')")
    warehouse.add_tenant("acme")
    findings = examine(settings.model_copy(update={"specs": (tmp_path,)}))
    assert all(finding.ok for finding in findings)
    assert [finding.detail for finding in findings if finding.warning] == [
        "shop.claims: only the pipeline's filter by customer isolates tenants (isolation: filter)",
        "shop.claims: rows of tenants whose ids are not allowed are skipped: 'Acme' differs only in case from "
        "tenant 'acme'; 'q?x' contains '?'. Change the ids in the source",
        "shop.claims: rows of tenants that are not in source.tenants are skipped: 'globex'. To train for them, "
        "insert their ids there",
    ]
    assert len(warehouse.read_source(spec(isolation="filter"), "acme")) == 1


def test_rows_of_no_tenant_behind_row_level_security_are_seen_where_operators_may_read_them(
    settings, warehouse, run, tmp_path
):
    (tmp_path / "claims.yaml").write_text(CLAIMS.format(isolation="row_level_security"))
    run(POLICY, FORCED)
    for tenant in ("acme", "globex"):
        warehouse.add_tenant(tenant)
    run("INSERT INTO shop.claims VALUES ('../../evil', 3, '2026-01-01')")
    warned = lambda: [one.detail for one in examine(settings.model_copy(update={"specs": (tmp_path,)})) if one.warning]  # noqa: E731
    assert warned() == []
    run(
        "GRANT USAGE ON SCHEMA shop TO ml_operator",
        "GRANT SELECT ON shop.claims TO ml_operator",
        "CREATE POLICY operator_reads ON shop.claims FOR SELECT TO ml_operator USING (true)",
    )
    assert warned() == [
        "shop.claims: rows of tenants whose ids are not allowed are skipped: '../../evil' starts with '.' "
        "instead of a letter or digit. Change the ids in the source"
    ]
