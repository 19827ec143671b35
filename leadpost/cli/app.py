"""The commands of `leadpost`; each is in a file of its own."""

from collections.abc import Callable
from typing import Annotated

import typer
from typer.core import TyperGroup

import leadpost
from leadpost.cli.commands import outbox
from leadpost.cli.commands.demo import demo
from leadpost.cli.commands.doctor import doctor
from leadpost.cli.commands.metrics import metrics
from leadpost.cli.commands.post import post
from leadpost.cli.commands.reconcile import reconcile
from leadpost.cli.commands.results import results
from leadpost.cli.commands.sandbox import sandbox
from leadpost.cli.commands.setup import setup
from leadpost.cli.commands.status import status
from leadpost.cli.commands.types import types
from leadpost.cli.commands.verify import verify
from leadpost.cli.commands.work import work
from leadpost.cli.exits import EXIT_CODES, Exit, InputError, exit_of, told


class _Group(TyperGroup):
    """Ends every command with its exit code, and an error with one line."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # click's Any
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(Exit.INTERRUPTED) from None
        except BrokenPipeError:
            raise  # `leadpost types | head`: typer ends it quietly
        except (leadpost.LeadpostError, InputError, OSError) as error:
            typer.echo(f"error: {told(error)}", err=True)
            raise typer.Exit(exit_of(error)) from None


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",  # or else paragraphs keep the line breaks of the docstrings
    pretty_exceptions_enable=False,  # they show the locals, keys among them
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:  # noqa: FBT001  typer's form
    if value:
        typer.echo(f"leadpost {leadpost.__version__}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """
    Post activities to LeadSquared through its Async API.

    Start with `leadpost demo`, then `leadpost setup`, then `leadpost post FILE`.
    """
    del version


_FIRST: tuple[Callable[..., None], ...] = (
    *(setup, post, results, verify, reconcile),
    *(status, metrics, types),
)
for _command in _FIRST:
    app.command(epilog=EXIT_CODES if _command is post else None)(_command)
app.add_typer(outbox.app, name="outbox")
for _command in (work, doctor, demo, sandbox):
    app.command()(_command)
