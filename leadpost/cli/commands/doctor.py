"""`leadpost doctor`: what works with this account, and which setting to change for the rest."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import typer
from attrs import asdict, evolve, frozen
from rich.console import Console

from leadpost import Account, AsyncActivityPoster, RetryPolicy, errors
from leadpost.cli import options
from leadpost.cli.account import in_words, read_account, variables_read
from leadpost.cli.console import logged
from leadpost.cli.exits import Exit, exit_of
from leadpost.cli.outbox_url import url_of
from leadpost.cli.queries import querying

Call = Callable[[AsyncActivityPoster], Awaitable[object]]
_ONCE = RetryPolicy(max_attempts=1, max_time=30)
_WORDS = {"query": "accepted in the query", "headers": "accepted in headers", False: "not needed"}
_COLOURS = {"ok": "green", "failed": "red", "unknown": "yellow"}


@frozen
class Line:
    """A line: `ok`, `failed` or `unknown`, what that means, and what to do."""

    verdict: Literal["ok", "failed", "unknown"]
    meaning: str
    remedy: str = ""
    exit_code: Exit = Exit.ALL_ACCEPTED
    name: str = ""  # of the check
    setting: str = ""  # the variable that changes it, "" if there is none


_HOW = "on a lead made for that: leadpost post FILE --first 1, then leadpost verify FILE"
_UNSEEN = Line("unknown", "only posting shows it", _HOW)


@frozen
class Check:
    """A call, and the setting of the account that it shows to be right or wrong."""

    name: str
    setting: str = ""  # the attribute of the account, "" if there is none
    call: Call | None = None  # returns a line, or anything else if the setting is right
    path: str = ""  # the attribute to change if there is no such path, by default the setting
    keys: str = ""  # the variables to correct if the keys are rejected
    others: Sequence[tuple[str, object]] = ()  # settings with which the call may work
    replaces: str = ""  # the attribute that has the value of the setting in this call


async def _hosts(poster: AsyncActivityPoster) -> Line:
    account, user = poster.account, await poster.user()
    host, sync_host = (urlsplit(url).netloc for url in (account.host, account.sync_host))
    if account.is_loopback or user.async_host == host:
        return Line("ok", f"{host}, {user.sync_host}")
    meaning = f"the account is at {user.sync_host}, so its async host should be {user.async_host}"
    remedy = f"set LEADPOST_HOST to {user.async_host}, in place of a region"
    if user.sync_host == sync_host:
        return Line("unknown", meaning, remedy)
    return Line("failed", meaning, remedy, Exit.SOME_NOT)


async def _time_zone(poster: AsyncActivityPoster) -> Line:
    if zone := (await poster.user()).time_zone:
        return Line("ok", zone, f"for date-times of files without an offset: --timezone {zone}")
    return Line("unknown", "not in LeadSquared's answer", "name it: --timezone")


async def _status(poster: AsyncActivityPoster) -> None:
    with suppress(errors.ApplicationError, errors.BadRequest):  # there is no such request
        await poster.status(str(uuid4()))


async def _shapes(poster: AsyncActivityPoster) -> Line:
    await poster.find_lead("EmailAddress", f"{uuid4()}@example.com")
    codes = [kind.code for kind in await poster.activity_types() if kind.code]
    for code in codes[:1]:
        await poster.activity_type(code)
        await poster.activities_between(code, datetime.now(UTC), datetime.now(UTC))
    return Line("ok", f"leads, activities and {len(codes)} activity types can be read")


_OWN_KEYS = "LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY, or the host, or activate the user"
_EITHER_WAY = [("keys_in", "query"), ("keys_in", "headers")]
_TOO = [("keys_for_status", True)]
_metrics = AsyncActivityPoster.metrics

CHECKS = (
    Check("keys", "keys_in", AsyncActivityPoster.user, "sync_host", _OWN_KEYS, _EITHER_WAY),
    Check("hosts", "host", _hosts, "sync_host"),
    Check("time zone", "", _time_zone, "sync_host"),
    Check("keys for status", "keys_for_status", _metrics, "metrics_path", "LEADPOST_API_KEY", _TOO),
    Check("metrics path", "metrics_path", _metrics),
    Check("status path", "status_path", _status, others=[("status_path", "/activity/status")]),
    Check("createcustom status", "createcustom_status_path", _status, replaces="status_path"),
    Check("createcustom metrics", "createcustom_metrics_path", lambda p: p.metrics("createcustom")),
    Check("sync host", "sync_host", AsyncActivityPoster.activity_types),
    Check("sync answers", "", _shapes),
    Check("submit path", "submit_path"),
    Check("status FAILURE", "failure_is_final"),
    *map(Check, ("limit of queries", "limit of the account", "field values", "parameters")),
    *map(Check, ("nested sets", "activity id", "gateway answers", "lead look-ups", "pages")),
)


async def diagnose(account: Account, outbox: str | None) -> list[Line]:
    """Make the checks, with the bucket of an outbox, up to one after which all would fail."""
    found: list[Line] = []
    for check in CHECKS:
        line = await _made(check, account, url_of(outbox))
        found.append(evolve(line, name=check.name, setting=_variable(check.setting)))
        if line.exit_code in {Exit.KEYS_REJECTED, Exit.AWAY}:
            break
    return found


async def _made(check: Check, account: Account, url: str) -> Line:
    value = getattr(account, check.setting, "")
    replaced = {check.replaces: value} if check.replaces else {}
    if check.call is None:
        return _UNSEEN
    answer = await _answer(check.call, account, url, **replaced)
    setting = _variable(check.path or check.setting)
    match answer:
        case Line():
            return answer
        case errors.ConnectionFailed():
            remedy = "check LEADPOST_REGION or LEADPOST_HOST, any LEADPOST_SYNC_HOST, your network"
        case errors.Unauthorized() if check.keys:
            remedy = f"correct {check.keys}"
        case errors.Unauthorized() | errors.NotFound() | errors.UnexpectedAnswer():
            remedy = f"set {setting}" if setting else "report this line to leadpost's authors"
        case errors.LeadpostError():
            needs_host = isinstance(answer, errors.ConfigurationError)
            remedy = "set LEADPOST_SYNC_HOST" if needs_host else "try again later"
            return Line("unknown", str(answer), remedy)
        case _:
            return Line("ok", _WORDS.get(value, value))
    for name, other in check.others:
        again = await _answer(check.call, account, url, **{name: other})
        if not isinstance(again, errors.LeadpostError):
            remedy = f"set {_variable(name)}={str(other).lower()}"
    return Line("failed", str(answer), remedy, exit_of(answer))


async def _answer(call: Call, account: Account, url: str, **changes: Any) -> object:
    """Return the answer to a call with changes to the account, or its error."""
    async with querying(evolve(account, region=None, **changes), url, retry=_ONCE) as poster:
        try:
            return await call(poster)
        except errors.LeadpostError as error:
            return error


def _variable(setting: str) -> str:
    return f"LEADPOST_{setting.upper()}" if setting else ""


def show(found: Sequence[Line], variables: Collection[str], *, as_json: bool = False) -> Exit:
    """Print what was found, see `in_words`, and return the highest exit code."""
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in found]))
    for place, each in enumerate(() if as_json else found, 1):
        verdict = typer.style(f"{each.verdict:7}", fg=_COLOURS[each.verdict])
        setting = f" ({each.setting})" if each.setting and each.verdict == "unknown" else ""
        meaning = in_words(" ".join(each.meaning.split())[:300], variables)
        typer.echo(f"{verdict}  {each.name:25}  {meaning}{setting}")
        if each.remedy and each.remedy not in [later.remedy for later in found[place:]]:
            typer.echo(f"{'':36}→ {in_words(each.remedy, variables)}")
    return max((line.exit_code for line in found), default=Exit.ALL_ACCEPTED)


def doctor(
    *,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Check keys, hosts and paths, and say which setting to change; post nothing.

    The exit code is 0 if no check failed, 3 if keys are rejected, 75 without a connection, else 1.

    Examples:
    - `leadpost doctor`
    - `leadpost doctor --env-file staging.env --json`
    """
    account = read_account(env_file)
    with logged(Console(stderr=True), verbose=verbose):
        found = asyncio.run(diagnose(account, outbox))
    raise typer.Exit(show(found, variables_read(env_file), as_json=as_json))
