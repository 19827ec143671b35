"""`leadpost doctor`: what works with this account, and which setting to change for the rest."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import uuid4

import typer
from attrs import asdict, evolve, frozen

from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.exits import Exit, InputError

if TYPE_CHECKING:
    from leadpost._account import Account
    from leadpost._poster import AsyncActivityPoster

# What the command needs is imported where it is used, so that --help is quick.
# ruff: noqa: PLC0415

NOTE = "A test by leadpost doctor, to be deleted"
_HOST = "check LEADPOST_REGION or LEADPOST_HOST"
_RIVAL_PATH = "/activity/status"
_COLOURS = {"ok": "green", "failed": "red", "unknown": "yellow"}
Ask = Callable[["AsyncActivityPoster"], Awaitable[object]]


@frozen
class Check:
    """
    One line of the diagnosis.

    Attributes:
        name: What was checked.
        verdict: `ok`, `failed`, or `unknown` where the answer says neither.
        meaning: What that means, and LeadSquared's answer.
        remedy: What to do, "" if nothing.
    """

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
    limit: options.Limit = LIMIT,
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
    from rich.console import Console

    from leadpost._models import Activity
    from leadpost._responses import redactor
    from leadpost.cli.account import read_account
    from leadpost.cli.connect import bucket_of
    from leadpost.cli.console import is_interactive, logged
    from leadpost.cli.outbox_url import url_of

    account = read_account(env_file)
    activity = None if lead is None else Activity(lead, event, NOTE)
    if activity is not None and not yes:
        if not is_interactive():
            raise InputError("there is no terminal to ask at: add --yes to post the test")
        typer.confirm(f"Post a test activity of type {event} on lead {lead}?", err=True, abort=True)
    shown = redactor(account.secrets)

    async def diagnose() -> list[Check]:
        from leadpost._poster import AsyncActivityPoster
        from leadpost._retry import RetryPolicy
        from leadpost._transport import new_client

        found: list[Check] = []
        retry = RetryPolicy(max_attempts=1, max_time=30)
        bucket = bucket_of(url_of(outbox), limit)
        async with (
            new_client(account) as client,
            AsyncActivityPoster(account, client=client, bucket=bucket, retry=retry) as poster,
        ):

            def other(**changes: Any) -> AsyncActivityPoster:
                # The bucket is open already; the account's hosts are settled.
                changed = evolve(account, region=None, **changes)
                return AsyncActivityPoster(changed, client=client, bucket=bucket, retry=retry)

            found.extend([check async for check in _checks(account, poster, other)])
            if activity is not None and all(c.verdict != "failed" for c in found):
                found.extend([check async for check in _test(poster, activity, timeout)])
        return [evolve(c, meaning=" ".join(shown(c.meaning).split())[:300]) for c in found]

    with logged(Console(stderr=True), verbose=verbose):
        checks = asyncio.run(diagnose())
    _show(checks, as_json=as_json)
    failed = [check for check in checks if check.verdict == "failed"]
    if any(check.name == "keys" for check in failed):
        raise typer.Exit(Exit.KEYS_REFUSED)
    raise typer.Exit(Exit.SOME_NOT if failed else Exit.ALL_ACCEPTED)


async def _checks(
    account: "Account",
    poster: "AsyncActivityPoster",
    other: "Callable[..., AsyncActivityPoster]",
) -> AsyncGenerator[Check]:
    """Ask one thing after another, as far as the answers before make sense of it."""
    from leadpost.errors import ConnectionFailed, NotFound, Unauthorized

    keys = await _keys(account, poster, other) if account.sync_host else None
    if keys is not None:
        yield keys
        if keys.verdict == "failed":
            return
    error = await _asked(poster, lambda p: p.metrics())
    match error:
        case ConnectionFailed():
            yield Check("host", "failed", f"{account.host}: {error}", _HOST)
            return
        case Unauthorized(exception_type=None, exception_message="Forbidden"):
            yield Check("x-api-key", "failed", f"refused: {error}", "correct LEADPOST_API_KEY")
            return
        case Unauthorized():
            if await _asked(other(keys_for_status=True), lambda p: p.metrics()) is None:
                meaning = "status and metrics calls are refused without AccessKey and SecretKey"
                remedy = "set LEADPOST_KEYS_FOR_STATUS=true"
                yield Check("status keys", "failed", meaning, remedy)
            else:
                yield Check("x-api-key", "failed", f"refused: {error}", "correct LEADPOST_API_KEY")
            return
        case None:
            yield Check("metrics path", "ok", account.metrics_path)
        case NotFound():
            meaning = f"{account.metrics_path} is not there: {error}"
            remedy = f"set LEADPOST_METRICS_PATH; if more is missing, {_HOST}"
            yield Check("metrics path", "failed", meaning, remedy)
        case _:
            meaning = f"no clear answer: {error}"
            yield Check("metrics path", "unknown", meaning, "try again later")
    yield await _status_path(account, poster, other)
    if account.sync_host:
        yield await _types(account, poster)
    else:
        meaning = f"not known for {account.host}; needed by `types`, `reconcile` and `post_sync`"
        yield Check("sync host", "unknown", meaning, "set LEADPOST_SYNC_HOST")


async def _keys(
    account: "Account",
    poster: "AsyncActivityPoster",
    other: "Callable[..., AsyncActivityPoster]",
) -> Check | None:
    """Ask whose keys these are; None if their host cannot be asked, which another check says."""
    from leadpost.errors import ConnectionFailed, NotFound, Unauthorized

    error = await _asked(poster, lambda p: p.user())
    match error:
        case None:
            return Check("keys", "ok", f"{account.sync_host} takes them")
        case ConnectionFailed() | NotFound():
            return None
        case Unauthorized():
            way = "headers" if account.keys_in == "query" else "query"
            if await _asked(other(keys_in=way), lambda p: p.user()) is None:
                meaning = f"taken in the {way}, refused in the {account.keys_in}"
                return Check("keys", "failed", meaning, f"set LEADPOST_KEYS_IN={way}")
            remedy = f"correct LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY, or {_HOST}"
            return Check("keys", "failed", f"refused: {error}", remedy)
        case _:
            return Check("keys", "unknown", f"no clear answer: {error}", "try again later")


async def _status_path(
    account: "Account",
    poster: "AsyncActivityPoster",
    other: "Callable[..., AsyncActivityPoster]",
) -> Check:
    """Ask for a request that never was: LeadSquared's own word that it is unknown will do."""
    from leadpost.errors import ApplicationError, BadRequest, NotFound, UnexpectedAnswer

    def known(error: object) -> bool:
        return error is None or isinstance(error, ApplicationError | BadRequest)

    request_id = str(uuid4())
    error = await _asked(poster, lambda p: p.status(request_id))
    if known(error):
        return Check("status path", "ok", account.status_path)
    meaning = f"{account.status_path}: {error}"
    if isinstance(error, NotFound | UnexpectedAnswer):
        rival = other(status_path=_RIVAL_PATH)
        if known(await _asked(rival, lambda p: p.status(request_id))):
            return Check(
                "status path", "failed", meaning, f"set LEADPOST_STATUS_PATH={_RIVAL_PATH}"
            )
        return Check("status path", "failed", meaning, "set LEADPOST_STATUS_PATH")
    return Check("status path", "unknown", meaning, "try again later")


