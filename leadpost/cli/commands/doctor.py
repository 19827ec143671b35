"""`leadpost doctor`: what works with this account, and which setting to change for the rest."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Annotated

import typer
from attrs import asdict, evolve
from rich.console import Console

from leadpost import Account, Activity, AsyncActivityPoster, RetryPolicy, StatusTimeout, errors
from leadpost._responses import redactor
from leadpost._transport import new_client
from leadpost.cli import options
from leadpost.cli.account import read_account
from leadpost.cli.console import is_interactive, logged
from leadpost.cli.diagnosis import ASSUMED, Check, diagnosis
from leadpost.cli.exits import Exit, InputError
from leadpost.cli.outbox_url import url_of
from leadpost.outbox import SharedTokenBucket

_COLOURS = {"ok": "green", "failed": "red", "unknown": "yellow"}


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

    Each assumption about LeadSquared that can be set is a line. Nothing is posted without --post.
    The exit code is 1 if a check failed, 3 if the keys are refused.

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
                found = [check async for check in diagnosis(account, poster, poster_of)]
                if any(check.verdict == "failed" for check in found):
                    return found
                if activity is not None:
                    found += [check async for check in _test(poster, activity, timeout)]
        shown = {check.name for check in found}
        return found + [check for check in ASSUMED if check.name not in shown]

    with logged(Console(stderr=True), verbose=verbose):
        found = asyncio.run(diagnose())
    safe = redactor(account.secrets)
    checks = [evolve(c, meaning=" ".join(safe(c.meaning).split())[:300]) for c in found]
    _show(checks, as_json=as_json)
    failed = {check.name for check in checks if check.verdict == "failed"}
    if "keys" in failed:
        raise typer.Exit(Exit.KEYS_REFUSED)
    raise typer.Exit(Exit.SOME_NOT if failed else Exit.ALL_ACCEPTED)


def _show(checks: list[Check], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks]))
        return
    for check in checks:
        verdict = typer.style(f"{check.verdict:7}", fg=_COLOURS[check.verdict])
        setting = f" ({check.setting})" if check.setting and check.verdict != "failed" else ""
        typer.echo(f"{verdict}  {check.name:24}  {check.meaning}{setting}")
        if check.remedy:
            typer.echo(f"{'':35}→ {check.remedy}")


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
    yield Check("submit path", "ok", poster.account.submit_path, "", "LEADPOST_SUBMIT_PATH")
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
