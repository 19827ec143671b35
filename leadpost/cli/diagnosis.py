"""The checks of `doctor` and `setup`: what works with an account, and which setting to change."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import typer
from attrs import asdict, evolve, field, frozen

from leadpost import (
    Account,
    AsyncActivityPoster,
    QueueMetrics,
    RequestStatus,
    RetryPolicy,
    User,
    errors,
)
from leadpost.cli.exits import Exit
from leadpost.cli.outbox_url import url_of
from leadpost.outbox import SharedTokenBucket

Call = Callable[[AsyncActivityPoster], Awaitable[object]]
Ask = Callable[..., Awaitable[object]]

ONCE = RetryPolicy(max_attempts=1, max_time=30)

_COLOURS = {"ok": "green", "failed": "red", "unknown": "yellow"}
_HOST = "check LEADPOST_REGION or LEADPOST_HOST, and your network"
_RIVAL_PATH = "/activity/status"
_IS_THERE = errors.ApplicationError | errors.BadRequest | RequestStatus
"""The path is right, even if LeadSquared says that there is no such request."""
_NO_PATH = errors.NotFound | errors.UnexpectedAnswer


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


@frozen
class Check:
    """
    A line.

    Attributes:
        name: What was checked.
        verdict: `ok`, `failed`, or `unknown`.
        meaning: What that means.
        remedy: What to do, "" if nothing.
        setting: The variable that changes it, "" if there is none.
    """

    name: str
    verdict: Literal["ok", "failed", "unknown"]
    meaning: str = field(converter=_one_line)
    remedy: str = ""
    setting: str = ""


def exit_code(checks: list[Check]) -> Exit:
    """Return 1 if a check failed, 3 if the keys are rejected."""
    failed = {check.name for check in checks if check.verdict == "failed"}
    if failed & {"keys", "x-api-key"}:
        return Exit.KEYS_REJECTED
    return Exit.SOME_NOT if failed else Exit.ALL_ACCEPTED


def show(checks: list[Check], *, as_json: bool = False) -> None:
    """Print the checks as lines, or as JSON."""
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
        return
    for check in checks:
        verdict = typer.style(f"{check.verdict:7}", fg=_COLOURS[check.verdict])
        setting = f" ({check.setting})" if check.setting and check.verdict != "failed" else ""
        typer.echo(f"{verdict}  {check.name:25}  {check.meaning}{setting}")
        if check.remedy:
            typer.echo(f"{'':36}→ {check.remedy}")


async def diagnose(account: Account, outbox: str | None) -> list[Check]:
    """
    Run the checks in order, up to one that the others depend on: a call each.

    Args:
        account: The account.
        outbox: The outbox whose bucket gives the tokens.
    """
    url = url_of(outbox)

    async def ask(call: Call, **changes: Any) -> object:
        """Make a call with changes to the account; return its answer, or its error."""
        changed, bucket = evolve(account, region=None, **changes), SharedTokenBucket(url)
        async with AsyncActivityPoster(changed, bucket=bucket, retry=ONCE) as poster:
            try:
                return await call(poster)
            except errors.LeadpostError as error:
                return error

    found = await _user(account, ask) if account.sync_host else []
    return found if exit_code(found) else found + await _async_host(account, ask)


async def _user(account: Account, ask: Ask) -> list[Check]:
    """Ask whose keys these are; without an answer, a later check says why."""
    match user := await ask(AsyncActivityPoster.user):
        case User():
            pass
        case errors.ConnectionFailed() | errors.NotFound():
            return []
        case errors.Unauthorized():
            there = "headers" if account.keys_in == "query" else "query"
            if isinstance(await ask(AsyncActivityPoster.user, keys_in=there), User):
                meaning = f"accepted in the {there}, rejected in the {account.keys_in}"
                return [Check("keys", "failed", meaning, f"set LEADPOST_KEYS_IN={there}")]
            remedy = "correct LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY, or LEADPOST_REGION"
            meaning = f"AccessKey or SecretKey rejected, or the user is not active: {user}"
            return [Check("keys", "failed", meaning, remedy)]
        case error:
            return [Check("keys", "unknown", f"no clear answer: {error}", "try again later")]
    meaning = f"AccessKey and SecretKey accepted in the {account.keys_in}"
    keys = Check("keys", "ok", meaning, "", "LEADPOST_KEYS_IN")
    if user.time_zone is None:
        missing = "not in LeadSquared's answer"
        zone = Check("time zone", "unknown", missing, "name it: --timezone")
    else:
        remedy = f"for date-times of files without an offset: --timezone {user.time_zone}"
        zone = Check("time zone", "ok", user.time_zone, remedy)
    return [keys, hosts_check(account, user), zone]


def hosts_check(account: Account, user: User) -> Check:
    """Compare the hosts with those that LeadSquared names."""
    wanted, wanted_async = user.sync_host, user.async_host
    host, sync_host = (urlsplit(url).netloc for url in (account.host, account.sync_host))
    if account.is_loopback or wanted_async == host:
        return Check("hosts", "ok", f"{host}, {wanted}", "", "LEADPOST_HOST")
    meaning = f"the account is at {wanted}, so its async host should be {wanted_async}"
    remedy = f"set LEADPOST_HOST={wanted_async}, without LEADPOST_REGION"
    return Check("hosts", "unknown" if wanted == sync_host else "failed", meaning, remedy)


async def _async_host(account: Account, ask: Ask) -> list[Check]:
    """Check the async host's paths; the first call shows whether it takes any."""
    match answer := await ask(AsyncActivityPoster.metrics):
        case errors.ConnectionFailed():
            return [Check("host", "failed", f"{account.host}: {answer}", _HOST)]
        case errors.Unauthorized() if answer.exception_message != "Forbidden" and isinstance(
            await ask(AsyncActivityPoster.metrics, keys_for_status=True), QueueMetrics
        ):
            meaning = "status and metrics calls are rejected without AccessKey and SecretKey"
            remedy = "set LEADPOST_KEYS_FOR_STATUS=true"
            return [Check("keys for status calls", "failed", meaning, remedy)]
        case errors.Unauthorized():
            return [Check("x-api-key", "failed", f"rejected: {answer}", "correct LEADPOST_API_KEY")]
        case _:
            more = f"; if more is missing, {_HOST}"
            metrics = _setting(account, "metrics_path", answer, more=more)
    keys = "sent" if account.keys_for_status else "not needed"
    found = [
        metrics,
        Check("keys for status calls", "ok", keys, "", "LEADPOST_KEYS_FOR_STATUS"),
        await _status_path(account, "status_path", ask),
        await _status_path(account, "createcustom_status_path", ask),
        _setting(account, "createcustom_metrics_path", await ask(_custom_metrics)),
    ]
    if not account.sync_host:
        meaning = "not known; needed by types, reconcile, look-ups of leads and post_sync"
        return [*found, Check("sync host", "unknown", meaning, "set LEADPOST_SYNC_HOST")]
    answer = await ask(AsyncActivityPoster.activity_types)
    is_wrong = errors.ConnectionFailed | errors.NotFound | errors.Unauthorized
    return [*found, _setting(account, "sync_host", answer, is_wrong)]


