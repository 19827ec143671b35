"""The `leadpost` command; each of its commands is in a module that is imported when it runs."""

import sqlite3
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import leadpost
from leadpost.cli.exits import EXIT_CODES, Exit, InputError, exit_of, lacks_room, text_of_error

COMMANDS = {
    "setup": "Enter your keys, check them, and save them to a file.",
    "post": "Post the activities of a file: CSV, .xlsx or JSON.",
    "results": "Write what became of the rows of a file; post nothing.",
    "verify": "Ask LeadSquared what became of accepted activities.",
    "reconcile": "Look for uncertain activities on their leads.",
    "status": "Ask what became of requests, by their RequestIDs.",
    "metrics": "Ask how far behind LeadSquared's queue is.",
    "types": "List the activity types, or the fields of one.",
    "outbox": "Look at an outbox, and change entries by hand.",
    "work": "Run a worker: post from an outbox until stopped.",
    "doctor": "Check keys, hosts and paths, and say which setting to change.",
    "demo": "Post 50 sample activities to a sandbox; needs no keys.",
    "sandbox": "Run a strict stand-in for LeadSquared on this machine.",
}
_SETTINGS = {"help_option_names": ["-h", "--help"]}


class _Group(TyperGroup):
    """Imports a command when it is run; turns errors into a line and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what help and completion show of a command."""
        del ctx
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _imported(name) if name else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):  # the latter by Ctrl-C or Ctrl-D at a question
            typer.echo("interrupted", err=True)
            raise typer.Exit(Exit.INTERRUPTED) from None
        except (leadpost.LeadpostError, InputError, OSError, sqlite3.OperationalError) as error:
            is_mistake = isinstance(error, sqlite3.Error) and not lacks_room(error)  # of ours
            if is_mistake or isinstance(error, BrokenPipeError):
                raise  # the latter is `leadpost types | head`, which typer ends quietly
            typer.echo(f"error: {text_of_error(error)}", err=True)
            raise typer.Exit(exit_of(error)) from None


def _imported(name: str) -> Any:
    try:
        module = import_module(f"leadpost.cli.commands.{name}")
    except ImportError as error:  # an extra is not installed
        raise InputError(str(error)) from error
    if name == "outbox":
        return _without_bool(typer.main.get_command(module.app))
    # Markdown, or else paragraphs keep the line breaks of the docstrings.
    one = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    epilog = EXIT_CODES if name == "post" else None
    one.command(name, epilog=epilog, context_settings=_SETTINGS)(getattr(module, name))
    return _without_bool(typer.main.get_command(one))


def _without_bool(command: Any) -> Any:
    """Remove `<bool>` from the help of flags, as it looks like a value that they take."""
    for parameter in command.params:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for each in getattr(command, "commands", {}).values():
        _without_bool(each)
    return command


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # they show the locals, keys among them
    context_settings=_SETTINGS,
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
