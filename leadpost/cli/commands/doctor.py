"""`leadpost doctor`: what works with this account, and which setting to change for the rest."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from leadpost import Account, Activity, AsyncActivityPoster, StatusTimeout, errors
from leadpost.cli import options
from leadpost.cli.account import read_account
from leadpost.cli.console import is_interactive, logged
from leadpost.cli.diagnosis import ONCE, Check, diagnose, exit_code, show
from leadpost.cli.exits import InputError
from leadpost.cli.outbox_url import url_of
from leadpost.outbox import SharedTokenBucket

_ASSUMED = (
    Check("submit path", "unknown", "only a post shows it: --post", "", "LEADPOST_SUBMIT_PATH"),
    Check("FAILURE", "unknown", "may still change", "", "LEADPOST_FAILURE_IS_FINAL"),
)
"""What the checks cannot show."""
_PATIENCE = 60.0
"""Seconds to wait for the status of a test activity."""


def doctor(
    *,
    lead: Annotated[
        str | None,
        typer.Option("--post", metavar="LEAD_ID", help="Post a test activity on this lead too."),
    ] = None,
    event: Annotated[
        int, typer.Option(min=1, metavar="CODE", help="The activity type of this test.")
    ] = 201,
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
    activity = lead and Activity(lead, event, "A test by leadpost doctor, to be deleted")
    if activity and not yes:
        _confirm(f"Post a test activity of type {event} on lead {lead}?")

    async def checked() -> list[Check]:
        found = await diagnose(account, outbox)
        if activity and not exit_code(found):
            found += await _tested(account, outbox, activity)
        return found

    with logged(Console(stderr=True), verbose=verbose):
        checks = asyncio.run(checked())
    if not exit_code(checks):
        shown = {check.name for check in checks}
        checks += [check for check in _ASSUMED if check.name not in shown]
    show(checks, as_json=as_json)
    raise typer.Exit(exit_code(checks))


def _confirm(question: str) -> None:
    if not is_interactive():
        raise InputError("there is no terminal to ask at: add --yes to post the test")
    if not typer.confirm(question, err=True):
        raise InputError("nothing was posted and nothing was checked")


async def _tested(account: Account, outbox: str | None, activity: Activity) -> list[Check]:
    """Post a test activity and follow it."""
    bucket = SharedTokenBucket(url_of(outbox))
    async with AsyncActivityPoster(account, bucket=bucket, retry=ONCE) as poster:
        try:
            request_id = await poster.post(activity)
        except errors.DeliveryUncertain as error:
            return [Check("test activity", "unknown", str(error), "look at the lead")]
        except errors.LeadpostError as error:
            return [Check("test activity", "failed", str(error))]
        found = [
            Check("submit path", "ok", account.submit_path, "", "LEADPOST_SUBMIT_PATH"),
            Check("test activity", "ok", f"accepted, RequestID {request_id}"),
        ]
        later = f"ask later: leadpost status {request_id}"
        try:
            status = await poster.wait(request_id, _PATIENCE)
        except StatusTimeout as error:
            return [*found, Check("its status", "unknown", str(error), later)]
        except errors.LeadpostError as error:
            return [*found, Check("its status", "failed", str(error), later)]
    meaning = f"{status.state}: {status.activity_id or status.status_reason or status.status}"
    return [*found, Check("its status", "ok" if status.state == "succeeded" else "failed", meaning)]
