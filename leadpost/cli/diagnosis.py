"""The checks of `doctor` and `setup`: what works with an account, and which setting to change."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import typer
from attrs import asdict, evolve, frozen

from leadpost import Account, AsyncActivityPoster, RetryPolicy, User, errors
from leadpost._responses import redactor
from leadpost._transport import new_client
from leadpost.cli.outbox_url import url_of
from leadpost.outbox import SharedTokenBucket

PosterOf = Callable[[Account], AsyncActivityPoster]
More = Callable[[AsyncActivityPoster], AsyncGenerator["Check"]]

_COLOURS = {"ok": "green", "failed": "red", "unknown": "yellow"}
_LONGEST = 300
_HOST = "check LEADPOST_REGION or LEADPOST_HOST, and your network"
_RIVAL_PATH = "/activity/status"
_IS_THERE = errors.ApplicationError | errors.BadRequest | None
"""The path is right, even if LeadSquared says that there is no such request."""
_NO_PATH: Any = errors.NotFound | errors.UnexpectedAnswer


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
    meaning: str
    remedy: str = ""
    setting: str = ""

    @property
    def is_failed(self) -> bool:
        return self.verdict == "failed"


async def diagnose(account: Account, outbox: str | None, more: More | None = None) -> list[Check]:
    """
    Run the checks, a call each, and return them in order.

    Args:
        account: The account.
        outbox: The outbox whose bucket gives the tokens.
        more: Further checks if none of these failed.
    """
    bucket = SharedTokenBucket(url_of(outbox))
    retry = RetryPolicy(max_attempts=1, max_time=30)
    async with new_client(account) as client:

        def poster_of(changed: Account) -> AsyncActivityPoster:
            return AsyncActivityPoster(changed, client=client, bucket=bucket, retry=retry)

        async with poster_of(account) as poster:
            found = [check async for check in _checks(account, poster, poster_of)]
            if more and not any(check.is_failed for check in found):
                found += [check async for check in more(poster)]
    safe = redactor(account.secrets)
    return [evolve(c, meaning=" ".join(safe(c.meaning).split())[:_LONGEST]) for c in found]


def show(checks: list[Check], *, as_json: bool = False) -> None:
    """Print the checks as lines, or as JSON."""
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
        return
    for check in checks:
        verdict = typer.style(f"{check.verdict:7}", fg=_COLOURS[check.verdict])
        setting = f" ({check.setting})" if check.setting and not check.is_failed else ""
        typer.echo(f"{verdict}  {check.name:25}  {check.meaning}{setting}")
        if check.remedy:
            typer.echo(f"{'':36}→ {check.remedy}")


async def _checks(
    account: Account, poster: AsyncActivityPoster, poster_of: PosterOf
) -> AsyncGenerator[Check]:
    """Yield the checks in order, and stop at one that the others depend on."""
    if account.sync_host:
        async for check in _user(account, poster, poster_of):
            yield check
            if check.is_failed:
                return
    queue = await _queue(account, poster, poster_of)
    yield queue
    if queue.name != "metrics path":
        return
    keys = "sent" if account.keys_for_status else "not needed"
    yield Check("keys for status calls", "ok", keys, "", "LEADPOST_KEYS_FOR_STATUS")
    yield await _status_path(account, "status_path", poster_of)
    yield await _status_path(account, "createcustom_status_path", poster_of)
    error = await error_of(poster.metrics("createcustom"))
    yield _path(account, "createcustom_metrics_path", error)
    if not account.sync_host:
        meaning = "not known; needed by types, reconcile, look-ups of leads and post_sync"
        yield Check("sync host", "unknown", meaning, "set LEADPOST_SYNC_HOST")
    else:
        error = await error_of(poster.activity_types())
        is_wrong = errors.ConnectionFailed | errors.NotFound | errors.Unauthorized
        setting = "LEADPOST_SYNC_HOST"
        yield _check("sync host", account.sync_host, error, is_wrong, f"correct {setting}", setting)


async def _user(
    account: Account, poster: AsyncActivityPoster, poster_of: PosterOf
) -> AsyncGenerator[Check]:
    """Ask whose keys these are; yield nothing without an answer, as a later check says why."""
    try:
        user = await poster.user()
    except (errors.ConnectionFailed, errors.NotFound):
        return
    except errors.Unauthorized as error:
        there: Any = "headers" if account.keys_in == "query" else "query"
        other = poster_of(evolve(account, region=None, keys_in=there))
        if await error_of(other.user()) is None:
            meaning = f"accepted in the {there}, rejected in the {account.keys_in}"
            yield Check("keys", "failed", meaning, f"set LEADPOST_KEYS_IN={there}")
        else:
            remedy = "correct LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY, or LEADPOST_REGION"
            meaning = f"AccessKey or SecretKey rejected, or the user is not active: {error}"
            yield Check("keys", "failed", meaning, remedy)
    except errors.LeadpostError as error:
        yield Check("keys", "unknown", f"no clear answer: {error}", "try again later")
    else:
        meaning = f"AccessKey and SecretKey accepted in the {account.keys_in}"
        yield Check("keys", "ok", meaning, "", "LEADPOST_KEYS_IN")
        yield hosts_check(account, user)
        yield _time_zone(user)


def hosts_check(account: Account, user: User) -> Check:
    """Compare the hosts with those that LeadSquared names."""
    wanted, wanted_async = user.sync_host, user.async_host
    if account.is_loopback or wanted_async == _host_in(account.host):
        return Check("hosts", "ok", f"{_host_in(account.host)}, {wanted}", "", "LEADPOST_HOST")
    is_other = wanted != _host_in(account.sync_host)
    meaning = f"the account is at {wanted}, so its async host should be {wanted_async}"
    remedy = f"set LEADPOST_HOST={wanted_async}, without LEADPOST_REGION"
    return Check("hosts", "failed" if is_other else "unknown", meaning, remedy)


def _time_zone(user: User) -> Check:
    if user.time_zone is None:
        return Check("time zone", "unknown", "not in LeadSquared's answer", "name it: --timezone")
    remedy = f"for date-times of files without an offset: --timezone {user.time_zone}"
    return Check("time zone", "ok", user.time_zone, remedy)


def _host_in(url: str) -> str:
    return urlsplit(url if "://" in url else f"https://{url}").netloc.lower()


async def _queue(account: Account, poster: AsyncActivityPoster, poster_of: PosterOf) -> Check:
    """Ask for metrics: this shows host, `x-api-key` and path."""
    error = await error_of(poster.metrics())
    with_keys = evolve(account, region=None, keys_for_status=True)
    match error:
        case errors.ConnectionFailed():
            return Check("host", "failed", f"{account.host}: {error}", _HOST)
        case errors.Unauthorized() if error.exception_message != "Forbidden" and (
            await error_of(poster_of(with_keys).metrics()) is None
        ):
            meaning = "status and metrics calls are rejected without AccessKey and SecretKey"
            remedy = "set LEADPOST_KEYS_FOR_STATUS=true"
            return Check("keys for status calls", "failed", meaning, remedy)
        case errors.Unauthorized():
            return Check("x-api-key", "failed", f"rejected: {error}", "correct LEADPOST_API_KEY")
        case _:
            return _path(account, "metrics_path", error, f"; if more is missing, {_HOST}")


async def _status_path(account: Account, name: str, poster_of: PosterOf) -> Check:
    settled = evolve(account, region=None, status_path=getattr(account, name))
    request_id = str(uuid4())
    error = await error_of(poster_of(settled).status(request_id))
    more = ""
    if name == "status_path" and isinstance(error, _NO_PATH):
        rival = poster_of(evolve(settled, status_path=_RIVAL_PATH))
        if isinstance(await error_of(rival.status(request_id)), _IS_THERE):
            more = f"={_RIVAL_PATH}"
    return _path(account, name, None if isinstance(error, _IS_THERE) else error, more)


def _path(account: Account, name: str, error: Exception | None, more: str = "") -> Check:
    setting = f"LEADPOST_{name.upper()}"
    is_wrong = errors.NotFound if name == "metrics_path" else _NO_PATH
    value: str = getattr(account, name)
    return _check(name.replace("_", " "), value, error, is_wrong, f"set {setting}{more}", setting)


def _check(  # noqa: PLR0917  as those of a `Check`
    name: str, value: str, error: Exception | None, is_wrong: Any, remedy: str, setting: str
) -> Check:
    """Return what an answer means for the setting that led to it."""
    if error is None:
        return Check(name, "ok", value, "", setting)
    meaning = f"{value}: {error}"
    if isinstance(error, is_wrong):
        return Check(name, "failed", meaning, remedy, setting)
    return Check(name, "unknown", meaning, "try again later", setting)


async def error_of(answer: Awaitable[object]) -> Exception | None:
    """Return the error of a call, None if it was answered."""
    try:
        await answer
    except errors.LeadpostError as error:
        return error
    return None
