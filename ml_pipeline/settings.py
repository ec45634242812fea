"""The settings of an installation, read from the environment; no other module reads ``os.environ``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from ml_pipeline import hosts
from ml_pipeline.errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
IS_CHECKOUT = (PROJECT_ROOT / "pyproject.toml").is_file() and (PROJECT_ROOT / "dagster.yaml").is_file()
# The folder of dagster.yaml and workspace.yaml; an installed wheel contains both files.
INSTANCE_FILES = PROJECT_ROOT if IS_CHECKOUT else Path(__file__).resolve().parent / "instance"
HOME = PROJECT_ROOT / ".local" if IS_CHECKOUT else platformdirs.user_data_path("ml-pipeline")
COMMAND = ".venv/bin/ml-pipeline" if IS_CHECKOUT else "ml-pipeline"  # as messages show it

AlertLevel = Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]


class SettingsError(UserError):
    """An environment variable has a value that cannot be used; the message names variable, value and remedy."""


_SECRETS = ("DATABASE_URL", "ML_PIPELINE_WORKER_DATABASE_URL", "ML_PIPELINE_ALERT_WEBHOOK", "ML_PIPELINE_ALERT_SMTP")


def _separated(value: object) -> object:
    """A text split at its commas; any other value is returned as it is."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated)]


class Settings(BaseSettings):
    """The settings of one installation. They can be pickled: worker processes get a copy.

    ``load_settings`` reads them from the environment. The class itself ignores the environment.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="ML_PIPELINE_",
        populate_by_name=True,
        hide_input_in_errors=True,  # pydantic's errors would show passwords
    )

    database_url: str | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="URL of a PostgreSQL server; by default the embedded server under `home`.",
    )
    worker_database_url: str | None = Field(
        None,
        description="URL of the same database for worker processes, with a login of few rights; "
        "by default DATABASE_URL.",
    )
    home: Path = Field(
        HOME,
        description="Folder of all local data; by default `.local` in a checkout, otherwise the user's data folder.",
    )
    dagster_home: Path | None = Field(
        None, validation_alias="DAGSTER_HOME", description="Folder of dagster.yaml; by default the project's own."
    )
    artifacts_url: str | None = Field(
        None,
        validation_alias="ML_PIPELINE_ARTIFACTS",
        description="fsspec URL of snapshots and model artifacts; by default `home`/artifacts.",
    )
    specs: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Further folders of model YAML files, separated by the path separator."
    )
    host: str = Field("127.0.0.1", description="Address on which the web pages listen.")
    allowed_hosts: Names = Field(
        (),
        description="Further host names, separated by commas, under which the web pages may be opened, for example "
        "behind a reverse proxy; a name with a port allows this port only.",
    )
    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of Dagster's pages.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Port of MLflow's pages.")
    mlflow_url: str | None = Field(None, description="Address of MLflow in links; by default host and port above.")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Worker processes of one run, and cores of this machine that all trainings share.",
    )
    tenant_timeout: float = Field(
        600.0, gt=0, description="Seconds that one tenant may take in a run; after them it fails."
    )
    statement_timeout: float = Field(60.0, gt=0, description="Seconds that one database statement may take.")
    auto_retrain: Literal["off", "chosen", "all"] = Field(
        "chosen",
        description="Tenants with automatic retraining: none (off), those switched on with `ml-pipeline set` (chosen), "
        "or all except those switched off with it (all).",
    )
    auto_retrain_models: Names = Field(
        (), description="Models with automatic retraining, separated by commas; by default all."
    )
    auto_rollback: bool = Field(
        True, description="Roll back a version that is significantly worse; if off, only alert."
    )
    policy: Path | None = Field(None, description="YAML file of the retraining policy; by default the built-in policy.")
    plots_up_to: int = Field(
        20,
        ge=0,
        description="Training runs of at most this number of tenants add plots.png to each version; 0 adds none.",
    )
    event_retention_days: int = Field(30, ge=1, description="Days after which Dagster's log rows are deleted.")
    feature_retention_days: int = Field(
        7, ge=0, description="Days after which the features of a prediction are deleted."
    )
    prediction_retention_days: int = Field(400, ge=1, description="Days after which predictions are deleted.")
    history_retention_days: int | None = Field(
        None,
        ge=1,
        description="Days after which daily metrics, drift reports and decisions are deleted; by default never.",
    )
    snapshot_retention_days: int = Field(
        30, ge=1, description="Days after which snapshots without a version are deleted."
    )
    alert_retention_days: int = Field(90, ge=1, description="Days after which acknowledged alerts are deleted.")
    open_alert_retention_days: int = Field(400, ge=1, description="Days after which all alerts are deleted.")
    alert_webhook: SecretStr | None = Field(None, description="URL of a Slack-compatible incoming webhook; a secret.")
    alert_webhook_level: AlertLevel = Field("MEDIUM", description="Lowest level of alerts for the webhook.")
    alert_webhook_timeout: float = Field(
        10.0,
        gt=0,
        le=20,
        description="Seconds within which the webhook must answer.",
    )
    alert_smtp: SecretStr | None = Field(
        None,
        description="URL of the mail server, smtp://user:password@host:587 (STARTTLS) or smtps://; a secret.",
    )
    alert_smtp_level: AlertLevel = Field("HIGH", description="Lowest level of alerts for mail.")
    alert_smtp_timeout: float = Field(
        15.0, gt=0, le=20, description="Seconds within which the mail server must accept a mail."
    )
    alert_from: str | None = Field(None, description="Sender of the mails; by default the user of the mail server.")
    alert_to: Names = Field((), description="Recipients of the mails, separated by commas.")
    alert_log_level: AlertLevel = Field("LOW", description="Lowest level of alerts for the daemon's log.")
    alert_silence_hours: float = Field(
        24.0,
        gt=0,
        description="Hours for which an alert of the same kind increases a counter instead of raising a new alert.",
    )
    alert_cool_down_minutes: float = Field(
        60.0,
        ge=0,
        description="Minutes between messages about the same tenant and model; alerts meanwhile are sent together, and "
        "a worse one at once.",
    )
    alert_escalation_hours: float = Field(
        4.0,
        ge=0,
        description="Hours after which an unacknowledged HIGH or CRITICAL alert is sent again as CRITICAL; 0: never.",
    )
    alert_news_hours: float = Field(
        48.0,
        gt=0,
        description="Age of the as-of time, in hours, above which an alert (of a backfill) is stored but not sent.",
    )
    alert_attempts: int = Field(
        30,
        ge=1,
        description="Attempts, with growing pauses of up to an hour, before a delivery fails; 30 attempts take a day.",
    )

    @classmethod
    def settings_customise_sources(cls, *_: object, **sources: Any) -> tuple[Any, ...]:
        """Use the given values only; ``load_settings`` reads the environment."""
        return (sources["init_settings"],)

    @field_validator("specs", mode="before")
    @classmethod
    def _are_folders(cls, value: object) -> object:
        return (
            tuple(Path(part).expanduser().resolve() for part in value.split(os.pathsep) if part)
            if isinstance(value, str)
            else value
        )

    @field_validator("alert_webhook", "alert_smtp")
    @classmethod
    def _is_an_address(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        schemes = ("http", "https") if info.field_name == "alert_webhook" else ("smtp", "smtps")
        if value is not None:
            parts = urlsplit(value.get_secret_value())
            if parts.scheme not in schemes or not parts.hostname or parts.port == 0:
                raise ValueError(f"expected {schemes[0]}://host or {schemes[1]}://host, with a valid port if any")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            address = hosts.parse(name)
            if address is None or address.is_any:
                raise ValueError(
                    f"{name!r} is not a host name; expected names such as pages.example.com or 10.0.0.5:3000"
                )
        return value

    @property
    def page_host(self) -> str:
        """The host under which a browser on this machine opens the pages, as part of a URL."""
        address = hosts.parse(self.host)
        if address is None:
            return self.host
        return "127.0.0.1" if address.is_any else address.in_url

    @field_validator("home")
    @classmethod
    def _is_a_usable_path(cls, value: Path) -> Path:
        """The absolute path.

        ``::`` chains stores in fsspec's URLs; a line break would end a line in files that contain the path.
        """
        for character in ("::", *(character for character in str(value) if not character.isprintable())):
            if character in str(value):
                raise ValueError(f"the path contains {character!r}, which the artifact store does not allow")
        return value.expanduser().resolve()

    @property
    def artifacts(self) -> str:
        return self.artifacts_url or str(self.home / "artifacts")

    def for_workers(self) -> Settings:
        """The settings of worker processes, with their own login if there is one."""
        if self.worker_database_url is None:
            return self
        return self.model_copy(update={"database_url": self.worker_database_url})

    def version_page(self, registered_model: str, version: int) -> str:
        """The address of a model version's page in MLflow."""
        base = self.mlflow_url or f"http://{self.page_host}:{self.mlflow_port}"
        return f"{base.rstrip('/')}/#/models/{registered_model}/versions/{version}"


