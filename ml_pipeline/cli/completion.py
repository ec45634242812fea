"""``ml-pipeline completion``, and the completion of tenants and models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ml_pipeline.settings import Settings

MOST_OFFERED = 200
SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: echo 'eval "$(ml-pipeline completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(ml-pipeline completion zsh)"' >> ~/.zshrc
    fish: ml-pipeline completion fish > ~/.config/fish/completions/ml-pipeline.fish

    Tenants are completed only while the database runs: completion does not start it.
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    if made is None:  # refused by the choice above
        raise click.UsageError(f"there is no completion for {shell!r}")
    click.echo(made(context.find_root().command, {}, "ml-pipeline", "_ML_PIPELINE_COMPLETE").source())


def complete_tenants(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """Tenants that begin with the typed text; none if the database does not run."""
    from sqlalchemy.exc import SQLAlchemyError

    from ml_pipeline.errors import UserError

    try:
        settings = _with_running_database()
        if settings is None:
            return []
        from ml_pipeline.resources.warehouse import Warehouse

        return _beginning(Warehouse(settings).tenants(), begun)
    except (UserError, SQLAlchemyError, OSError):  # a completion prints no errors; the command itself will
        return []


def complete_models(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """Models that begin with the typed text."""
    from ml_pipeline.errors import UserError
    from ml_pipeline.settings import load_settings
    from ml_pipeline.specs import load_specs

    try:
        return _beginning(load_specs(load_settings().specs), begun)
    except UserError:
        return []


def _with_running_database() -> Settings | None:
    """The settings, if they name a database or the embedded one runs already; otherwise None."""
    from ml_pipeline.settings import load_settings

    settings = load_settings()
    if settings.database_url is not None:
        return settings
    from ml_pipeline.resources.embedded import running_url

    url = running_url(settings.home / "postgres")
    return None if url is None else settings.model_copy(update={"database_url": url})


def _beginning(names: Iterable[str], begun: str) -> list[str]:
    return [name for name in names if name.startswith(begun)][:MOST_OFFERED]
