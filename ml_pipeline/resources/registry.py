"""The model registry (MLflow): versions, aliases, and artifacts whose hashes are checked at every read."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml_pipeline.errors import UserError
from ml_pipeline.identifiers import check_model_name, check_tenant_id
from ml_pipeline.resources import postgres, store, tables
from ml_pipeline.resources.manifest import MANIFEST, TamperedArtifact, checked_file, checked_files, write_manifest
from ml_pipeline.resources.scratch import scratch_folder
from ml_pipeline.resources.version import Registration, Version
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

__all__ = [
    "MANIFEST",
    "NoSuchVersion",
    "Registration",
    "Registry",
    "TamperedArtifact",
    "Version",
    "registered_name",
    "write_manifest",
]

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
PREVIOUS = "previous"
SCHEMA = "mlflow"
ALIASES = """
    SELECT name, alias, version FROM mlflow.registered_models AS models
    LEFT JOIN mlflow.registered_model_aliases AS aliases USING (workspace, name)
    WHERE workspace = 'default' ORDER BY name, alias
"""

logger = logging.getLogger(__name__)


class NoSuchVersion(UserError):
    """The version does not exist; the message lists the existing ones."""


def registered_name(model: str, tenant: str) -> str:
    """Name of a tenant's model in MLflow. It contains no quotes, which MLflow's filters cannot escape.

    Raises
    ------
    BadIdentifier
        If the tenant's id or the model's name is not allowed in names and paths.

    >>> registered_name("story_points", "acme")
    'story_points.acme'
    """
    return f"{check_model_name(model)}.{check_tenant_id(tenant)}"


def tracking_url(settings: Settings) -> str:
    """URL of MLflow's schema in the pipeline's database."""
    if settings.database_url is None:
        raise postgres.DatabaseUnavailable(
            "DATABASE_URL is not set; MLflow stores its tables there. Set it, or use `ml-pipeline up`"
        )
    url = postgres.parse_url(settings.database_url)
    return postgres.plain(postgres.url_with_options(url, search_path=SCHEMA))


@lru_cache(maxsize=4)
def _client(url: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=url, registry_uri=url)


class Registry:
    """Registered models, one per model and tenant, named ``<model>.<tenant>``.

    Everyone who can open MLflow's pages can create versions there and copy tags. The hash of each manifest is therefore
    also stored behind row-level security (``ml.versions``), and a version without a row there is refused everywhere.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = tracking_url(settings)
        self._warehouse = Warehouse(settings)

    @property
    def client(self) -> MlflowClient:
        return _client(self.url)

    def prepare(self) -> None:
        """Create MLflow's schema and tables if they are missing.

        Tables of an older MLflow are not changed: MLflow's own error then names ``mlflow db upgrade``.
        """
        administration = postgres.parse_url(self.settings.database_url or "")
        with postgres.exclusive(administration, "mlflow") as connection:
            connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
            if not connection.scalar(sa.text("SELECT to_regclass('mlflow.alembic_version') IS NOT NULL")):
                self.client.search_experiments(max_results=1)

    def register(
        self,
        tenant: str,
        model: str,
        folder: Path,
        registration: Registration,
    ) -> Version:
        """Store the files of ``folder`` with a manifest of their hashes, and register them as the next version.

        If a version with the same key is registered, it is returned and nothing is stored.
        """
        name, given = registered_name(model, tenant), registration
        existing = self.find(tenant, model, given.key)
        if existing is not None:
            return existing
        manifest_hash = write_manifest(folder, tenant, model, given.key)
        experiment = self._experiment(tenant, model)
        self._end_cut_off_runs(tenant, model, experiment)
        run_id = self._logged_run(experiment, tenant, model, given)
        # MLflow's pages show the tags in this order.
        version_tags = {
            "semantic_version": given.semantic,
            "as_of": given.as_of,
            **given.tags,
            "key": given.key,
            "manifest_sha256": manifest_hash,
        }
        self._unless_exists(lambda: self.client.create_registered_model(name, tags={"tenant": tenant, "model": model}))
        source = f"{self._run_folder(tenant, model, run_id)}/artifacts/model"
        try:
            store.put_all(source, {file.name: file.read_bytes() for file in sorted(folder.iterdir())})
            # Before MLflow's version: if the process dies between the two, the training runs again, and the row without
            # a version does no harm.
            row = {"tenant_id": tenant, "model": model, "key": given.key, "manifest_sha256": manifest_hash}
            with self._warehouse.tenant(tenant) as connection:
                connection.execute(insert(tables.versions).values(row).on_conflict_do_nothing())
            created = self.client.create_model_version(
                name, source, run_id, tags=version_tags, description=given.description
            )
        except Exception:
            self._abandon(tenant, model, run_id)
            raise
        # Last, so that an MLflow run that has not ended shows an interrupted registration.
        self.client.set_terminated(run_id)
        return _version(tenant, model, created, self._registered(tenant, model))

    def _registered(self, tenant: str, model: str) -> set[tuple[str, str]]:
        """Key and manifest hash of each version that the pipeline registered for the tenant's model."""
        table = tables.versions
        query = sa.select(table.c.key, table.c.manifest_sha256).where(
            table.c.tenant_id == tenant, table.c.model == model
        )
        with self._warehouse.tenant(tenant) as connection:
            return {(row.key, row.manifest_sha256) for row in connection.execute(query)}

    def _run_folder(self, tenant: str, model: str, run_id: str) -> str:
        """The folder of a run in the current artifact store; MLflow's tables may name that of before a move."""
        return f"{store.as_url(self.settings.artifacts)}/models/{tenant}/{model}/{run_id}"

    def _end_cut_off_runs(self, tenant: str, model: str, experiment: str) -> None:
        """End the runs whose process died during a registration; delete the files of those without a version.

        Only one process at a time registers for a tenant's model (``Warehouse.advisory_lock``), so no run is active.
        """
        for run in self.client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            run_id = run.info.run_id
            if self.client.search_model_versions(f"run_id = '{run_id}'"):
                self.client.set_terminated(run_id)
            else:
                self._abandon(tenant, model, run_id)

    def _abandon(self, tenant: str, model: str, run_id: str) -> None:
        """Mark a run as failed and delete its files; if that fails, the next registration tries again."""
        from mlflow.exceptions import MlflowException

        try:
            store.remove(self._run_folder(tenant, model, run_id))
            self.client.set_terminated(run_id, "FAILED")
        except (OSError, MlflowException) as error:
            logger.warning(
                "tenant %s, model %s: the files of the failed run %s could not be deleted: %s. The next training tries "
                "again",
                *(tenant, model, run_id, error),
            )

    def _logged_run(self, experiment: str, tenant: str, model: str, given: Registration) -> str:
        """The id of a new MLflow run with the metrics, parameters and tags of the version."""
        from mlflow.entities import Metric, Param, RunTag

        tags = {"semantic_version": given.semantic, "tenant": tenant, **given.tags, "mlflow.source.name": "ml-pipeline"}
        tags |= {"mlflow.note.content": given.description} if given.description else {}
        run_id: str = self.client.create_run(experiment, run_name=f"{tenant} {model} {given.semantic}").info.run_id
        now = int(time.time() * 1000)  # MLflow's unit
        params = {"as_of": given.as_of, **given.params}
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in given.metrics.items()],
            params=[Param(key, str(value)) for key, value in params.items()],
            tags=[RunTag(key, str(value)) for key, value in tags.items()],
        )
        return run_id

    def _experiment(self, tenant: str, model: str) -> str:
        name = registered_name(model, tenant)
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        location = f"{store.as_url(self.settings.artifacts)}/models/{tenant}/{model}"
        self._unless_exists(lambda: self.client.create_experiment(name, artifact_location=location))
        return self._experiment(tenant, model)

    @staticmethod
    def _unless_exists(create: Callable[[], object]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            create()
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def versions(self, tenant: str, model: str) -> list[Version]:
        """All versions that the pipeline registered, newest first; the log names others, which are left out."""
        found = self.client.search_model_versions(
            f"name = '{registered_name(model, tenant)}'", max_results=10_000, order_by=["version_number DESC"]
        )
        registered = self._registered(tenant, model) if found else set()
        foreign = [item for item in found if not _is_ours(item, registered)]
        if foreign:
            numbers = ", ".join(str(item.version) for item in foreign)
            logger.warning(
                "tenant %s, model %s: the pipeline did not register version %s. It is ignored; delete it in MLflow",
                *(tenant, model, numbers),
            )
        ours = [_version(tenant, model, item, registered) for item in found if item not in foreign]
        return sorted(ours, key=lambda version: -version.number)

    def find(self, tenant: str, model: str, key: str) -> Version | None:
        """The version that was registered with this key, or None."""
        return next((version for version in self.versions(tenant, model) if version.tags.get("key") == key), None)

    def version(self, tenant: str, model: str, number: int) -> Version:
        """One version by its number.

        Raises
        ------
        NoSuchVersion
            If it does not exist.
        TamperedArtifact
            If the pipeline did not register it.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version(registered_name(model, tenant), str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = ", ".join(str(version.number) for version in self.versions(tenant, model)) or "none"
            raise NoSuchVersion(
                f"tenant {tenant}, model {model}: there is no version {number}; the versions are: {known}"
            ) from error
        return _version(tenant, model, found, self._registered(tenant, model))

    def aliased(self, tenant: str, model: str, alias: str = CHAMPION) -> Version | None:
        """The version that an alias points at, or None."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_model_version_by_alias(registered_name(model, tenant), alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return _version(tenant, model, found, self._registered(tenant, model))

    def set_alias(self, tenant: str, model: str, alias: str, number: int) -> None:
        self.client.set_registered_model_alias(registered_name(model, tenant), alias, str(number))

    def delete_alias(self, tenant: str, model: str, alias: str) -> None:
        """Remove an alias if it exists."""
        self.client.delete_registered_model_alias(registered_name(model, tenant), alias)

    def tag(self, version: Version, key: str, value: str) -> None:
        name = registered_name(version.model, version.tenant)
        self.client.set_model_version_tag(name, str(version.number), key, value)

    def aliases_of(self, tenant: str, model: str) -> dict[str, int]:
        """The aliases of one registered model, including those of versions that the pipeline did not register."""
        found = self.client.get_registered_model(registered_name(model, tenant))
        return {alias: int(number) for alias, number in found.aliases.items()}

    def aliases(self) -> dict[tuple[str, str], dict[str, int]]:
        """Aliases of all registered models by (tenant, model), from MLflow's tables, since its client takes seconds."""
        result: dict[tuple[str, str], dict[str, int]] = {}
        with postgres.connect(postgres.engine(postgres.parse_url(self.settings.database_url or ""))) as connection:
            for name, alias, version in connection.execute(sa.text(ALIASES)):
                model, _, tenant = name.partition(".")
                found = result.setdefault((tenant, model), {})
                if alias is not None:
                    found[alias] = int(version)
        return result

    def file(self, version: Version, name: str) -> bytes | None:
        """The content of one file, None if the version was registered without it.

        Raises
        ------
        TamperedArtifact
            If the manifest or the file differs from the registered one.
        """
        folder = self._folder(version)
        return checked_file(version, folder, name)

    @contextmanager
    def files(self, version: Version) -> Iterator[Path]:
        """A temporary local folder with the version's files.

        Raises
        ------
        TamperedArtifact
            If a file is missing, was added, or differs from the registered one.
        """
        stored = self._folder(version)
        with scratch_folder() as folder:
            target = folder / "model"
            target.mkdir()
            for name, content in checked_files(version, stored):
                (target / name).write_bytes(content)
            yield target

    def check(self, version: Version) -> None:
        """Check all files of the version.

        Raises
        ------
        TamperedArtifact
            As for :meth:`files`.
        """
        for _ in checked_files(version, self._folder(version)):
            pass

    def _folder(self, version: Version) -> str:
        """The folder of the version's files, also after the installation was moved."""
        below = f"models/{version.tenant}/{version.model}"
        return store.present(self.settings.artifacts, version.source, below)


def _is_ours(item: ModelVersion, registered: set[tuple[str, str]]) -> bool:
    return (item.tags.get("key"), item.tags.get("manifest_sha256")) in registered


def _version(tenant: str, model: str, item: ModelVersion, registered: set[tuple[str, str]]) -> Version:
    """The version as MLflow describes it.

    Raises
    ------
    TamperedArtifact
        If the pipeline did not register it for this tenant and model, or a tag that it needs is lost.
    """
    tags = dict(item.tags)
    if not _is_ours(item, registered):
        raise TamperedArtifact(
            f"tenant {tenant}, model {model}: version {item.version} was not registered by the pipeline for this "
            "tenant and model, so its files cannot be verified. Delete it in MLflow. If it is the champion, make "
            "another version the champion with `ml-pipeline promote`"
        )
    try:
        semantic = tags["semantic_version"]
        dt.datetime.fromisoformat(tags["as_of"])
    except (KeyError, ValueError) as error:
        raise TamperedArtifact(
            f"tenant {tenant}, model {model}: the tag semantic_version or as_of of version {item.version} was removed "
            f"or changed in MLflow ({error}). Restore it there, or promote another version"
        ) from error
    return Version(tenant, model, int(item.version), semantic, item.run_id or "", item.source or "", tags)
