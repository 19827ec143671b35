"""`leadpost setup`: enter the keys of an account, check them, and keep them in a file."""

import asyncio
import os
import sys
from pathlib import Path

import typer
from rich.console import Console

from leadpost import Account
from leadpost._account import REGIONS
from leadpost.cli import options
from leadpost.cli.account import keys_path
from leadpost.cli.commands.doctor import diagnose, show
from leadpost.cli.console import logged
from leadpost.cli.exits import Exit, InputError

_PROMPTS = {
    "LEADPOST_ACCESS_KEY": "AccessKey (hidden)",
    "LEADPOST_SECRET_KEY": "SecretKey (hidden)",
    "LEADPOST_API_KEY": "x-api-key of the Async API (hidden)",
}


def setup(*, outbox: options.OutboxUrl = None, verbose: options.Verbose = False) -> None:
    """
    Ask for the region and the keys, check them, and write them to a file.

    The checks are those of `leadpost doctor`. Input of keys is hidden, and only you can read the
    file. The environment and a file named .env win over it.

    To try it with `leadpost sandbox`, enter the URL and the keys that it prints.

    Examples:
    - `leadpost setup`
    - `leadpost setup && leadpost post calls.csv --dry-run`
    """
    if not is_terminal():
        raise InputError(
            "setup needs a terminal; without one, set the variables LEADPOST_… in the environment"
        )
    path = keys_path()
    if path.exists() and not typer.confirm(f"{path} exists. Replace it?", err=True):
        raise typer.Exit(Exit.BAD_INPUT)
    prompt = f"Region ({', '.join(REGIONS)}) or async host"
    where = typer.prompt(prompt, value_proc=_region_or_host, err=True)
    variables = {"LEADPOST_REGION" if where in REGIONS else "LEADPOST_HOST": where}
    for name, label in _PROMPTS.items():
        variables[name] = typer.prompt(label, hide_input=True, err=True).strip()
    with logged(Console(stderr=True), verbose=verbose):
        found = asyncio.run(diagnose(Account.from_env(variables), outbox))
    code = show(found)
    if code and not typer.confirm("A check failed. Save these keys anyway?", err=True):
        typer.echo("Nothing was written", err=True)
        raise typer.Exit(code)
    write_keys(path, variables)
    typer.echo(f"Written to {path}. Next: leadpost post FILE --dry-run")


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def _region_or_host(text: str) -> str:
    """Return what was entered; raise for what is neither, so that it is asked for again."""
    text = text.strip()
    if text.lower() in REGIONS:
        return text.lower()
    if "." in text or "localhost" in text or "[" in text:
        return text
    raise typer.BadParameter(
        f"{text!r} is neither a region nor a host such as asyncapi-in21.leadsquared.com"
    )


def write_keys(path: Path, variables: dict[str, str]) -> None:
    """Write variables to a new file that nobody else can ever read."""
    # In single quotes nothing is expanded, but a single quote would end them.
    if bad := [name for name, value in variables.items() if "'" in value or "\n" in value]:
        raise InputError(f"{', '.join(bad)}: a key contains no quotation marks; copy it again")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}='{value}'\n" for name, value in variables.items())
