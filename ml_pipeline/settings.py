"""Environment to one typed object: the only reader of ``os.environ`` in the package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

from ml_pipeline import hosts
from ml_pipeline.errors import UserError

PROJECT_ROOT = Path(__file__).resolve().parent.parent

AlertLevel = Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]


class SettingsError(UserError):
    """The environment holds a value that cannot be used; the message names the variable and the remedy."""


class Settings(BaseModel):
    """Everything that differs between one installation and the next; picklable, worker processes get a copy."""

    # An error of pydantic would show the passwords in what it was given.
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: str | None = Field(
        None, description="DATABASE_URL. Any PostgreSQL; without it the embedded server under `home`."
    )
    worker_database_url: str | None = Field(
        None,
        description="ML_PIPELINE_WORKER_DATABASE_URL. The same database for the worker processes, with a login that "
        "can do nothing but their work; DATABASE_URL unless set.",
    )
    home: Path = Field(
        PROJECT_ROOT / ".local", description="ML_PIPELINE_HOME. Everything that is kept on this machine."
    )
    dagster_home: Path | None = Field(
        None, description="DAGSTER_HOME. Folder of dagster.yaml; the project's unless set."
    )
    artifacts_url: str | None = Field(
        None,
        description="ML_PIPELINE_ARTIFACTS. fsspec URL of snapshots and model artifacts; `home`/artifacts unless set.",
    )
    specs: tuple[Path, ...] = Field(
        (), description="ML_PIPELINE_SPECS. Further folders of model YAML files, separated by the path separator."
    )
    host: str = Field("127.0.0.1", description="ML_PIPELINE_HOST. Address that the web pages listen on.")
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="ML_PIPELINE_ALLOWED_HOSTS. Further names, separated by commas, under which the web pages may be "
        "opened, as behind a reverse proxy; with a port where only that one counts.",
    )
    dagster_port: int = Field(3000, ge=1, le=65535, description="ML_PIPELINE_DAGSTER_PORT. Port of Dagster's pages.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="ML_PIPELINE_MLFLOW_PORT. Port of MLflow's pages.")
    mlflow_url: str | None = Field(
        None, description="ML_PIPELINE_MLFLOW_URL. Where people open MLflow, for links; host and port above unless set."
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="ML_PIPELINE_WORKERS. Worker processes of one run, and cores that searches share on this machine.",
    )
    tenant_timeout: float = Field(
        600.0, gt=0, description="ML_PIPELINE_TENANT_TIMEOUT. Seconds one tenant may take in one run before it fails."
    )
    statement_timeout: float = Field(
        60.0, gt=0, description="ML_PIPELINE_STATEMENT_TIMEOUT. Seconds one statement may take in the database."
    )
    auto_retrain: Literal["off", "chosen", "all"] = Field(
        "chosen",
        description="ML_PIPELINE_AUTO_RETRAIN. Who is retrained without being asked: nobody (off), the tenants that "
        "`ml-pipeline set` switched on (chosen), or every tenant that it did not switch off (all).",
    )
    auto_retrain_models: tuple[str, ...] = Field(
        (), description="ML_PIPELINE_AUTO_RETRAIN_MODELS. Only these models, separated by commas; all unless set."
    )
    auto_rollback: bool = Field(
        True, description="ML_PIPELINE_AUTO_ROLLBACK. Roll a version back that is shown to be worse; else only alert."
    )
    policy: Path | None = Field(
        None, description="ML_PIPELINE_POLICY. YAML file of the retraining policy; the product's unless set."
    )
    plots_up_to: int = Field(
        20,
        ge=0,
        description="ML_PIPELINE_PLOTS_UP_TO. A training run of at most so many tenants adds plots.png to each "
        "version; 0: none does.",
    )
    event_retention_days: int = Field(
        30, ge=1, description="ML_PIPELINE_EVENT_RETENTION_DAYS. Age at which Dagster's log rows are pruned."
    )
    feature_retention_days: int = Field(
        7, ge=0, description="ML_PIPELINE_FEATURE_RETENTION_DAYS. Days for which a prediction keeps its features."
    )
    prediction_retention_days: int = Field(
        400, ge=1, description="ML_PIPELINE_PREDICTION_RETENTION_DAYS. Age at which predictions are deleted."
    )
    history_retention_days: int | None = Field(
        None,
        ge=1,
        description="ML_PIPELINE_HISTORY_RETENTION_DAYS. Age at which daily metrics, drift reports and decisions are "
        "deleted; never unless set.",
    )
    snapshot_retention_days: int = Field(
        30, ge=1, description="ML_PIPELINE_SNAPSHOT_RETENTION_DAYS. Age at which snapshots without version are deleted."
    )
    alert_retention_days: int = Field(
        90, ge=1, description="ML_PIPELINE_ALERT_RETENTION_DAYS. Age at which acknowledged alerts are deleted."
    )
    open_alert_retention_days: int = Field(
        400, ge=1, description="ML_PIPELINE_OPEN_ALERT_RETENTION_DAYS. Age at which every alert is deleted."
    )
    alert_webhook: SecretStr | None = Field(
        None, description="ML_PIPELINE_ALERT_WEBHOOK. URL of a Slack-compatible incoming webhook; it is a secret."
    )
    alert_webhook_level: AlertLevel = Field(
        "MEDIUM", description="ML_PIPELINE_ALERT_WEBHOOK_LEVEL. The webhook gets alerts from this level on."
    )
    alert_webhook_timeout: float = Field(
        10.0,
        gt=0,
        le=20,
        description="ML_PIPELINE_ALERT_WEBHOOK_TIMEOUT. Seconds until the webhook must have answered.",
    )
    alert_smtp: SecretStr | None = Field(
        None,
        description="ML_PIPELINE_ALERT_SMTP. Mail server, smtp://user:password@host:587 (STARTTLS) or smtps://.",
    )
    alert_smtp_level: AlertLevel = Field(
        "HIGH", description="ML_PIPELINE_ALERT_SMTP_LEVEL. Mail is sent from this level on."
    )
    alert_smtp_timeout: float = Field(
        15.0, gt=0, le=20, description="ML_PIPELINE_ALERT_SMTP_TIMEOUT. Seconds that handing over one mail may take."
    )
    alert_from: str | None = Field(
        None, description="ML_PIPELINE_ALERT_FROM. Sender of the mails; the user of the mail server unless set."
    )
    alert_to: tuple[str, ...] = Field((), description="ML_PIPELINE_ALERT_TO. Who gets the mails, separated by commas.")
    alert_log_level: AlertLevel = Field(
        "LOW", description="ML_PIPELINE_ALERT_LOG_LEVEL. The daemon's log gets alerts from this level on."
    )
    alert_silence_hours: float = Field(
        24.0,
        gt=0,
        description="ML_PIPELINE_ALERT_SILENCE_HOURS. So long the same kind counts up instead of being a new alert.",
    )
    alert_cool_down_minutes: float = Field(
        60.0,
        ge=0,
        description="ML_PIPELINE_ALERT_COOL_DOWN_MINUTES. For so long nothing that is not worse is sent about the same "
        "tenant and model; it waits and comes in one message.",
    )
    alert_escalation_hours: float = Field(
        4.0,
        ge=0,
        description="ML_PIPELINE_ALERT_ESCALATION_HOURS. An unacknowledged HIGH or CRITICAL alert is then sent again, "
        "as CRITICAL; 0: never.",
    )
    alert_news_hours: float = Field(
        48.0,
        gt=0,
        description="ML_PIPELINE_ALERT_NEWS_HOURS. An alert about an older moment (a backfill) is kept, but not sent.",
    )
    alert_attempts: int = Field(
        30,
        ge=1,
        description="ML_PIPELINE_ALERT_ATTEMPTS. Attempts, in growing pauses of up to an hour, until a delivery counts "
        "as failed; 30 take a day.",
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
        """``::`` chains stores in the URLs of artifacts; a line break ends a line of the files that name the path."""
        for character in ("::", *(character for character in str(value) if not character.isprintable())):
            if character in str(value):
                raise ValueError(f"the path holds {character!r}, which the artifact store cannot take")
        return value

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


_VARIABLES = {
    "DATABASE_URL": "database_url",
    "ML_PIPELINE_WORKER_DATABASE_URL": "worker_database_url",
    "ML_PIPELINE_HOME": "home",
    "DAGSTER_HOME": "dagster_home",
    "ML_PIPELINE_ARTIFACTS": "artifacts_url",
    "ML_PIPELINE_SPECS": "specs",
    "ML_PIPELINE_HOST": "host",
    "ML_PIPELINE_ALLOWED_HOSTS": "allowed_hosts",
    "ML_PIPELINE_DAGSTER_PORT": "dagster_port",
    "ML_PIPELINE_MLFLOW_PORT": "mlflow_port",
    "ML_PIPELINE_MLFLOW_URL": "mlflow_url",
    "ML_PIPELINE_WORKERS": "workers",
    "ML_PIPELINE_TENANT_TIMEOUT": "tenant_timeout",
    "ML_PIPELINE_STATEMENT_TIMEOUT": "statement_timeout",
    "ML_PIPELINE_AUTO_RETRAIN": "auto_retrain",
    "ML_PIPELINE_AUTO_RETRAIN_MODELS": "auto_retrain_models",
    "ML_PIPELINE_AUTO_ROLLBACK": "auto_rollback",
    "ML_PIPELINE_POLICY": "policy",
    "ML_PIPELINE_PLOTS_UP_TO": "plots_up_to",
    "ML_PIPELINE_EVENT_RETENTION_DAYS": "event_retention_days",
    "ML_PIPELINE_FEATURE_RETENTION_DAYS": "feature_retention_days",
    "ML_PIPELINE_PREDICTION_RETENTION_DAYS": "prediction_retention_days",
    "ML_PIPELINE_HISTORY_RETENTION_DAYS": "history_retention_days",
    "ML_PIPELINE_SNAPSHOT_RETENTION_DAYS": "snapshot_retention_days",
    "ML_PIPELINE_ALERT_RETENTION_DAYS": "alert_retention_days",
    "ML_PIPELINE_OPEN_ALERT_RETENTION_DAYS": "open_alert_retention_days",
    "ML_PIPELINE_ALERT_WEBHOOK": "alert_webhook",
    "ML_PIPELINE_ALERT_WEBHOOK_LEVEL": "alert_webhook_level",
    "ML_PIPELINE_ALERT_WEBHOOK_TIMEOUT": "alert_webhook_timeout",
    "ML_PIPELINE_ALERT_SMTP": "alert_smtp",
    "ML_PIPELINE_ALERT_SMTP_LEVEL": "alert_smtp_level",
    "ML_PIPELINE_ALERT_SMTP_TIMEOUT": "alert_smtp_timeout",
    "ML_PIPELINE_ALERT_FROM": "alert_from",
    "ML_PIPELINE_ALERT_TO": "alert_to",
    "ML_PIPELINE_ALERT_LOG_LEVEL": "alert_log_level",
    "ML_PIPELINE_ALERT_SILENCE_HOURS": "alert_silence_hours",
    "ML_PIPELINE_ALERT_COOL_DOWN_MINUTES": "alert_cool_down_minutes",
    "ML_PIPELINE_ALERT_ESCALATION_HOURS": "alert_escalation_hours",
    "ML_PIPELINE_ALERT_NEWS_HOURS": "alert_news_hours",
    "ML_PIPELINE_ALERT_ATTEMPTS": "alert_attempts",
}

_SECRETS = ("DATABASE_URL", "ML_PIPELINE_WORKER_DATABASE_URL", "ML_PIPELINE_ALERT_WEBHOOK", "ML_PIPELINE_ALERT_SMTP")


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
    values: dict[str, object] = {
        field: environ[variable] for variable, field in _VARIABLES.items() if environ.get(variable)
    }
    if "specs" in values:
        values["specs"] = tuple(
            Path(part).expanduser().resolve() for part in str(values["specs"]).split(os.pathsep) if part
        )
    for field in ("allowed_hosts", "auto_retrain_models", "alert_to"):
        if field in values:
            values[field] = tuple(part.strip() for part in str(values[field]).split(",") if part.strip())
    if "home" in values:
        values["home"] = Path(str(values["home"])).expanduser().resolve()
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        names = {field: variable for variable, field in _VARIABLES.items()}
        first = error.errors()[0]
        variable = names[str(first["loc"][0])]
        given = "'***'" if variable in _SECRETS else repr(first["input"])
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
