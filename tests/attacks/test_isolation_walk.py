"""A walk over everything that holds rows of tenants or is shown to one: tables, views, functions, files, outputs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from ml_pipeline.cli import main
from ml_pipeline.identifiers import is_model_name, tenant_problem
from ml_pipeline.importers import import_tables
from ml_pipeline.resources import postgres, tables
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.source_isolation import gaps
from ml_pipeline.resources.warehouse import APP_ROLE, Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.work.training.task import TrainingTask, run_training

SECRET = "canaryglobex"  # a word of the other tenant, which nothing of acme's may show

# The one figure that crosses tenants, of those who agreed; tests/work/test_sharing.py holds what it may say.
POOLED = "ml.pooled_typical("

READABLE = """
    SELECT schema.nspname AS schema, relation.relname AS name
    FROM pg_class AS relation JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
    WHERE relation.relkind IN ('r', 'p', 'v', 'm', 'f') AND schema.nspname NOT IN ('pg_catalog', 'information_schema')
        AND has_schema_privilege(:role, schema.oid, 'USAGE')
        AND (has_any_column_privilege(:role, relation.oid, 'SELECT, INSERT, UPDATE')
             OR has_table_privilege(:role, relation.oid, 'DELETE, TRUNCATE'))
    ORDER BY 1, 2
"""
DEFINERS = """
    SELECT CAST(CAST(function.oid AS regprocedure) AS text)
    FROM pg_proc AS function JOIN pg_namespace AS schema ON schema.oid = function.pronamespace
    WHERE function.prosecdef AND schema.nspname NOT IN ('pg_catalog', 'information_schema')
        AND has_function_privilege(:role, function.oid, 'EXECUTE')
"""


def walk_database(warehouse: Warehouse) -> Iterator[str]:
    """What of the database breaks the rules: whatever the tenants' role can touch, in any schema, and not only ours."""
    with postgres.engine(warehouse.url).connect() as connection:
        relations = connection.execute(sa.text(READABLE), {"role": APP_ROLE}).all()
        for schema, name in relations:
            for gap in gaps(connection, schema, name, "tenant_id", APP_ROLE) or []:
                yield f"{schema}.{name}: {gap.name} {gap.problem}"
        for function in connection.scalars(sa.text(DEFINERS), {"role": APP_ROLE}):
            if not function.startswith(POOLED):
                yield f"{function} runs with its owner's rights"
    for schema, name in relations:
        rows = sa.select(sa.text("*")).select_from(sa.table(name, schema=schema))
        for tenant, allowed in (("acme", {"acme"}), ("", set())):
            with warehouse.tenant(tenant) as connection:
                for row in connection.execute(rows).mappings():
                    if row.get("tenant_id") not in allowed or SECRET in repr(dict(row)):
                        yield f"{schema}.{name} shows tenant {tenant!r} the row {dict(row)}"


@pytest.fixture
def filled(warehouse: Warehouse, a_row) -> Warehouse:
    """Both tenants have a row in every table, the other one's with its secret in every text."""
    for table in tables.metadata.sorted_tables:
        for tenant, text in (("acme", "acme's own"), ("globex", SECRET)):
            with warehouse.tenant(tenant) as connection:
                connection.execute(sa.insert(table).values(a_row(table, tenant, text)))
    return warehouse


def test_nothing_in_the_database_shows_a_tenant_what_is_another_ones(filled: Warehouse):
    with postgres.engine(filled.url).connect() as connection:
        walked = {f"{schema}.{name}" for schema, name in connection.execute(sa.text(READABLE), {"role": APP_ROLE})}
    assert walked == {table.fullname for table in tables.metadata.sorted_tables}
    assert list(walk_database(filled)) == []


PLANTED = {
    "a table without policies": (
        "CREATE TABLE ml.notes AS SELECT tenant_id FROM source.tenants; GRANT SELECT ON ml.notes TO ml_app",
        "ml.notes has no policy",
    ),
    "a table elsewhere that everybody reads": (
        "CREATE TABLE public.copy AS SELECT * FROM source.issues; GRANT SELECT ON public.copy TO PUBLIC",
        "public.copy has no policy",
    ),
    "a view with its owner's rights": (
        "CREATE VIEW ml.fleet AS SELECT * FROM ml.alerts; GRANT SELECT ON ml.fleet TO ml_app",
        "ml.fleet shows tenant 'acme' the row",
    ),
    "a materialized view": (
        "CREATE MATERIALIZED VIEW ml.kept AS SELECT * FROM ml.alerts; GRANT SELECT ON ml.kept TO ml_app",
        "ml.kept is a materialized view",
    ),
    "a second policy": (
        "CREATE POLICY support ON ml.decisions FOR SELECT TO PUBLIC USING (true)",
        "ml.decisions shows tenant '' the row",
    ),
    "row-level security that is off": (
        "ALTER TABLE ml.outcomes DISABLE ROW LEVEL SECURITY",
        "ml.outcomes shows tenant",
    ),
    "row-level security that is not forced": (
        "ALTER TABLE ml.outcomes NO FORCE ROW LEVEL SECURITY",
        "ml.outcomes does not force row-level security",
    ),
    "a function with its owner's rights": (
        "CREATE FUNCTION public.everything() RETURNS bigint LANGUAGE sql SECURITY DEFINER "
        "AS 'SELECT count(*) FROM source.issues'",
        "everything() runs with its owner's rights",
    ),
    "MLflow's tables opened": (
        "GRANT USAGE ON SCHEMA mlflow TO ml_app; GRANT SELECT ON mlflow.model_versions TO ml_app",
        "mlflow.model_versions has no policy",
    ),
}


