"""Wall and user seconds of whole commands, imports included, on an installation of 1,000 tenants x 3 models.

The PostgreSQL server runs already, as while ``ml-pipeline up`` runs.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.installation import superuser, temporary_installation
from benchmarks.sensor import QUICK, TENANTS, stage
from ml_pipeline.settings import Settings
from ml_pipeline.specs import load_specs

REPEATS = 5
COMMANDS = {
    "help": ["--help"],
    "status": ["status"],
    "status_json": ["status", "--json"],
    "alerts": ["alerts"],
    "explain": ["explain", "--tenant", "t7", "--model", "story_points"],
}

# What ``stage`` leaves out, because no sensor reads it: {t} tenants, {m} the models as an array.
STATEMENTS = (
    """INSERT INTO mlflow.registered_models (name, creation_time, last_updated_time)
        SELECT m || '.t' || t, 1, 1 FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m""",
    """INSERT INTO mlflow.model_versions (name, version, creation_time, last_updated_time, current_stage, source,
            run_id, status)
        SELECT name, v, 1, 1, 'None', 'x', 'r', 'READY' FROM mlflow.registered_models, generate_series(1, 3) v""",
    """INSERT INTO mlflow.registered_model_aliases (name, alias, version)
        SELECT name, 'champion', 3 FROM mlflow.registered_models""",
    """INSERT INTO ml.versions (tenant_id, model, manifest_sha256, key)
        SELECT 't' || t, m, md5(t || m || v), md5(m || t || v)
        FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m, generate_series(1, 3) v""",
    """UPDATE ml.decisions SET numbers = numbers || jsonb_build_object('safeguards', (
            SELECT jsonb_agg(jsonb_build_object('name', 'guard' || n, 'passed', true, 'overridden', null,
                'sentence', repeat('It is 12 days since. ', 4))) FROM generate_series(1, 11) n))""",
    """INSERT INTO ml.alerts (tenant_id, alert_id, model, kind, level, message, detail, as_of)
        SELECT 't' || t, gen_random_uuid(), m, 'drift', 'MEDIUM', repeat('team moved ', 12), '{{}}',
            now() - n * interval '2 days'
        FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m, generate_series(1, 2) n WHERE t % 3 = 0""",
)


def stage_versions_and_alerts(settings: Settings, tenants: int) -> None:
    models = ", ".join(f"'{name}'" for name in load_specs())
    engine = superuser(settings)
    with engine.begin() as connection:
        for statement in STATEMENTS:
            connection.execute(sa.text(statement.format(t=tenants, m=models)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))  # as the server's autovacuum does within a minute


def timed(arguments: list[str]) -> tuple[float, float]:
    """Wall and user seconds of one command."""
    command = [str(Path(sys.executable).with_name("ml-pipeline")), *arguments]
    started, before = time.perf_counter(), os.times().children_user
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started, os.times().children_user - before


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    tenants = QUICK if arguments.quick else TENANTS
    figures: dict[str, Any] = {"tenants": tenants, "models": len(load_specs())}
    with temporary_installation() as settings:
        stage(settings, tenants)
        stage_versions_and_alerts(settings, tenants)
        for name, words in COMMANDS.items():
            runs = [timed(words) for _ in range(REPEATS)]
            figures[f"{name}_seconds"] = statistics.median(wall for wall, _ in runs)
            figures[f"{name}_user_seconds"] = statistics.median(user for _, user in runs)
    print_table(
        [
            {"command": name, **{key: figures[f"{name}_{key}"] for key in ("seconds", "user_seconds")}}
            for name in COMMANDS
        ]
    )
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
