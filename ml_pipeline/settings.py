"""Environment to one typed object: the only reader of ``os.environ`` in the package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class SettingsError(Exception):
    """The environment holds a value that cannot be used; the message names the variable and the remedy."""


class Settings(BaseModel):
    """Everything that differs between one installation and the next; picklable, worker processes get a copy."""

    model_config = ConfigDict(frozen=True)

    database_url: str | None = Field(
        None, description="DATABASE_URL. Any PostgreSQL; without it the embedded server under `home`."
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
    dagster_port: int = Field(3000, ge=1, le=65535, description="ML_PIPELINE_DAGSTER_PORT.")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="ML_PIPELINE_MLFLOW_PORT.")
    mlflow_url: str | None = Field(
        None, description="ML_PIPELINE_MLFLOW_URL. Where people open MLflow, for links; host and port above unless set."
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="ML_PIPELINE_WORKERS. Worker processes of one run.",
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
    event_retention_days: int = Field(
        30, ge=1, description="ML_PIPELINE_EVENT_RETENTION_DAYS. Age at which Dagster's log rows are pruned."
    )

    @property
    def artifacts(self) -> str:
        return self.artifacts_url or str(self.home / "artifacts")

    def version_page(self, registered_model: str, version: int) -> str:
        """Address of a model version's page in MLflow."""
        base = self.mlflow_url or f"http://{self.host}:{self.mlflow_port}"
        return f"{base.rstrip('/')}/#/models/{registered_model}/versions/{version}"


_VARIABLES = {
    "DATABASE_URL": "database_url",
    "ML_PIPELINE_HOME": "home",
    "DAGSTER_HOME": "dagster_home",
    "ML_PIPELINE_ARTIFACTS": "artifacts_url",
    "ML_PIPELINE_SPECS": "specs",
    "ML_PIPELINE_HOST": "host",
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
    "ML_PIPELINE_EVENT_RETENTION_DAYS": "event_retention_days",
}


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
    if "auto_retrain_models" in values:
        values["auto_retrain_models"] = tuple(
            name.strip() for name in str(values["auto_retrain_models"]).split(",") if name.strip()
        )
    if "home" in values:
        values["home"] = Path(str(values["home"])).expanduser().resolve()
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        names = {field: variable for variable, field in _VARIABLES.items()}
        first = error.errors()[0]
        variable = names[str(first["loc"][0])]
        raise SettingsError(
            f"{variable}={first['input']!r}: {first['msg']}. Correct it or unset it to use the default."
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
        "DAGSTER_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
)