class _Environment(EnvSettingsSource):
    """The variables of ``environ`` that are not empty."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.env_vars = {name.lower(): value for name, value in environ.items() if value}


def variable_of(field: str) -> str:
    """The environment variable of a field of ``Settings``."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"{Settings.model_config['env_prefix']}{field.upper()}"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in the environment.

    Parameters
    ----------
    environ
        Variables to use instead of ``os.environ``.

    Raises
    ------
    SettingsError
        If a variable has a wrong value; the message names the variable, its value and what is expected.

    >>> load_settings({"ML_PIPELINE_WORKERS": "3"}).workers
    3
    """
    environ = os.environ if environ is None else environ
    try:
        return Settings.model_validate(_Environment(environ)())
    except ValidationError as error:
        first = error.errors()[0]
        named = str(first["loc"][0])
        variable = variable_of(named) if named in Settings.model_fields else named
        given = "'***'" if variable in _SECRETS else repr(environ[variable])
        raise SettingsError(
            f"{variable}={given}: {first['msg']}. Correct it or unset it to use the default."
        ) from error


def environment_value(variable: str) -> str | None:
    """The value of a variable that a model specification names (``url: env:REPLICA_URL``)."""
    return os.environ.get(variable)


def export_to_children(values: Mapping[str, str]) -> None:
    """Set environment variables for the processes that this one starts (Dagster's runs, MLflow's server)."""
    os.environ.update(values)


# Libraries read these when they are imported, so they are set when this module is imported.
export_to_children(
    {
        "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
        "MLFLOW_UV_AUTO_DETECT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "1",  # connections that each of its stores keeps, in each worker process
        "DAGSTER_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
)
