"""Shared by all commands: consoles, errors, the prepared installation, progress, options for tenants and models."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ml_pipeline.cli.completion import complete_models, complete_tenants
from ml_pipeline.display import printable
from ml_pipeline.errors import UserError

if TYPE_CHECKING:  # `--help` and completion need neither settings nor specifications
    from ml_pipeline.settings import Settings
    from ml_pipeline.specs import ModelSpec, Specs


class PlainConsole(Console):
    """A console that prints text literally: no markup, no emoji names, control characters escaped.

    Colour is given beside a text, never inside it, because the text of a tenant or an error may hold anything.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, lines=True), **options)

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Prints one line; a part is a text, or a text and its style."""
        plain = [(part, "") if isinstance(part, str) else part for part in parts]
        self.print(Text.assemble(*((printable(text), style) for text, style in plain)))


class Rows(Table):
    """A table with one line per row: no cell continues on another line, where it could look like a row."""

    def __init__(self, *headers: str, **options: Any) -> None:
        super().__init__(*headers, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        lines = [
            Text(printable(cell.plain), cell.style, no_wrap=cell.no_wrap, overflow=cell.overflow)
            if isinstance(cell, Text)
            else printable(cell)
            for cell in cells
        ]
        super().add_row(*lines, **options)


def shortened(text: object) -> Text:
    """A cell that is cut with an ellipsis at the end of the line."""
    return Text(printable(text), no_wrap=True, overflow="ellipsis")


FILE_WIDTH = 100  # columns of output to a file or a pipe; COLUMNS overrides it

console = PlainConsole(stderr=True)
output = PlainConsole(width=shutil.get_terminal_size((FILE_WIDTH, 24)).columns)

INTERRUPTED = 130  # as in a shell: 128 + SIGINT
EXIT_CODES = """\b
Exit codes:
  0    done
  1    failed, or failed for some tenants or files: the error output names them
  2    the command line is wrong
  130  interrupted (Ctrl-C)

With --json, the output is one JSON document, and an error is one line of JSON on the error output.
"""


class JsonError(click.ClickException):
    """An error of a command with --json: ``{"error": ..., "exit_code": ...}``."""

    def __init__(self, error: click.ClickException) -> None:
        message = error.format_message()
        super().__init__(json.dumps({"error": message, "exit_code": error.exit_code}))
        self.exit_code = error.exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file or sys.stderr)


class Group(click.Group):
    """Shows errors that a user can correct as one sentence, and all others with their traceback."""

    def invoke(self, context: click.Context) -> Any:
        as_json = "--json" in [*context._protected_args, *context.args]
        try:
            return super().invoke(context)
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.ClickException as error:
            error.message = printable(error.message, lines=True)  # type: ignore[misc]
            if as_json:
                raise JsonError(error) from error
            raise
        except UserError as error:
            shown = click.ClickException(printable(error, lines=True))
            raise (JsonError(shown) if as_json else shown) from error
        except BaseException as error:
            # Dagster raises its own exception for Ctrl-C in a run; its name is compared to avoid the import.
            if not isinstance(error, KeyboardInterrupt) and type(error).__name__ != "DagsterExecutionInterruptedError":
                raise
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from error


def print_json(value: Any) -> None:
    """The one JSON document of a command."""
    click.echo(json.dumps(value, indent=1, default=str))


def failed(message: str, as_json: bool) -> None:
    """Prints on the error output that a part of the work failed; the command continues and exits with 1."""
    if as_json:
        click.echo(json.dumps({"failed": message}), err=True)
    else:
        console.say(("Failed:", "red"), f" {message}")


def this_user() -> str:
    """The user of this machine, who is recorded as the author of a change unless --by names another."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have a user without a name
        return f"user {os.getuid()}"


