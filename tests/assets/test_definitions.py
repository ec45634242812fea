"""Everything that Dagster lists for the shipped models; a change is accepted with ``pytest --snapshot-update``."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

from ml_pipeline import partitions
from ml_pipeline.definitions import definitions
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.specs import load_specs

PARTITIONS = {None: "none", partitions.tenants: "tenant", partitions.tenant_days: "tenant x day"}


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return definitions(load_specs(), Installation()).get_repository_def()


def names(keys: Any) -> list[str]:
    return sorted(key.to_user_string() for key in keys)


def test_the_assets_with_their_parents_kinds_groups_and_owners(
    repository: dg.RepositoryDefinition, snapshot: SnapshotAssertion
):
    graph = repository.asset_graph
    shown = {
        key.to_user_string(): {
            "parents": names(graph.get(key).parent_keys),
            "kinds": sorted(graph.get(key).kinds),
            "group": graph.get(key).group_name,
            "owners": list(graph.get(key).owners),
            "partitions": PARTITIONS[graph.get(key).partitions_def],
            "external": graph.get(key).is_external,
            "freshness": str(graph.get(key).freshness_policy),
            "description": graph.get(key).description,
        }
        for key in graph.get_all_asset_keys()
    }
    assert shown == snapshot(extension_class=JSONSnapshotExtension)


def test_the_checks(repository: dg.RepositoryDefinition, snapshot: SnapshotAssertion):
    graph = repository.asset_graph
    specs = {key: graph.get_check_spec(key) for key in graph.asset_check_keys}
    shown = {f"{key.asset_key.to_user_string()} {key.name}": spec.description for key, spec in specs.items()}
    assert shown == snapshot(extension_class=JSONSnapshotExtension)


def test_the_jobs_schedules_and_sensors(repository: dg.RepositoryDefinition, snapshot: SnapshotAssertion):
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    schedules, sensors = repository.schedule_defs, repository.sensor_defs
    shown = {
        "jobs": {
            job.name: {"description": job.description, "assets": names(job.asset_layer.executable_asset_keys)}
            for job in jobs
        },
        "schedules": {
            schedule.name: {
                "cron": schedule.cron_schedule,
                "job": schedule.job_name,
                "time zone": schedule.execution_timezone,
                "status": schedule.default_status.value,
            }
            for schedule in schedules
        },
        "sensors": {
            sensor.name: {
                "seconds": sensor.minimum_interval_seconds,
                "description": sensor.description,
                "status": sensor.default_status.value,
            }
            for sensor in sensors
        },
    }
    assert shown == snapshot(extension_class=JSONSnapshotExtension)
