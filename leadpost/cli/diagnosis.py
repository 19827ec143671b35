"""What works with an account, and which setting to change for the rest: the checks of `doctor`."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import uuid4

from attrs import evolve, frozen

from leadpost import Account, AsyncActivityPoster, User, errors

_HOST = "check LEADPOST_REGION or LEADPOST_HOST"
_RIVAL_PATH = "/activity/status"
_TAKEN = errors.ApplicationError | errors.BadRequest | None
"""LeadSquared's word that there is no such request shows that the path is right."""
_NO_PATH: Any = errors.NotFound | errors.UnexpectedAnswer

PosterOf = Callable[[Account], AsyncActivityPoster]


@frozen
class Check:
    """
    A line.

    Attributes:
        name: What was checked.
        verdict: `ok`, `failed`, or `unknown`.
        meaning: What that means.
        remedy: What to do, "" if nothing.
        setting: The variable that it is set with, "" if there is none.
    """

    name: str
    verdict: Literal["ok", "failed", "unknown"]
    meaning: str
    remedy: str = ""
    setting: str = ""


ASSUMED = (
    Check("submit path", "unknown", "only a post shows it: --post", "", "LEADPOST_SUBMIT_PATH"),
    Check(
        *("FAILURE", "unknown", "this status may still change", "", "LEADPOST_FAILURE_IS_FINAL"),
    ),
)
"""What no question shows."""


async def diagnosis(
    account: Account, poster: AsyncActivityPoster, poster_of: PosterOf
) -> AsyncGenerator[Check]:
    """Yield checks in order, a call each; skip those that depend on a failed one."""
    if account.sync_host:
        async for check in _keys(account, poster, poster_of):
            yield check
            if check.name == "keys" and check.verdict == "failed":
                return
    metrics = await _metrics(account, poster, poster_of)
    yield metrics
    if metrics.name != "metrics path":
        return
    given = "given" if account.keys_for_status else "not needed"
    yield Check("status keys", "ok", given, "", "LEADPOST_KEYS_FOR_STATUS")
    for name in ("status_path", "createcustom_status_path"):
        yield await _status_path(account, name, poster_of)
    if not account.sync_host:
        meaning = "not known; needed by `types`, `reconcile`, look-ups and `post_sync`"
        yield Check("sync host", "unknown", meaning, "set LEADPOST_SYNC_HOST")
    else:
        error = await error_of(poster.activity_types())
        is_wrong = errors.ConnectionFailed | errors.NotFound | errors.Unauthorized
        setting = "LEADPOST_SYNC_HOST"
        yield _check("sync host", account.sync_host, error, is_wrong, f"correct {setting}", setting)


async def _keys(
    account: Account, poster: AsyncActivityPoster, poster_of: PosterOf
) -> AsyncGenerator[Check]:
    """Ask whose keys these are; nothing if their host cannot be asked: another check says that."""
    try:
        user = await poster.user()
    except (errors.ConnectionFailed, errors.NotFound):
        return
    except errors.Unauthorized as error:
        there: Any = "headers" if account.keys_in == "query" else "query"
        other = poster_of(evolve(account, region=None, keys_in=there))
        if await error_of(other.user()) is None:
            meaning = f"taken in the {there}, refused in the {account.keys_in}"
            yield Check("keys", "failed", meaning, f"set LEADPOST_KEYS_IN={there}")
        else:
            remedy = f"correct LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY, or {_HOST}"
            yield Check("keys", "failed", f"refused, or the user is not active: {error}", remedy)
    except errors.LeadpostError as error:
        yield Check("keys", "unknown", f"no clear answer: {error}", "try again later")
    else:
        meaning = f"taken in the {account.keys_in}; the user is active"
        yield Check("keys", "ok", meaning, "", "LEADPOST_KEYS_IN")
        yield hosts_check(account, user)
        yield time_zone_check(user)


def hosts_check(account: Account, user: User) -> Check:
    """Compare the hosts with those that LeadSquared names."""
    wanted, wanted_async = user.sync_host, user.async_host
    if account.is_loopback or wanted_async == _host_in(account.host):
        return Check("hosts", "ok", f"{_host_in(account.host)}, {wanted}", "", "LEADPOST_HOST")
    is_other = wanted != _host_in(account.sync_host)
    meaning = f"the account is at {wanted}, so its async host should be {wanted_async}"
    remedy = f"set LEADPOST_HOST={wanted_async}, without LEADPOST_REGION"
    return Check("hosts", "failed" if is_other else "unknown", meaning, remedy)


def time_zone_check(user: User) -> Check:
    """Say which time zone the account has."""
    if user.time_zone is None:
        return Check("time zone", "unknown", "not in LeadSquared's answer", "name it: --timezone")
    remedy = f"date-times of files without an offset: --timezone {user.time_zone}"
    return Check("time zone", "ok", user.time_zone, remedy)


def _host_in(url: str) -> str:
    return urlsplit(url if "://" in url else f"https://{url}").netloc.lower()


async def _metrics(account: Account, poster: AsyncActivityPoster, poster_of: PosterOf) -> Check:
    error = await error_of(poster.metrics())
    settled = evolve(account, region=None, keys_for_status=True)  # its hosts are known
    match error:
        case errors.ConnectionFailed():
            return Check("host", "failed", f"{account.host}: {error}", _HOST)
        case errors.Unauthorized() if error.exception_message != "Forbidden" and (
            await error_of(poster_of(settled).metrics()) is None
        ):
            meaning = "status and metrics calls are refused without AccessKey and SecretKey"
            return Check("status keys", "failed", meaning, "set LEADPOST_KEYS_FOR_STATUS=true")
        case errors.Unauthorized():
            return Check("x-api-key", "failed", f"refused: {error}", "correct LEADPOST_API_KEY")
        case _:
            setting, path = "LEADPOST_METRICS_PATH", account.metrics_path
            remedy = f"set {setting}; if more is missing, {_HOST}"
            return _check("metrics path", path, error, errors.NotFound, remedy, setting)


async def _status_path(account: Account, name: str, poster_of: PosterOf) -> Check:
    path: str = getattr(account, name)
    settled = evolve(account, region=None, status_path=path)
    request_id = str(uuid4())
    error = await error_of(poster_of(settled).status(request_id))
    setting = f"LEADPOST_{name.upper()}"
    remedy = f"set {setting}"
    if name == "status_path" and isinstance(error, _NO_PATH):
        rival = poster_of(evolve(settled, status_path=_RIVAL_PATH))
        if isinstance(await error_of(rival.status(request_id)), _TAKEN):
            remedy += f"={_RIVAL_PATH}"
    error = None if isinstance(error, _TAKEN) else error
    return _check(name.replace("_", " "), path, error, _NO_PATH, remedy, setting)


def _check(  # noqa: PLR0917  as those of a `Check`
    name: str, value: str, error: Exception | None, is_wrong: Any, remedy: str, setting: str
) -> Check:
    """Say what an answer means for the value of a setting that led to it."""
    if error is None:
        return Check(name, "ok", value, "", setting)
    meaning = f"{value}: {error}"
    if isinstance(error, is_wrong):
        return Check(name, "failed", meaning, remedy, setting)
    return Check(name, "unknown", meaning, "try again later", setting)


async def error_of(answer: Awaitable[object]) -> Exception | None:
    """Return the error of a question, None if it was answered."""
    try:
        await answer
    except errors.LeadpostError as error:
        return error
    return None
