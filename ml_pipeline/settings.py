"""Environment to one typed object: the only reader of ``os.environ`` in the package."""

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
# Where dagster.yaml and workspace.yaml are: an installed wheel carries its own.
INSTANCE_FILES = PROJECT_ROOT if IS_CHECKOUT else Path(__file__).resolve().parent / "instance"
HOME = PROJECT_ROOT / ".local" if IS_CHECKOUT else platformdirs.user_data_path("ml-pipeline")
COMMAND = ".venv/bin/ml-pipeline" if IS_CHECKOUT else "ml-pipeline"  # as a message tells a user to type it

AlertLevel = Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]


class SettingsError(UserError):
    """The environment holds a value that cannot be used; the message names the variable and the remedy."""


_SECRETS = ("DATABASE_URL", "ML_PIPELINE_WORKER_DATABASE_URL", "ML_PIPELINE_ALERT_WEBHOOK", "ML_PIPELINE_ALERT_SMTP")


def _separated(value: object) -> object:
    """The parts of a text that commas separate."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separated)]


class Settings(BaseSettings):
    """Everything that differs between one installation and the next; picklable, worker processes get a copy.

    ``load_settings`` reads the environment. A field that is not given when the class is called has its default.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix="ML_PIPELINE_",
        populate_by_name=True,
        hide_input_in_errors=True,  # an error of pydantic would show the passwords in what it was given
    )

    database_url: str | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="Any PostgreSQL; without it the embedded server under `home`.",
    )
    worker_database_url: str | None = Field(
        None,
        description="The same database for the worker processes, with a login that "
        "can do nothing but their work; DATABASE_URL unless set.",
    )
    home: Path = Field(
        HOME,
        description="Folder of everything that is kept on this machine: `.local` in a checkout, "
        "otherwise the user's data folder.",
    )
    dagster_home: Path | None = Field(
        None, validation_alias="DAGSTER_HOME", description="Folder of dagster.yaml; the project's own unless set."
    )
    artifacts_url: str | None = Field(
        None,
        validation_alias="ML_PIPELINE_ARTIFACTS",
        description="fsspec URL of snapshots and model artifacts; `home`/artifacts unless set.",
    )
    specs: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Further folders of model YAML files, separated by the path separator."
    )
    host: str = Field("127.0.0.1", description="Address that the web pages listen on.")
    allowed_hosts: Names = Field(
        (),
        description="Further names, separated by commas, under which the web pages may be "
        "opened, as behind a reverse proxy; with a port where only that one counts.",
    )
    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of Dagster's pages.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Port of MLflow's pages.")
    mlflow_url: str | None = Field(
        None, description="Where people open MLflow, for links; host and port above unless set."
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="Worker processes of one run, and cores that searches share on this machine.",
    )
    tenant_timeout: float = Field(600.0, gt=0, description="Seconds one tenant may take in one run before it fails.")
    statement_timeout: float = Field(60.0, gt=0, description="Seconds one statement may take in the database.")
    auto_retrain: Literal["off", "chosen", "all"] = Field(
        "chosen",
        description="Who is retrained without being asked: nobody (off), the tenants that "
        "`ml-pipeline set` switched on (chosen), or every tenant that it did not switch off (all).",
    )
    auto_retrain_models: Names = Field((), description="Only these models, separated by commas; all unless set.")
    auto_rollback: bool = Field(True, description="Roll a version back that is shown to be worse; else only alert.")
    policy: Path | None = Field(None, description="YAML file of the retraining policy; the product's unless set.")
    plots_up_to: int = Field(
        20,
        ge=0,
        description="A training run of at most so many tenants adds plots.png to each version; 0: none does.",
    )
    event_retention_days: int = Field(30, ge=1, description="Age at which Dagster's log rows are pruned.")
    feature_retention_days: int = Field(7, ge=0, description="Days for which a prediction keeps its features.")
    prediction_retention_days: int = Field(400, ge=1, description="Age at which predictions are deleted.")
    history_retention_days: int | None = Field(
        None,
        ge=1,
        description="Age at which daily metrics, drift reports and decisions are deleted; never unless set.",
    )
    snapshot_retention_days: int = Field(30, ge=1, description="Age at which snapshots without version are deleted.")
    alert_retention_days: int = Field(90, ge=1, description="Age at which acknowledged alerts are deleted.")
    open_alert_retention_days: int = Field(400, ge=1, description="Age at which every alert is deleted.")
    alert_webhook: SecretStr | None = Field(
        None, description="URL of a Slack-compatible incoming webhook; it is a secret."
    )
    alert_webhook_level: AlertLevel = Field("MEDIUM", description="The webhook gets alerts from this level on.")
    alert_webhook_timeout: float = Field(
        10.0,
        gt=0,
        le=20,
        description="Seconds until the webhook must have answered.",
    )
    alert_smtp: SecretStr | None = Field(
        None,
        description="Mail server, smtp://user:password@host:587 (STARTTLS) or smtps://.",
    )
    alert_smtp_level: AlertLevel = Field("HIGH", description="Mail is sent from this level on.")
    alert_smtp_timeout: float = Field(15.0, gt=0, le=20, description="Seconds that handing over one mail may take.")
    alert_from: str | None = Field(None, description="Sender of the mails; the user of the mail server unless set.")
    alert_to: Names = Field((), description="Who gets the mails, separated by commas.")
    alert_log_level: AlertLevel = Field("LOW", description="The daemon's log gets alerts from this level on.")
    alert_silence_hours: float = Field(
        24.0,
        gt=0,
        description="So long the same kind counts up instead of being a new alert.",
    )
    alert_cool_down_minutes: float = Field(
        60.0,
        ge=0,
        description="For so long nothing that is not worse is sent about the same "
        "tenant and model; it waits and comes in one message.",
    )
    alert_escalation_hours: float = Field(
        4.0,
        ge=0,
        description="An unacknowledged HIGH or CRITICAL alert is then sent again, as CRITICAL; 0: never.",
    )
    alert_news_hours: float = Field(
        48.0,
        gt=0,
        description="An alert about an older moment (a backfill) is kept, but not sent.",
    )
    alert_attempts: int = Field(
        30,
        ge=1,
        description="Attempts, in growing pauses of up to an hour, until a delivery counts as failed; 30 take a day.",
    )

    @classmethod
    def settings_customise_sources(cls, *_: object, **sources: Any) -> tuple[Any, ...]:
        """Nothing but what is given: the environment is read by ``load_settings`` alone."""
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
                raise ValueError(f"{name!r} is not a host name; expected names as pages.example.com or 10.0.0.5:3000")
        return value

    @property
    def page_host(self) -> str:
        """Where a browser on this machine finds the pages, as a URL has it."""
        address = hosts.parse(self.host)
        if address is None:
            return self.host
        return "127.0.0.1" if address.is_any else address.in_url

    @field_validator("home")
    @classmethod
    def _is_a_usable_path(cls, value: Path) -> Path:
        """The absolute path.

        ``::`` chains stores in the URLs of artifacts; a line break ends a line of the files that name the path.
        """
        for character in ("::", *(character for character in str(value) if not character.isprintable())):
            if character in str(value):
                raise ValueError(f"the path holds {character!r}, which the artifact store cannot take")
        return value.expanduser().resolve()

    @property
    def artifacts(self) -> str:
        return self.artifacts_url or str(self.home / "artifacts")

    def for_workers(self) -> Settings:
        """What a worker process is given: its own login, where there is one."""
        if self.worker_database_url is None:
            return self
        return self.model_copy(update={"database_url": self.worker_database_url})

    def version_page(self, registered_model: str, version: int) -> str:
        """Address of a model version's page in MLflow."""
        base = self.mlflow_url or f"http://{self.page_host}:{self.mlflow_port}"
        return f"{base.rstrip('/')}/#/models/{registered_model}/versions/{version}"


class _Environment(EnvSettingsSource):
    """The variables of ``environ``, those that are empty left out."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        self.env_vars = {name.lower(): value for name, value in environ.items() if value}


def variable_of(field: str) -> str:
    """Name of the environment variable that a field of ``Settings`` is read from."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"{Settings.model_config['env_prefix']}{field.upper()}"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment (or from the mapping given, in tests).

    Raises
    ------
    SettingsError
        If a variable does not parse; the message names the variable, its value and what is expected.

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
    """Value of a variable that a model specification names (``url: env:REPLICA_URL``)."""
    return os.environ.get(variable)


def export_to_children(values: Mapping[str, str]) -> None:
    """Hands values to every process that this one starts (Dagster's runs, MLflow's server)."""
    os.environ.update(values)


# Read by the libraries when they are imported, so they are set as soon as the settings are.
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
