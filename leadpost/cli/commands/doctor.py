"""`leadpost doctor`: what works with this account, and which setting to change for the rest."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from leadpost import Activity, AsyncActivityPoster, StatusTimeout, errors
from leadpost.cli import options
from leadpost.cli.account import read_account
from leadpost.cli.console import is_interactive, logged
from leadpost.cli.diagnosis import Check, diagnose, show
from leadpost.cli.exits import Exit, InputError

_ASSUMED = (
    Check("submit path", "unknown", "only a post shows it: --post", "", "LEADPOST_SUBMIT_PATH"),
    Check("FAILURE", "unknown", "may still change", "", "LEADPOST_FAILURE_IS_FINAL"),
)
"""What the checks cannot show."""


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
    The exit code is 1 if a check failed, 3 if the keys are rejected.

    Examples:
    - `leadpost doctor`
    - `leadpost doctor --post 00727844-51aa-11e2-9e64-12314004ac6b --event 201`
    """
    account = read_account(env_file)
    note = "A test by leadpost doctor, to be deleted"
    activity = None if lead is None else Activity(lead, event, note)
    if activity is not None and not yes:
        _confirm(f"Post a test activity of type {event} on lead {lead}?")
    more = None if activity is None else partial(_test, activity, timeout)
    with logged(Console(stderr=True), verbose=verbose):
        checks = asyncio.run(diagnose(account, outbox, more))
    failed = {check.name for check in checks if check.is_failed}
    if not failed:
        shown = {check.name for check in checks}
        checks += [check for check in _ASSUMED if check.name not in shown]
    show(checks, as_json=as_json)
    if failed & {"keys", "x-api-key"}:
        raise typer.Exit(Exit.KEYS_REJECTED)
    raise typer.Exit(Exit.SOME_NOT if failed else Exit.ALL_ACCEPTED)


def _confirm(question: str) -> None:
    if not is_interactive():
        raise InputError("there is no terminal to ask at: add --yes to post the test")
    if not typer.confirm(question, err=True):
        raise InputError("nothing was posted and nothing was checked")


async def _test(
    activity: Activity, patience: float, poster: AsyncActivityPoster
) -> AsyncGenerator[Check]:
    """Post a test activity and follow it."""
    try:
        request_id = await poster.post(activity)
    except errors.DeliveryUncertain as error:
        yield Check("test activity", "unknown", str(error), "look at the lead")
        return
    except errors.LeadpostError as error:
        yield Check("test activity", "failed", str(error))
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
