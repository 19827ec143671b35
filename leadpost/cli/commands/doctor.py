"""`leadpost doctor`: what works with this account, and which setting to change for the rest."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import typer
from attrs import evolve, frozen
from rich.console import Console

from leadpost import Account, Activity, AsyncActivityPoster, RetryPolicy, errors
from leadpost.cli import options
from leadpost.cli.account import read_account, variables_read
from leadpost.cli.console import logged
from leadpost.cli.exits import Exit, InputError, exit_of
from leadpost.cli.files.reading.settings import zone_of
from leadpost.cli.outbox_url import url_of
from leadpost.cli.queries import querying
from leadpost.cli.verdicts import Line, show

Call = Callable[[AsyncActivityPoster], Awaitable[object]]
_ONCE = RetryPolicy(max_attempts=1, max_time=30)
_WORDS: dict[object, str] = {
    False: "not needed",
    True: "needed",
    "query": "accepted in the query",
    "headers": "accepted in headers",
}
_REPORT = "report this line to leadpost's authors"

_HOW = "on a lead made for that: leadpost post FILE --first 1, then leadpost verify FILE"
_POSTED = Line("unknown", "only posting shows it", _HOW)
_REFUSED = Line("unknown", "only refused calls show it", "lower --limit if calls are refused")
_WRONG = Line("unknown", "only an UnexpectedAnswer shows it to be wrong", "report such an error")


@frozen
class Check:
    """A call, and the setting of the account that it shows to be right or wrong."""

    name: str
    setting: str = ""  # the attribute of the account, "" if there is none
    # Returns a line, or anything else if the setting is right; a line if there is no such call.
    call: Call | Line = _POSTED
    path: str = ""  # the attribute to change if there is no such path, by default the setting
    keys: str = ""  # the variables to correct if the keys are rejected
    others: Sequence[object] = ()  # values of the setting with which the call may work
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
    zone = (await poster.user()).time_zone or ""
    with suppress(InputError):
        zone_of(zone)
        return Line("ok", zone, f"for date-times of files without an offset: --timezone {zone}")
    return Line("unknown", zone or "not in LeadSquared's answer", "name it: --timezone")


async def _status(poster: AsyncActivityPoster) -> None:
    with suppress(errors.ApplicationError, errors.BadRequest):  # there is no such request
        await poster.status(str(uuid4()))


async def _shapes(poster: AsyncActivityPoster) -> Line:
    await poster.find_lead("EmailAddress", f"{uuid4()}@example.com")
    codes = [kind.code for kind in await poster.activity_types() if kind.code]
    for code in codes[:1]:
        await poster.activity_type(code)
        await poster.activities_between(code, datetime.now(UTC), datetime.now(UTC))
    unknown = poster.check([Activity(str(uuid4()), max(codes, default=0) + 1)])
    if [finding.kind async for one in unknown for finding in one.findings] != ["unknown_type"]:
        return Line("unknown", "an unknown activity type looks like any other error", _REPORT)
    return Line("ok", f"leads, activities and {len(codes)} activity types can be read")


_OWN_KEYS = "LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY, or the host, or activate the user"
_EITHER_WAY = ("query", "headers")
_TOO = (True, False)
_metrics = AsyncActivityPoster.metrics

CHECKS = (
    Check("keys", "keys_in", AsyncActivityPoster.user, "sync_host", _OWN_KEYS, _EITHER_WAY),
    Check("hosts", "host", _hosts, "sync_host"),
    Check("time zone", "", _time_zone, "sync_host"),
    Check("keys for status", "keys_for_status", _metrics, "metrics_path", "LEADPOST_API_KEY", _TOO),
    Check("metrics path", "metrics_path", _metrics),
    Check("status path", "status_path", _status, others=["/activity/status"]),
    Check("createcustom status", "createcustom_status_path", _status, replaces="status_path"),
    Check("createcustom metrics", "createcustom_metrics_path", lambda p: p.metrics("createcustom")),
    Check("sync host", "sync_host", AsyncActivityPoster.activity_types),
    Check("sync answers", "", _shapes),
    Check("submit path", "submit_path"),
    Check("status FAILURE", "failure_is_final"),
    *map(Check, ("field values", "parameters", "nested sets", "activity id", "gateway answers")),
    *(Check(name, call=_REFUSED) for name in ("limit of queries", "limit of the account")),
    *(Check(name, call=_WRONG) for name in ("lead look-ups", "pages")),
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
    if isinstance(check.call, Line):
        return check.call
    value = getattr(account, check.setting, "")
    replaced = {check.replaces: value} if check.replaces else {}
    answer = await _answer(check.call, account, url, **replaced)
    if isinstance(answer, Line):
        return answer
    better = ""  # what is on may not be needed
    if value is True or isinstance(answer, errors.Rejected | errors.UnexpectedAnswer):
        for other in {*check.others} - {value}:
            again = await _answer(check.call, account, url, **{check.setting: other})
            if not isinstance(again, errors.LeadpostError):
                better = f"set {_variable(check.setting)}={str(other).lower()}"
    if isinstance(answer, errors.LeadpostError):
        return _failed(check, answer, better)
    return Line("ok", "sent, but not needed" if better else _WORDS.get(value, str(value)), better)


def _failed(check: Check, error: errors.LeadpostError, better: str) -> Line:
    """Return the line for a call that failed; `better` is a setting with which it works."""
    setting = _variable(check.path or check.setting)
    match error:
        case errors.ConnectionFailed():
            remedy = "check LEADPOST_REGION or LEADPOST_HOST, any LEADPOST_SYNC_HOST, your network"
        case errors.Unauthorized() if check.keys:
            remedy = f"correct {check.keys}"
        case errors.Unauthorized() | errors.NotFound() | errors.UnexpectedAnswer():
            remedy = f"set {setting}" if setting else _REPORT
        case errors.ConfigurationError():
            return Line("unknown", str(error), "set LEADPOST_SYNC_HOST")
        case _:
            return Line("unknown", str(error), "try again later")
    return Line("failed", str(error), better or remedy, exit_of(error))


async def _answer(call: Call, account: Account, url: str, **changes: Any) -> object:
    """Return the answer to a call with changes to the account, or its error."""
    async with querying(evolve(account, region=None, **changes), url, retry=_ONCE) as poster:
        try:
            return await call(poster)
        except errors.LeadpostError as error:
            return error


def _variable(setting: str) -> str:
    return f"LEADPOST_{setting.upper()}" if setting else ""


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
