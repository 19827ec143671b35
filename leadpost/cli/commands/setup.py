"""`leadpost setup`: enter the keys of an account, check them, and keep them in a file."""

import asyncio
import os
from pathlib import Path

import typer
from rich.console import Console

from leadpost import Account
from leadpost._account import REGIONS
from leadpost.cli import options
from leadpost.cli.account import KEYS, in_words, keys_path
from leadpost.cli.commands.doctor import diagnose
from leadpost.cli.console import is_interactive, logged
from leadpost.cli.exits import Exit, InputError
from leadpost.cli.verdicts import show
from leadpost.errors import ConfigurationError


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
    if not is_interactive():
        raise InputError(
            "setup needs a terminal; without one, set the variables LEADPOST_… in the environment"
        )
    path = keys_path()
    if path.exists() and not typer.confirm(f"{path} exists. Replace it?", err=True):
        raise typer.Exit(Exit.BAD_INPUT)
    prompt = f"Region ({', '.join(REGIONS)}) or async host"
    where = typer.prompt(prompt, value_proc=_region_or_host, err=True)
    variables = {"LEADPOST_REGION" if where in REGIONS else "LEADPOST_HOST": where}
    for name, label in KEYS.items():
        variables[name] = typer.prompt(f"{label} (hidden)", hide_input=True, err=True).strip()
    try:
        account = Account.from_env(variables)
    except ConfigurationError as error:
        raise InputError(in_words(str(error))) from None
    with logged(Console(stderr=True), verbose=verbose):
        found = asyncio.run(diagnose(account, outbox))
    code = show(found, variables=())
    if code and not typer.confirm("A check failed. Save these keys anyway?", err=True):
        typer.echo("Nothing was written", err=True)
        raise typer.Exit(code)
    write_keys(path, variables)
    typer.echo(f"Written to {path}. Next: leadpost post FILE --dry-run")


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
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        for name, value in variables.items():
            quoted = value.replace("\\", r"\\").replace("'", r"\'")
            file.write(f"{name}='{quoted}'\n")  # in single quotes nothing is expanded
