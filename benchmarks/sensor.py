"""Seconds of one tick of the retraining sensor that evaluates every tenant and model of a fleet.

The state of a fleet after months is inserted into the tables directly; nothing is trained. Automatic retraining is on
for every tenth tenant; every hundredth model has a degradation, every tenth has drift without a higher loss.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

import dagster as dg
import numpy as np
import sqlalchemy as sa

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.installation import product_instance, superuser, temporary_installation
from ml_pipeline import partitions
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.sensors.retraining import retraining
from ml_pipeline.settings import Settings
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.retraining.decide import waiting

TENANTS, QUICK = 1000, 50
TICKS = 5
DAYS, OUTCOMES, PREDICTIONS, DECISIONS = 60, 500, 200, 20

# One statement per table: {t} tenants, {m} the models as an array.
STATEMENTS = {
    "source.tenants": "INSERT INTO source.tenants (tenant_id) SELECT 't' || t FROM generate_series(1, {t}) t",
    "ml.drift_reports": """
        INSERT INTO ml.drift_reports (tenant_id, model, day, status, score, baseline_rows, current_rows, drifted,
            columns, health, version, reason, alert, performance)
        SELECT 't' || t, m, current_date - d, CASE WHEN t % 10 = 3 THEN 'drift' ELSE 'stable' END,
            CASE WHEN t % 10 = 3 THEN 0.4 ELSE 0.0 END, 500, 40, '[]', to_jsonb(repeat(md5(d::text), 90)), 90, 1, '',
            false, jsonb_build_object('status', CASE WHEN t % 100 = 7 THEN 'degraded' ELSE 'stable' END,
                'severity', CASE WHEN t % 100 = 7 THEN 'CRITICAL' END, 'rise', 0.5, 'since', NULL, 'outcomes', 60)
        FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m, generate_series(1, {days}) d""",
    "ml.outcomes": """
        INSERT INTO ml.outcomes (tenant_id, model, entity_id, label_time, value)
        SELECT 't' || t, m, 'e' || n, now() - n * interval '8 hours', 1
        FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m, generate_series(1, {outcomes}) n""",
    "ml.predictions": """
        INSERT INTO ml.predictions (tenant_id, model, entity_id, origin, version, event_time, predicted_at, value,
            baseline)
        SELECT 't' || t, m, 'e' || n, 'live', 1, now() - n * interval '3 hours', now() - n * interval '3 hours', 1, 1
        FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m, generate_series(1, {predictions}) n""",
    "ml.decisions": """
        INSERT INTO ml.decisions (tenant_id, decision_id, model, kind, verdict, reason, numbers, version, as_of)
        SELECT 't' || t, gen_random_uuid(), m, CASE WHEN n % 2 = 0 THEN 'promote' ELSE 'retrain' END,
            CASE WHEN n % 2 = 0 THEN 'promote' ELSE 'blocked' END, repeat('because ', 20),
            jsonb_build_object('action', 'train', 'safeguards', to_jsonb(repeat(md5(n::text), 60))), 1,
            now() - (n + 9) * interval '7 days'
        FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m, generate_series(1, {decisions}) n""",
    "ml.deployments": """
        INSERT INTO ml.deployments (tenant_id, deployment_id, model, action, version, state, reason, as_of)
        SELECT 't' || t, gen_random_uuid(), m, 'promote', n, 'done', 'better', now() - n * interval '70 days'
        FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m, generate_series(1, 3) n""",
    "ml.feature_sets": """
        INSERT INTO ml.feature_sets (tenant_id, model, snapshot_hash, as_of, rows, matured, path, quality_score,
            quality)
        SELECT 't' || t, m, 's' || n, now() - n * interval '70 days', 900, 800, '', 90, to_jsonb(repeat('x', 2000))
        FROM generate_series(1, {t}) t, unnest(ARRAY[{m}]) m, generate_series(1, 5) n""",
    "ml.settings": """
        INSERT INTO ml.settings (tenant_id, model, name, value, changed_by)
        SELECT 't' || t, '', 'auto_retrain', 'true', 'benchmark' FROM generate_series(1, {t}) t WHERE t % 10 = 7""",
}


def stage(settings: Settings, tenants: int) -> None:
    """Insert the state of the fleet as the server's superuser, to whom row-level security does not apply."""
    models = ", ".join(f"'{name}'" for name in load_specs())
    numbers = {"t": tenants, "m": models, "days": DAYS, "outcomes": OUTCOMES, "predictions": PREDICTIONS}
    engine = superuser(settings)
    with engine.begin() as connection:
        for statement in STATEMENTS.values():
            connection.execute(sa.text(statement.format(**numbers, decisions=DECISIONS)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))


def tick(instance: dg.DagsterInstance) -> tuple[float, float, int]:
    """Wall and CPU seconds of one tick in this process, and the number of runs that it requested."""
    wall, cpu = time.perf_counter(), time.process_time()
    with dg.build_sensor_context(instance=instance, resources={"installation": Installation()}) as context:
        result = retraining(context)
    asked = len(result.run_requests or ()) if isinstance(result, dg.SensorResult) else 0
    return time.perf_counter() - wall, time.process_time() - cpu, asked


def measure(settings: Settings, tenants: int) -> dict[str, Any]:
    """The first tick, which records every block of the day, and the median of later ticks."""
    with product_instance(settings) as instance:
        instance.add_dynamic_partitions(
            str(partitions.tenants.name), [f"t{number}" for number in range(1, tenants + 1)]
        )
        first, _, asked = tick(instance)
        again = [tick(instance)[:2] for _ in range(TICKS)]
    clients = Clients(settings)
    with clients.warehouse.operator() as connection:
        query = "SELECT verdict FROM ml.decisions WHERE kind = 'retrain' AND as_of >= now() - interval '1 hour'"
        verdicts = Counter(connection.scalars(sa.text(query)))
    return {
        "tenants": tenants,
        "models": len(load_specs()),
        "first_tick_seconds": first,
        "tick_seconds": float(np.median([wall for wall, _ in again])),
        "tick_cpu_seconds": float(np.median([cpu for _, cpu in again])),
        "runs_asked_for": asked,
        "approved_waiting": len(waiting(clients.warehouse)),
        "held": verdicts["blocked"],
    }


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    tenants = QUICK if arguments.quick else TENANTS
    logging.disable(logging.INFO)
    with temporary_installation() as settings:
        stage(settings, tenants)
        figures = measure(settings, tenants)
    print_table([figures])
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
