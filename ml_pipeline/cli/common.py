"""What all commands share: consoles, errors, the prepared installation, progress, and what names a tenant or model."""

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
    """A console to which text is text: no markup, no emoji names, and control characters are written out.

    Colour is given beside a text, never inside it: what a tenant, a reason or an error holds is not known.
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
    """A table with a line for each row that is added: no cell goes on in a line of its own, as if it were a row."""

    def __init__(self, *headers: str, **options: Any) -> None:
        super().__init__(*headers, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_one_line, cells), **options)


def _one_line(cell: Any) -> Any:
    if not isinstance(cell, Text):
        return printable(cell)
    return Text(printable(cell.plain), cell.style, no_wrap=cell.no_wrap, overflow=cell.overflow)


def shortened(text: object) -> Text:
    """A cell that ends in an ellipsis where the line does."""
    return Text(printable(text), no_wrap=True, overflow="ellipsis")


FILE_WIDTH = 100  # columns of what is written into a file or a pipe; COLUMNS overrides it

console = PlainConsole(stderr=True)
output = PlainConsole(width=shutil.get_terminal_size((FILE_WIDTH, 24)).columns)

INTERRUPTED = 130  # as a shell has it: 128 + SIGINT
EXIT_CODES = """\b
Exit codes:
  0    done
  1    failed, or failed for some tenants or files: the error output names them
  2    the command line is wrong
  130  interrupted (Ctrl-C)

With --json, the output is one JSON document, and an error is one line of JSON on the error output.
"""


class JsonError(click.ClickException):
    """An error of a command that was asked for JSON: ``{"error": ..., "exit_code": ...}``."""

    def __init__(self, error: click.ClickException) -> None:
        message = error.format_message()
        super().__init__(json.dumps({"error": message, "exit_code": error.exit_code}))
        self.exit_code = error.exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file or sys.stderr)


class Group(click.Group):
    """Shows the errors that a user can act on as one sentence, and every other with its traceback."""

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
            # Dagster turns Ctrl-C in a run into an exception of its own, known by its name so as not to be imported.
            if not isinstance(error, KeyboardInterrupt) and type(error).__name__ != "DagsterExecutionInterruptedError":
                raise
            click.echo("Interrupted.", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from error


def print_json(value: Any) -> None:
    """The one JSON document of a command."""
    click.echo(json.dumps(value, indent=1, default=str))


def failed(message: str, as_json: bool) -> None:
    """Says on the error output that a part of the work failed; the command goes on and ends with 1."""
    if as_json:
        click.echo(json.dumps({"failed": message}), err=True)
    else:
        console.say(("Failed:", "red"), f" {message}")


def this_user() -> str:
    """Who is recorded as having done something, unless --by says so: the user of this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have a user without a name
        return f"user {os.getuid()}"


@contextmanager
def installation() -> Iterator[Settings]:
    """The settings with a database behind them: the one named by DATABASE_URL, or the embedded one while this lasts."""
    from ml_pipeline.resources.folders import hide_new_files
    from ml_pipeline.settings import load_settings

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
    with installation() as settings:
        from ml_pipeline.resources.preparation import is_prepared, prepare, quiet

        quiet()
        if not is_prepared(settings):
            console.print("Preparing the database")
        prepare(settings)
        yield settings


def recover_and_tell(instance: Any, warehouse: Any) -> None:
    """Ends what a killed command or a lost machine has left, so that it holds nobody's place; see ``recovery``."""
    from ml_pipeline.recovery import recover, run_ids

    done = recover(instance, warehouse)
    if done.runs:
        console.print(f"The process of run {run_ids(done.runs)} had died; it is marked as failed.")


@contextmanager
def _past_redirection() -> Iterator[PlainConsole]:
    """A console that shows its lines also while a run of Dagster sends what this process prints to a file."""
    try:
        descriptor = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # no stream of the operating system: nothing redirects it
        yield console
        return
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        yield PlainConsole(file=file)


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[Any], None]]:
    """A bar that moves by one each time the function it yields is called; where there is no terminal, lines."""
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
    """Says at once what begins, then how far it is, at most once a second, and when all is done."""
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
    """The specifications; what is wrong with those that are left out is said once."""
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
    """Refuses a tenant or model that does not exist; the message names those that do."""
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.specs import load_specs

    chosen_models(load_specs(settings.specs), [] if model is None else [model])
    chosen_tenants(Warehouse(settings).tenants(), [tenant])


def checked_spec(settings: Settings, tenant: str, model: str) -> ModelSpec:
    """The specification of a model; refuses a tenant or model that does not exist."""
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
    "--by", default=this_user, show_default="the user of this machine", help="Who, for the record."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
