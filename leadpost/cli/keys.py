"""The account, from the environment and an env file. Never from arguments: `ps` shows those."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values

from leadpost.account import Account
from leadpost.cli.exits import InputError
from leadpost.errors import ConnectionFailed, NotFound

_DEFAULT = Path(".env")
_WHERE = ("LEADPOST_HOST", "LEADPOST_REGION", "LEADPOST_SYNC_HOST")


def read_account(env_file: Path | None) -> Account:
    """
    Read the account.

    Args:
        env_file: A file of `NAME=value` lines; by default `.env` in the working directory, if it
            is there. The environment wins over it.

    Raises:
        ConfigurationError: naming the variable that is missing or wrong.
        InputError: the file cannot be read.
    """
    path = env_file or _DEFAULT
    if env_file is None and not path.is_file():
        return Account.from_env(os.environ)
    try:
        # Access keys contain a `$`, which must not be expanded.
        values = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}") from error
    return Account.from_env(merged({k: v for k, v in values.items() if v}, os.environ))


def where_to_look(account: Account, variable: str) -> str:
    """
    Say which host was called and what settles that, for when it was the wrong one.

    Args:
        account: The account.
        variable: The one that settles the rest of the URL, or the sync host.
    """
    host = account.sync_host if variable == "LEADPOST_SYNC_HOST" else account.host
    return f"(at {host}: see LEADPOST_HOST or LEADPOST_REGION, and {variable})"


@contextmanager
def naming(account: Account, variable: str) -> Generator[None]:
    """Add to an error that a wrong host or URL makes where to look; see `where_to_look`."""
    try:
        yield
    except (ConnectionFailed, NotFound) as error:
        error.add_note(where_to_look(account, variable))
        raise


def merged(file: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """
    Put the environment over the variables of a file.

    One that names the host itself settles where to post: a region in the file would contradict it,
    and a sync host there would be another account's.
    """
    given = {name: value for name, value in environ.items() if value}
    if any(name in given for name in ("LEADPOST_HOST", "LEADPOST_REGION")):
        file = {name: value for name, value in file.items() if name not in _WHERE}
    return {**file, **given}
