"""The account, from the environment and an env file; never from options, which `ps` shows."""

import os
import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values

from leadpost import Account
from leadpost.cli.exits import InputError
from leadpost.cli.outbox_url import folder
from leadpost.errors import ConfigurationError, ConnectionFailed

_DEFAULT = Path(".env")
KEYS = {
    "LEADPOST_ACCESS_KEY": "AccessKey",
    "LEADPOST_SECRET_KEY": "SecretKey",
    "LEADPOST_API_KEY": "x-api-key",
}
"""The keys, and what LeadSquared calls them."""
_NAMES = {**KEYS, "LEADPOST_HOST": "async host", "LEADPOST_REGION": "region"}
_WHERE = ("LEADPOST_HOST", "LEADPOST_REGION", "LEADPOST_SYNC_HOST")
_SETTING = re.compile(r"\w+ \((LEADPOST_\w+)\)|(LEADPOST_\w+)")


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
    path = _file_read(env_file)
    if env_file is None and not path.is_file():
        if not any(os.environ.get(name) for name in (*_WHERE, *KEYS)):
            raise ConfigurationError(
                "no keys yet. Enter them: leadpost setup. Or set LEADPOST_REGION and"
                f" {', '.join(KEYS)}"
            )
        return Account.from_env(os.environ)
    try:
        # Access keys contain a `$`, which must not be expanded.
        values = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {type(error).__name__}") from error
    return Account.from_env(merged({k: v for k, v in values.items() if v}, os.environ))


def _file_read(env_file: Path | None) -> Path:
    return env_file or (_DEFAULT if _DEFAULT.is_file() else keys_path())


def variables_read(env_file: Path | None) -> Collection[str]:
    """Return the variables of the account, without those that only `leadpost setup` has set."""
    return os.environ if _file_read(env_file) == keys_path() else _NAMES


def in_words(text: str, variables: Collection[str] = ()) -> str:
    """
    Name keys and host as `leadpost setup` does; beside those of `variables`, show the variable.

    >>> in_words("api_key (LEADPOST_API_KEY): copy the key again")
    'x-api-key: copy the key again'
    >>> in_words("set LEADPOST_HOST or LEADPOST_SYNC_HOST", {"LEADPOST_HOST"})
    'set async host (LEADPOST_HOST) or LEADPOST_SYNC_HOST'
    """

    def name(found: re.Match[str]) -> str:
        variable = found[1] or found[2]
        beside = f" ({variable})" if variable in variables else ""
        return _NAMES[variable] + beside if variable in _NAMES else found[0]

    return _SETTING.sub(name, text)


def read_account_if_any(env_file: Path | None) -> Account | None:
    """Read the account as `read_account` does; return None if no key is set at all."""
    try:
        return read_account(env_file)
    except ConfigurationError:
        if env_file is None and not any(os.environ.get(name) for name in KEYS):
            return None
        raise


@contextmanager
def naming(account: Account, *, sync: bool = False) -> Generator[None]:
    """Name the host in the error of a failed connection, as it may be the wrong one."""
    try:
        yield
    except ConnectionFailed as error:
        host = account.sync_host if sync else account.host
        error.add_note(f"(at {host}: see leadpost doctor)")
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
