"""The account, from the environment and an env file; never from options, which `ps` shows."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values

from leadpost import Account
from leadpost.cli.exits import InputError
from leadpost.cli.outbox_url import folder
from leadpost.errors import ConfigurationError, ConnectionFailed

_DEFAULT = Path(".env")
_SYNC_HOST = "LEADPOST_SYNC_HOST"
_KEYS = ("LEADPOST_ACCESS_KEY", "LEADPOST_SECRET_KEY", "LEADPOST_API_KEY")
_WHERE = ("LEADPOST_HOST", "LEADPOST_REGION", _SYNC_HOST)


def keys_path() -> Path:
    """Return the file that `leadpost setup` writes."""
    return folder() / "keys.env"


def read_account(env_file: Path | None) -> Account:
    """
    Read the account.

    Args:
        env_file: A file of `NAME=value` lines; by default `.env` in the working directory, or else
            the file of `leadpost setup`. Variables in the environment win.

    Raises:
        ConfigurationError: a variable is missing or wrong; the message names it.
        InputError: the file cannot be read.
    """
    path = env_file or (_DEFAULT if _DEFAULT.is_file() else keys_path())
    if env_file is None and not path.is_file():
        if not any(os.environ.get(name) for name in (*_WHERE, *_KEYS)):
            raise ConfigurationError(
                "no keys yet. Enter them: leadpost setup. Or set LEADPOST_REGION and"
                f" {', '.join(_KEYS)}"
            )
        return Account.from_env(os.environ)
    try:
        # Access keys contain a `$`, which must not be expanded.
        values = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}") from error
    return Account.from_env(merged({k: v for k, v in values.items() if v}, os.environ))


def read_account_if_any(env_file: Path | None) -> Account | None:
    """Read the account as `read_account` does; return None if no key is set at all."""
    try:
        return read_account(env_file)
    except ConfigurationError:
        if env_file is None and not any(os.environ.get(name) for name in _KEYS):
            return None
        raise


def where_to_look(account: Account, *, sync: bool = False) -> str:
    """
    Name the host that was called, and its settings, as it may be the wrong one.

    Args:
        account: The account.
        sync: Whether the host of the synchronous API was called.
    """
    if sync:
        return f"(at {account.sync_host}: see LEADPOST_HOST or LEADPOST_REGION, and {_SYNC_HOST})"
    return f"(at {account.host}: see LEADPOST_HOST or LEADPOST_REGION)"


@contextmanager
def naming(account: Account, *, sync: bool = False) -> Generator[None]:
    """Add `where_to_look` to the error of a failed connection."""
    try:
        yield
    except ConnectionFailed as error:
        error.add_note(where_to_look(account, sync=sync))
        raise


def merged(file: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """
    Return the variables of a file, replaced by those of the environment.

    If the environment names the host, no host or region of the file counts: it would be another
    account's.
    """
    given = {name: value for name, value in environ.items() if value}
    if any(name in given for name in ("LEADPOST_HOST", "LEADPOST_REGION")):
        file = {name: value for name, value in file.items() if name not in _WHERE}
    return {**file, **given}
