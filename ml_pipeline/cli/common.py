"""What all commands share: consoles, errors, the prepared installation, progress, and what names a tenant or model."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ml_pipeline.display import printable
from ml_pipeline.errors import UserError
from ml_pipeline.settings import Settings, load_settings
from ml_pipeline.specs import Specs, load_specs


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
        super().__init__(*headers, box=box.SIMPLE_HEAD, pad_edge=False, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_one_line, cells), **options)


def _one_line(cell: Any) -> Any:
    return Text(printable(cell.plain), cell.style) if isinstance(cell, Text) else printable(cell)


console = PlainConsole(stderr=True)
# A table that is piped into a file is not folded to a terminal's width.
output = PlainConsole(width=None if sys.stdout.isatty() else 180)


class Group(click.Group):
    """Shows the errors that a user can act on as one sentence, and every other with its traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (click.exceptions.Exit, click.Abort):
            raise
        except click.ClickException as error:
            error.message = printable(error.message, lines=True)  # type: ignore[misc]
            raise
        except UserError as error:
            raise click.ClickException(printable(error, lines=True)) from error


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
    """A bar that moves by one each time the function it yields is called."""
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with _past_redirection() as shown, Progress(*columns, console=shown) as progress:
        task = progress.add_task(title, total=total)

        def advance(_: Any) -> None:
            progress.advance(task)

        yield advance


def usable_specs(settings: Settings) -> Specs:
    """The specifications; what is wrong with those that are left out is said once."""
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

    chosen_models(load_specs(settings.specs), [] if model is None else [model])
    chosen_tenants(Warehouse(settings).tenants(), [tenant])


tenant_option = click.option("--tenant", "tenants", multiple=True, help="Only this tenant; may be repeated.")
model_option = click.option("--model", "models", multiple=True, help="Only this model; may be repeated.")
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
