"""`leadpost setup`: enter the keys of an account, check them, and keep them in a file."""

import asyncio
import os
import sys
from pathlib import Path

import typer
from rich.console import Console

from leadpost import Account, AsyncActivityPoster, User
from leadpost._account import REGIONS
from leadpost.cli import options
from leadpost.cli.account import keys_path
from leadpost.cli.console import logged
from leadpost.cli.diagnosis import hosts_check, time_zone_check
from leadpost.cli.exits import InputError
from leadpost.cli.outbox_url import url_of
from leadpost.errors import ConfigurationError, LeadpostError, Unauthorized
from leadpost.outbox import SharedTokenBucket


def setup(*, verbose: options.Verbose = False) -> None:
    """
    Ask for the region and the keys, check them, and write them to a file.

    The keys are not shown. The file is readable by you only; the environment and a file named .env
    win over it.

    Examples:
    `leadpost setup`

    `leadpost setup && leadpost doctor`
    """
    if not is_terminal():
        raise InputError("setup asks at a terminal; elsewhere set LEADPOST_… in the environment")
    path = keys_path()
    if path.exists() and not typer.confirm(f"{path} exists. Replace it?", err=True):
        raise typer.Exit(2)
    where = typer.prompt(f"Region ({', '.join(REGIONS)}) or async host", err=True).strip()
    variables = {
        "LEADPOST_REGION" if where.lower() in REGIONS else "LEADPOST_HOST": where,
        **{
            f"LEADPOST_{name}": typer.prompt(label, hide_input=True, err=True).strip()
            for name, label in (
                ("ACCESS_KEY", "AccessKey (hidden)"),
                ("SECRET_KEY", "SecretKey (hidden)"),
                ("API_KEY", "x-api-key of the Async API (hidden)"),
            )
        },
    }
    try:
        account = Account.from_env(variables)
        user = _check(account, verbose=verbose)
    except Unauthorized:
        raise InputError("LeadSquared refuses these keys; nothing was written") from None
    except ConfigurationError:
        raise
    except LeadpostError as error:
        # The path of this call is not documented, and the host may be away.
        typer.echo(f"The keys could not be checked: {error}", err=True)
        if not typer.confirm("Write them all the same?", err=True):
            raise typer.Exit(2) from None
    else:
        typer.echo("LeadSquared takes these keys")
        for check in (hosts_check(account, user), time_zone_check(user)) if user else ():
            typer.echo(f"{check.meaning} → {check.remedy}" if check.remedy else check.meaning)
    write_keys(path, variables)
    typer.echo(f"Written to {path}. Next: leadpost post FILE --dry-run")


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty()


def _check(account: Account, *, verbose: bool) -> User | None:
    """Return whose keys these are, None if that is not known."""

    async def asking() -> User | None:
        async with AsyncActivityPoster(account, bucket=SharedTokenBucket(url_of(None))) as poster:
            await poster.metrics()  # shows the x-api-key
            if not account.sync_host:
                return None
            try:
                return await poster.user()
            except Unauthorized:
                raise
            except LeadpostError as error:
                typer.echo(f"The account's hosts and time zone are not known: {error}", err=True)
                return None

    with logged(Console(stderr=True), verbose=verbose):
        return asyncio.run(asking())


def write_keys(path: Path, variables: dict[str, str]) -> None:
    """Write variables so that only the user can read them, from the beginning."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    # In single quotes nothing is expanded; a key with one is refused as it has no place there.
    if bad := [name for name, value in variables.items() if "'" in value or "\n" in value]:
        raise InputError(f"{', '.join(bad)}: a quotation mark cannot be part of it")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}='{value}'\n" for name, value in variables.items())