async def _types(account: "Account", poster: "AsyncActivityPoster") -> Check:
    from leadpost.errors import ConnectionFailed, NotFound, Unauthorized

    error = await _asked(poster, lambda p: p.activity_types())
    if error is None:
        return Check("sync host", "ok", f"{account.sync_host} lists the activity types")
    is_wrong = isinstance(error, ConnectionFailed | NotFound | Unauthorized)
    remedy = "correct LEADPOST_SYNC_HOST" if is_wrong else "try again later"
    meaning = f"{account.sync_host}: {error}"
    return Check("sync host", "failed" if is_wrong else "unknown", meaning, remedy)


async def _test(
    poster: "AsyncActivityPoster", activity: Any, patience: float
) -> AsyncGenerator[Check]:
    from leadpost._outcomes import StatusTimeout
    from leadpost.errors import DeliveryUncertain, LeadpostError

    try:
        request_id = await poster.post(activity)
    except LeadpostError as error:
        in_doubt = isinstance(error, DeliveryUncertain)
        remedy = "look at the lead" if in_doubt else ""
        yield Check("test activity", "unknown" if in_doubt else "failed", str(error), remedy)
        return
    yield Check("test activity", "ok", f"accepted, RequestID {request_id}")
    later = f"ask later: leadpost status {request_id}"
    try:
        status = await poster.wait(request_id, patience)
    except StatusTimeout as error:
        yield Check("its status", "unknown", str(error), later)
    except LeadpostError as error:
        yield Check("its status", "failed", str(error), later)
    else:
        is_there = status.state == "succeeded"
        meaning = status.activity_id or status.status_reason or status.status
        yield Check("its status", "ok" if is_there else "failed", f"{status.state}: {meaning}")


async def _asked(poster: "AsyncActivityPoster", ask: Ask) -> Exception | None:
    """Return the error of a question, None if it was answered."""
    from leadpost.errors import LeadpostError

    try:
        await ask(poster)
    except LeadpostError as error:
        return error
    return None


def _show(checks: list[Check], *, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in checks:
        said = Text(check.meaning)
        if check.remedy:
            said.append(f"\n→ {check.remedy}", style="bold")
        table.add_row(Text(check.verdict, style=_COLOURS[check.verdict]), check.name, said)
    Console().print(table)