@contextmanager
def installation() -> Iterator[Settings]:
    """The settings with a running database: that of DATABASE_URL, or the embedded one, which stops at the end."""
    from ml_pipeline.resources.folders import hide_new_files
    from ml_pipeline.settings import load_settings

    hide_new_files()
    settings = load_settings()
    if settings.database_url is not None:
        yield settings
        return
    from ml_pipeline.resources.connections import embedded_connections
    from ml_pipeline.resources.embedded import embedded_server
    from ml_pipeline.resources.embedded_logins import WORKER

    with embedded_server(settings.home / "postgres", embedded_connections(settings)) as server:
        urls = {"database_url": server.url(), "worker_database_url": server.url(WORKER)}
        yield settings.model_copy(update=urls)


@contextmanager
def prepared() -> Iterator[Settings]:
    """``installation`` with its tables created."""
    with installation() as settings:
        from ml_pipeline.resources.preparation import is_prepared, prepare, quiet

        quiet()
        if not is_prepared(settings):
            console.print("Preparing the database")
        prepare(settings)
        yield settings


def recover_and_tell(instance: Any, warehouse: Any) -> None:
    """Ends runs that a killed command or a lost machine left behind, so that they block no others; see ``recovery``."""
    from ml_pipeline.recovery import recover, run_ids

    done = recover(instance, warehouse)
    if done.runs:
        console.print(f"The process of run {run_ids(done.runs)} had died; it is marked as failed.")


@contextmanager
def _past_redirection() -> Iterator[PlainConsole]:
    """A console that prints to the terminal even while a Dagster run redirects this process's output to a file."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # not a stream of the operating system, so nothing redirects it
        yield console
        return
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        yield PlainConsole(file=file)


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[Any], None]]:
    """Yields a function that advances a progress bar by one; without a terminal, it prints lines."""
    with _past_redirection() as shown:
        if not shown.is_terminal:
            yield _lines(shown, title, total)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=shown) as progress:
            task = progress.add_task(title, total=total)

            def advance(_: Any) -> None:
                progress.advance(task)

            yield advance


SECONDS_BETWEEN_LINES = 1.0


def _lines(shown: PlainConsole, title: str, total: int | None) -> Callable[[Any], None]:
    """Prints a line at the start, then the progress at most once a second, and a line at the end."""
    done, said = 0, time.monotonic()
    of = "" if total is None else f" of {total:,}"
    shown.say(f"{title}: 0{of}")

    def advance(_: Any) -> None:
        nonlocal done, said
        done += 1
        now = time.monotonic()
        if done == total or now - said >= SECONDS_BETWEEN_LINES:
            said = now
            shown.say(f"{title}: {done:,}{of}")

    return advance


def usable_specs(settings: Settings) -> Specs:
    """The valid specifications; prints the error of each invalid one."""
    from ml_pipeline.specs import load_specs

    specs = load_specs(settings.specs)
    for model, error in specs.broken:
        console.say(("Left out:", "yellow"), f" model {model}: {error}")
    return specs


def chosen_models(specs: Specs, chosen: Sequence[str]) -> list[str]:
    for name in chosen:
        specs.check(name)
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
    """Refuses an unknown tenant or model; the message names the known ones."""
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.specs import load_specs

    chosen_models(load_specs(settings.specs), [] if model is None else [model])
    chosen_tenants(Warehouse(settings).tenants(), [tenant])


def checked_spec(settings: Settings, tenant: str, model: str) -> ModelSpec:
    """The specification of a model; refuses an unknown tenant or model."""
    from ml_pipeline.specs import load_specs

    check_model_and_tenant(settings, tenant, model)
    return load_specs(settings.specs)[model]


tenants_option = click.option(
    "--tenant", "tenants", multiple=True, help="Only this tenant; may be repeated.", shell_complete=complete_tenants
)
models_option = click.option(
    "--model", "models", multiple=True, help="Only this model; may be repeated.", shell_complete=complete_models
)
tenant_option = click.option("--tenant", required=True, help="The tenant.", shell_complete=complete_tenants)
model_option = click.option("--model", required=True, help="The model.", shell_complete=complete_models)
by_option = click.option(
    "--by", default=this_user, show_default="the user of this machine", help="Author, stored with the change."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
