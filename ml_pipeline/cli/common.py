"""What all commands share: consoles, errors, the prepared installation, progress, and what names a tenant or model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ml_pipeline.settings import Settings, SettingsError, load_settings
from ml_pipeline.specs import ModelSpec, SpecError, load_specs

console = Console(stderr=True)
# A table that is piped into a file is not folded to a terminal's width.
output = Console(width=None if sys.stdout.isatty() else 180)


class Group(click.Group):
    """Shows the errors that a user can act on as one sentence, and every other with its traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if not _is_for_the_user(error):
                raise
            raise click.ClickException(str(error)) from error


def _is_for_the_user(error: Exception) -> bool:
    from ml_pipeline.features.point_in_time import FeatureError
    from ml_pipeline.identifiers import BadIdentifier
    from ml_pipeline.importers import ImportFailed
    from ml_pipeline.lifecycle.policy import PolicyError
    from ml_pipeline.monitoring.profiles import ProfileError
    from ml_pipeline.partitions import EmptyRange
    from ml_pipeline.resources.folders import FolderUnsafe
    from ml_pipeline.resources.postgres import DatabaseUnavailable
    from ml_pipeline.resources.registry import NoSuchVersion, TamperedArtifact
    from ml_pipeline.resources.store import Unwritable
    from ml_pipeline.resources.warehouse import SourceUnreadable
    from ml_pipeline.up import PortInUse, ServiceEnded
    from ml_pipeline.work.context import BadMoment
    from ml_pipeline.work.deployment import NothingToRollBackTo
    from ml_pipeline.work.explain_prediction import NothingToExplain
    from ml_pipeline.work.feedback import BadFeedback
    from ml_pipeline.work.tenant_settings import BadSetting

    stores = (
        DatabaseUnavailable,
        FolderUnsafe,
        NoSuchVersion,
        TamperedArtifact,
        SourceUnreadable,
        ProfileError,
        NothingToRollBackTo,
    )
    files = (SettingsError, SpecError, PolicyError, ImportFailed, Unwritable)
    asked = (BadIdentifier, EmptyRange, BadMoment, BadSetting, BadFeedback, FeatureError, NothingToExplain)
    return isinstance(error, (*stores, *files, *asked, PortInUse, ServiceEnded))


@contextmanager
def installation() -> Iterator[Settings]:
    """The settings with a database behind them: the one named by DATABASE_URL, or the embedded one while this lasts."""
    from ml_pipeline.resources.folders import hide_new_files

    hide_new_files()
    settings = load_settings()
    if settings.database_url is not None:
        yield settings
        return
    from ml_pipeline.resources.connections import embedded_connections
    from ml_pipeline.resources.embedded import WORKER, embedded_server

    with embedded_server(settings.home / "postgres", embedded_connections(settings)) as server:
        urls = {"database_url": server.url(), "worker_database_url": server.url(WORKER)}
        yield settings.model_copy(update=urls)


@contextmanager
def prepared() -> Iterator[Settings]:
    """``installation`` with its tables made."""
    from ml_pipeline.launch import prepare, quiet

    quiet()
    with installation() as settings:
        with console.status("Preparing the database"):
            prepare(settings)
        yield settings


def recover_and_tell(instance: Any, warehouse: Any) -> None:
    """Ends what a killed command or a lost machine has left, so that it holds nobody's place; see ``recovery``."""
    from ml_pipeline.recovery import recover, run_ids

    done = recover(instance, warehouse)
    if done.runs:
        console.print(f"The process of run {run_ids(done.runs)} had died; it is marked as failed.", highlight=False)


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[Any], None]]:
    """A bar that moves by one each time the function it yields is called."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)

        def advance(_: Any) -> None:
            progress.advance(task)

        yield advance


def chosen_models(specs: dict[str, ModelSpec], chosen: Sequence[str]) -> list[str]:
    unknown = [name for name in chosen if name not in specs]
    if unknown:
        raise click.BadParameter(f"there is no model {unknown[0]!r}; the models are: {', '.join(specs)}")
    return list(chosen) or list(specs)


def chosen_tenants(known: Sequence[str], chosen: Sequence[str]) -> list[str]:
    unknown = [name for name in chosen if name not in known]
    if unknown:
        few = ", ".join(list(known)[:10]) or "none; import some first"
        raise click.BadParameter(f"there is no tenant {unknown[0]!r}; the tenants are: {few}")
    return list(chosen) or list(known)


def check_model_and_tenant(settings: Settings, tenant: str, model: str | None) -> None:
    """Refuses a tenant or model that does not exist; the message names those that do."""
    from ml_pipeline.resources.warehouse import Warehouse

    chosen_models(load_specs(settings.specs), [] if model is None else [model])
    chosen_tenants(Warehouse(settings).tenants(), [tenant])


tenant_option = click.option("--tenant", "tenants", multiple=True, help="Only this tenant; may be repeated.")
model_option = click.option("--model", "models", multiple=True, help="Only this model; may be repeated.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
