"""`leadpost doctor`: what works with this account, and which setting to change for the rest."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any, Literal
from uuid import uuid4

import typer
from attrs import asdict, evolve, frozen
from rich.console import Console

from leadpost import Account, Activity, AsyncActivityPoster, RetryPolicy, StatusTimeout, errors
from leadpost._responses import redactor
from leadpost._transport import new_client
from leadpost.cli import options
from leadpost.cli.account import read_account
from leadpost.cli.console import is_interactive, logged
from leadpost.cli.exits import Exit, InputError
from leadpost.cli.outbox_url import url_of
from leadpost.outbox import SharedTokenBucket

_HOST = "check LEADPOST_REGION or LEADPOST_HOST"
_RIVAL_PATH = "/activity/status"
_COLOURS = {"ok": "green", "failed": "red", "unknown": "yellow"}


@frozen
class Check:
    """A line: `ok`, `failed`, or `unknown`; what that means; what to do, "" if nothing."""

    name: str
    verdict: Literal["ok", "failed", "unknown"]
    meaning: str
    remedy: str = ""


def doctor(
    *,
    lead: Annotated[
        str | None,
        typer.Option("--post", metavar="LEAD_ID", help="Post a test activity on this lead too."),
    ] = None,
    event: Annotated[
        int, typer.Option(min=1, metavar="CODE", help="The activity type of this test.")
    ] = 201,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for its status.")
    ] = 60.0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Post it without asking.")] = False,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Check keys, hosts and paths with one call each, and say which setting to change.

    Nothing is posted without --post. The exit code is 1 if a check failed, 3 if the keys are
    refused.

    Examples:
    `leadpost doctor`

    `leadpost doctor --post 00727844-51aa-11e2-9e64-12314004ac6b --event 201`
    """
    account = read_account(env_file)
    note = "A test by leadpost doctor, to be deleted"
    activity = None if lead is None else Activity(lead, event, note)
    if activity is not None and not yes:
        if not is_interactive():
            raise InputError("there is no terminal to ask at: add --yes to post the test")
        typer.confirm(f"Post a test activity of type {event} on lead {lead}?", err=True, abort=True)

    async def diagnose() -> list[Check]:
        retry = RetryPolicy(max_attempts=1, max_time=30)
        bucket = SharedTokenBucket(url_of(outbox))
        async with new_client(account) as client:

            def poster_of(changed: Account) -> AsyncActivityPoster:
                return AsyncActivityPoster(changed, client=client, bucket=bucket, retry=retry)

            async with poster_of(account) as poster:
                found = [check async for check in _checks(account, poster, poster_of)]
                if activity is not None and all(check.verdict != "failed" for check in found):
                    found += [check async for check in _test(poster, activity, timeout)]
        return found

    with logged(Console(stderr=True), verbose=verbose):
        found = asyncio.run(diagnose())
    safe = redactor(account.secrets)
    checks = [evolve(c, meaning=" ".join(safe(c.meaning).split())[:300]) for c in found]
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
    for check in () if as_json else checks:
        verdict = typer.style(f"{check.verdict:7}", fg=_COLOURS[check.verdict])
        typer.echo(f"{verdict}  {check.name:13}  {check.meaning}")
        if check.remedy:
            typer.echo(f"{'':24}→ {check.remedy}")
    failed = {check.name for check in checks if check.verdict == "failed"}
    if "keys" in failed:
        raise typer.Exit(Exit.KEYS_REFUSED)
    raise typer.Exit(Exit.SOME_NOT if failed else Exit.ALL_ACCEPTED)


