"""The door to the records of searches that are under way, from which a training that was cut off goes on."""

from __future__ import annotations

import warnings

import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.resources.connections import grant_worker_login
from ml_pipeline.settings import Settings

SCHEMA = "optuna"


class Studies:
    """Optuna's tables, in a schema of their own that the tenants' role cannot enter.

    They have no column for the tenant, so no policy could tell rows apart. They hold names, parameters and losses, no
    row of a tenant, and those only while a search is under way: its study is removed when the training has ended.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None:
            raise postgres.DatabaseUnavailable("DATABASE_URL is not set; searches keep their trials there")
        self._settings = settings
        self._administration = postgres.parse_url(settings.database_url)
        self.url = postgres.plain(postgres.url_with_options(self._administration, search_path=SCHEMA))

    def prepare(self) -> str:
        """The URL of the studies; their schema and tables are made once and by one process at a time."""
        with postgres.exclusive(self._administration, SCHEMA) as connection:
            if not self._exist(connection):
                connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
                self._storage()
        grant_worker_login(self._settings, SCHEMA)
        return self.url

    def remove(self, tenant: str, model: str) -> None:
        """Forgets every study of a tenant's model, of other rows too; nothing happens where there is none."""
        connecting = sa.create_engine(self._administration, poolclass=sa.NullPool)  # once a training: nothing is kept
        with postgres.connect(connecting) as connection:
            if not self._exist(connection):
                return
            name = sa.column("study_name", sa.Text)
            studies = sa.table("studies", name, schema=SCHEMA)
            names = connection.scalars(
                sa.select(name).select_from(studies).where(name.startswith(study_name(tenant, model), autoescape=True))
            ).all()
        if names:
            storage = self._storage()
            for found in names:
                storage.delete_study(storage.get_study_id_from_name(found))
            storage.remove_session()
            storage.engine.dispose()

    @staticmethod
    def _exist(connection: sa.Connection) -> bool:
        return bool(connection.scalar(sa.text(f"SELECT to_regclass('{SCHEMA}.alembic_version') IS NOT NULL")))

    def _storage(self):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(self.url)


def study_name(tenant: str, model: str, key: str = "") -> str:
    """Name of the study of one piece of work; without a key what all names of the tenant's model begin with."""
    return f"{tenant}/{model}/{key}"