def _custom_metrics(poster: AsyncActivityPoster) -> Awaitable[object]:
    return poster.metrics("createcustom")


async def _status_path(account: Account, name: str, ask: Ask) -> Check:
    def status(poster: AsyncActivityPoster) -> Awaitable[object]:
        return poster.status(str(uuid4()))

    more = ""
    answer = await ask(status, status_path=getattr(account, name))
    if name == "status_path" and isinstance(answer, _NO_PATH):
        rival = await ask(status, status_path=_RIVAL_PATH)
        more = f"={_RIVAL_PATH}" if isinstance(rival, _IS_THERE) else ""
    return _setting(account, name, None if isinstance(answer, _IS_THERE) else answer, more=more)


def _setting(
    account: Account, name: str, answer: object, is_wrong: Any = _NO_PATH, more: str = ""
) -> Check:
    """Return what the answer or error of a call means for the setting that led to it."""
    title, variable = name.replace("_", " "), f"LEADPOST_{name.upper()}"
    value: str = getattr(account, name)
    if not isinstance(answer, Exception):
        return Check(title, "ok", value, "", variable)
    if isinstance(answer, is_wrong):
        return Check(title, "failed", f"{value}: {answer}", f"set {variable}{more}", variable)
    return Check(title, "unknown", f"{value}: {answer}", "try again later", variable)
