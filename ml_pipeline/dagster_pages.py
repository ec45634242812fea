"""Dagster's pages as ``ml-pipeline up`` runs them: ``dagster-webserver``, behind ``ml_pipeline.web``.

Without ``ml_pipeline.web``, ``dagster-webserver`` and ``dagster dev`` answer requests of every site's pages.
"""

from __future__ import annotations

import logging

import click
import uvicorn
from dagster import DagsterInstance
from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._utils.interrupts import setup_interrupt_handlers
from dagster._utils.log import configure_loggers
from dagster_shared.cli import WorkspaceOpts
from dagster_webserver import cli
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.version import __version__
from starlette.types import ASGIApp

from ml_pipeline import web
from ml_pipeline.settings import Settings, export_to_children, load_settings

# Options with which `dagster dev` starts its own webserver; it never starts this one.
_OF_DAGSTER_DEV = ("instance_ref", "shutdown_pipe")


def guarded_app(
    context: WorkspaceProcessContext, settings: Settings, path_prefix: str = "", live_data_poll_rate: int | None = None
) -> ASGIApp:
    """Dagster's application behind the guard of ``ml_pipeline.web``."""
    app = create_app_from_workspace_process_context(context, path_prefix, live_data_poll_rate, lifespan=cli._lifespan)
    return web.guarded(app, settings)


def serve(
    host: str,
    port: int | None,
    path_prefix: str,
    db_statement_timeout: int,
    db_pool_recycle: int,
    db_pool_max_overflow: int,
    read_only: bool,
    suppress_warnings: bool,
    uvicorn_log_level: str,
    dagster_log_level: str,
    log_format: str,
    code_server_log_level: str,
    live_data_poll_rate: int,
    **workspace: object,
) -> None:
    """Serve Dagster's pages until a termination signal, with the options of ``dagster-webserver``."""
    if suppress_warnings:
        export_to_children({"PYTHONWARNINGS": "ignore"})
    settings = load_settings()
    port = port or settings.dagster_port
    configure_loggers(formatter=log_format, log_level=dagster_log_level.upper())
    setup_interrupt_handlers()
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(db_statement_timeout, db_pool_recycle, db_pool_max_overflow)
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            read_only=read_only,
            workspace_load_target=workspace_opts_to_load_target(WorkspaceOpts.extract_from_cli_options(workspace)),
            code_server_log_level=code_server_log_level,
        ) as context:
            app = guarded_app(context, settings, path_prefix, live_data_poll_rate)
            logging.getLogger(cli.WEBSERVER_LOGGER_NAME).info(
                "Serving Dagster on http://%s:%s%s", host, port, path_prefix
            )
            uvicorn.run(app, host=host, port=port, log_level=uvicorn_log_level)


command = click.Command(
    "dagster-pages",
    params=[option for option in cli.dagster_webserver.params if option.name not in _OF_DAGSTER_DEV],
    callback=serve,
    help="Serve Dagster's pages, protected from other sites; the options are those of dagster-webserver.",
)


if __name__ == "__main__":
    command(auto_envvar_prefix="DAGSTER_WEBSERVER")