@pytest.mark.parametrize(("planted", "found"), PLANTED.values(), ids=PLANTED)
def test_the_walk_finds(filled: Warehouse, planted: str, found: str):
    with postgres.engine(filled.url).begin() as connection:
        connection.execute(sa.text(planted))
    assert any(found in problem for problem in walk_database(filled))


def issues(secret: str) -> pd.DataFrame:
    """Issues of seven weeks, whose type gives the points; every text carries the word."""
    rng = np.random.default_rng(3)
    count = 7 * 7 * 6
    kinds = rng.choice(["Story", "Bug"], count)
    created = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(count) * 4, unit="h")
    return pd.DataFrame(
        {
            "issue_key": [f"{secret}-{number}" for number in range(count)],
            "issue_type": kinds,
            "reporter": [f"{secret} {number % 4}" for number in range(count)],
            "team": f"{secret} team",
            "created_at": created,
            "estimated_at": created + pd.Timedelta(days=2),
            "story_points": np.where(kinds == "Story", 8.0, 1.0) + rng.choice([0.0, 1.0], count),
            "summary": f"{secret} fails {secret}",
        }
    )


@pytest.fixture
def trained(settings: Settings) -> Settings:
    """Two tenants that were trained side by side, each on texts of its own."""
    shipped = load_specs()["story_points"]
    quick = shipped.training.model_copy(update={"params": {"n_estimators": 5}, "candidates": {}})
    spec: ModelSpec = shipped.model_copy(update={"training": quick})
    for tenant, word in (("acme", "ownword"), ("globex", SECRET)):
        import_tables(Warehouse(settings), tenant, issues(word), None)
        task = TrainingTask(settings, spec, tenant, "2026-02-18T00:00:00+00:00", plots=tenant == "acme")
        report = run_training(task)
        assert report.error is None and report.done["model"]["decision"] == "promote", report
    return settings


def contents(path: Path) -> bytes:
    """What is in a file, also where it is compressed."""
    raw = path.read_bytes()
    if path.suffix == ".parquet":
        return pd.read_parquet(BytesIO(raw)).to_csv().encode()
    if zipfile.is_zipfile(BytesIO(raw)):
        with zipfile.ZipFile(BytesIO(raw)) as archive:
            return raw + b"".join(archive.read(name) for name in archive.namelist())
    return raw


def walk_files(root: Path) -> Iterator[str]:
    """What of the artifact store breaks the rules: a place that names no tenant, or content of another one."""
    for path in sorted(root.rglob("*")):
        kind, tenant, model, *rest = [*path.relative_to(root).parts, "", ""][:4] if path.is_file() else ("", "", "", "")
        if not path.is_file():
            continue
        if kind not in ("snapshots", "models") or tenant_problem(tenant) or not is_model_name(model) or not rest[0]:
            yield f"{path} lies in no tenant's and model's folder"
        elif path.is_symlink() or not path.resolve().is_relative_to(root.resolve()):
            yield f"{path} is a link"
        elif tenant != "globex" and SECRET.encode() in contents(path):
            yield f"{path} holds words of globex"


def test_each_file_lies_with_its_tenant_and_each_output_for_a_tenant_is_its_own(
    trained: Settings, monkeypatch: pytest.MonkeyPatch
):
    root = Path(trained.artifacts)
    assert list(walk_files(root)) == []
    seen = {path.relative_to(root).parts[:2] for path in root.rglob("*") if path.is_file()}
    assert seen == {(kind, tenant) for kind in ("snapshots", "models") for tenant in ("acme", "globex")}
    theirs = [path for path in (root / "snapshots" / "globex").rglob("*.parquet") if SECRET.encode() in contents(path)]
    assert theirs  # the walk would see the word

    registry = Registry(trained)
    (version,) = registry.versions("acme", "story_points")
    run = registry.client.get_run(version.run_id).data
    shown = [json.dumps([run.tags, run.params, run.metrics, dict(version.tags), version.source])]
    shown += _commands(trained, monkeypatch)
    assert all(SECRET not in text and "globex" not in text for text in shown)


def _commands(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the commands that are asked about one tenant print."""
    for name, value in {
        "DATABASE_URL": settings.database_url,
        "ML_PIPELINE_HOME": settings.home,
        "DAGSTER_HOME": settings.home,
    }.items():
        monkeypatch.setenv(name, str(value))
    of = ["--tenant", "acme", "--model", "story_points"]
    commands = (
        ["status", "--tenant", "acme", "--json"],
        ["explain", *of, "--json"],
        ["explain-prediction", *of, "--entity", "ownword-290", "--json"],
        ["alerts", "--tenant", "acme", "--json"],
    )
    printed = []
    for words in commands:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, (words, result.output)
        printed.append(result.output)
    assert "ownword" in printed[2]
    return printed


def test_the_walk_over_files_finds_a_strangers_word_a_strange_place_and_a_link(settings: Settings):
    root = Path(settings.artifacts)
    for name in ("models/acme/m/x/card.md", "models/acme/card.md", "evil.parquet", "snapshots/a b/m/x.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(SECRET)
    (root / "models/acme/m/link").symlink_to(root / "evil.parquet")
    said = "\n".join(walk_files(root))
    assert "models/acme/m/x/card.md holds words of globex" in said and "models/acme/m/link is a link" in said
    for name in ("models/acme/card.md", "evil.parquet", "snapshots/a b/m/x.parquet"):
        assert f"{root / name} lies in no tenant's and model's folder" in said