async def _checks(
    account: Account,
    poster: AsyncActivityPoster,
    poster_of: Callable[[Account], AsyncActivityPoster],
) -> AsyncGenerator[Check]:
    """Run the checks in order; skip those that depend on a failed one."""
    settled = evolve(account, region=None)  # its hosts are known
    keys = await _keys(account, poster, poster_of) if account.sync_host else None
    if keys is not None:
        yield keys
        if keys.verdict == "failed":
            return
    error = await _error_of(poster.metrics())
    match error:
        case errors.ConnectionFailed():
            yield Check("host", "failed", f"{account.host}: {error}", _HOST)
            return
        case errors.Unauthorized() if error.exception_message != "Forbidden" and (
            await _error_of(poster_of(evolve(settled, keys_for_status=True)).metrics()) is None
        ):
            meaning = "status and metrics calls are refused without AccessKey and SecretKey"
            yield Check("status keys", "failed", meaning, "set LEADPOST_KEYS_FOR_STATUS=true")
            return
        case errors.Unauthorized():
            yield Check("x-api-key", "failed", f"refused: {error}", "correct LEADPOST_API_KEY")
            return
        case _:
            remedy = f"set LEADPOST_METRICS_PATH; if more is missing, {_HOST}"
            yield _check("metrics path", account.metrics_path, error, errors.NotFound, remedy)
    # LeadSquared's word that there is no such request shows that the path is right.
    request_id = str(uuid4())
    is_right = errors.ApplicationError | errors.BadRequest | None
    is_wrong: Any = errors.NotFound | errors.UnexpectedAnswer
    error = await _error_of(poster.status(request_id))
    remedy = "set LEADPOST_STATUS_PATH"
    if isinstance(error, is_wrong):
        rival = poster_of(evolve(settled, status_path=_RIVAL_PATH))
        if isinstance(await _error_of(rival.status(request_id)), is_right):
            remedy += f"={_RIVAL_PATH}"
    error = None if isinstance(error, is_right) else error
    yield _check("status path", account.status_path, error, is_wrong, remedy)

    if not account.sync_host:
        meaning = "not known; needed by `types`, `reconcile` and `post_sync`"
        yield Check("sync host", "unknown", meaning, "set LEADPOST_SYNC_HOST")
        return
    error = await _error_of(poster.activity_types())
    is_wrong = errors.ConnectionFailed | errors.NotFound | errors.Unauthorized
    yield _check("sync host", account.sync_host, error, is_wrong, "correct LEADPOST_SYNC_HOST")


async def _keys(
    account: Account,
    poster: AsyncActivityPoster,
    poster_of: Callable[[Account], AsyncActivityPoster],
) -> Check | None:
    """Ask whose keys these are; None if their host cannot be asked, which another check says."""
    error = await _error_of(poster.user())
    match error:
        case None:
            return Check("keys", "ok", f"{account.sync_host} takes them")
        case errors.ConnectionFailed() | errors.NotFound():
            return None
        case errors.Unauthorized():
            here = account.keys_in
            there: Any = "headers" if here == "query" else "query"
            if (
                await _error_of(poster_of(evolve(account, region=None, keys_in=there)).user())
                is None
            ):
                meaning = f"taken in the {there}, refused in the {here}"
                return Check("keys", "failed", meaning, f"set LEADPOST_KEYS_IN={there}")
            remedy = f"correct LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY, or {_HOST}"
            return Check("keys", "failed", f"refused: {error}", remedy)
        case _:
            return Check("keys", "unknown", f"no clear answer: {error}", "try again later")


def _check(name: str, setting: str, error: Exception | None, is_wrong: Any, remedy: str) -> Check:
    """Say what an answer means for the setting that led to it."""
    if error is None:
        return Check(name, "ok", setting)
    meaning = f"{setting}: {error}"
    if isinstance(error, is_wrong):
        return Check(name, "failed", meaning, remedy)
    return Check(name, "unknown", meaning, "try again later")


async def _error_of(answer: Awaitable[object]) -> Exception | None:
    """Return the error of a question, None if it was answered."""
    try:
        await answer
    except errors.LeadpostError as error:
        return error
    return None


async def _test(
    poster: AsyncActivityPoster, activity: Activity, patience: float
) -> AsyncGenerator[Check]:
    try:
        request_id = await poster.post(activity)
    except errors.LeadpostError as error:
        in_doubt = isinstance(error, errors.DeliveryUncertain)
        remedy = "look at the lead" if in_doubt else ""
        yield Check("test activity", "unknown" if in_doubt else "failed", str(error), remedy)
        return
    yield Check("test activity", "ok", f"accepted, RequestID {request_id}")
    later = f"ask later: leadpost status {request_id}"
    try:
        status = await poster.wait(request_id, patience)
    except StatusTimeout as error:
        yield Check("its status", "unknown", str(error), later)
    except errors.LeadpostError as error:
        yield Check("its status", "failed", str(error), later)
    else:
        is_there = status.state == "succeeded"
        meaning = status.activity_id or status.status_reason or status.status
        yield Check("its status", "ok" if is_there else "failed", f"{status.state}: {meaning}")
