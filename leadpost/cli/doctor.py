"""`leadpost doctor`: what works with this account, and which setting to change for the rest."""

import json
import sys
from collections.abc import AsyncGenerator, Iterator

import typer
from attrs import evolve, frozen

from leadpost._account import Account
from leadpost._models import Activity, RequestStatus
from leadpost._outcomes import StatusTimeout
from leadpost._poster import AsyncActivityPoster
from leadpost._responses import redactor
from leadpost._retry import RetryPolicy
from leadpost.bucket import Bucket
from leadpost.cli.doctor_calls import Findings, examine, told, varied
from leadpost.cli.doctor_verdicts import HOST, Check, Verdict, judge
from leadpost.cli.exits import Exit, InputError
from leadpost.errors import LeadpostError, Rejected

NOTE = "A test by leadpost doctor, to be deleted"

_LONGEST = 500
# Refusals (429) are waited for; after anything else nothing is posted again.
_ONE_POST = RetryPolicy(max_attempts=1, max_time=30)


@frozen
class Trial:
    """
    The activity to be posted.

    Args:
        activity: On the lead that was named.
        event: Its code, None for the first of the account's activity types.
        timeout: Seconds to wait for its status.
    """

    activity: Activity
    event: int | None
    timeout: float


def trial_on(lead_id: str, event: int | None, timeout: float) -> Trial:
    """
    Make up the activity to be posted.

    Raises:
        InvalidActivity: the lead's id is none.
    """
    return Trial(Activity(lead_id, event or 1, NOTE), event, timeout)


def confirmed(trial: Trial) -> bool:
    """
    Ask whether to post it.

    Raises:
        InputError: there is no terminal to ask at.
    """
    if not sys.stdin.isatty():
        raise InputError("--post asks before it posts, and there is no terminal to ask at: --yes")
    what = f"type {trial.event}" if trial.event else "the first type listed"
    question = f"Post a test activity of {what} on lead {trial.activity.related_prospect_id}?"
    return typer.confirm(question, err=True)


async def diagnose(account: Account, trial: Trial | None, bucket: Bucket, *, as_json: bool) -> Exit:
    """Check the account, post the trial if there is one, and print a verdict on each line."""
    checks: list[Check] = []

    def tell(check: Check) -> None:
        # No key of the account's and no line of its own, whatever the vendor's reason quotes.
        found = " ".join(redactor(account.secrets)(check.found).split())
        checks.append(evolve(check, found=found[:_LONGEST]))
        if not as_json:
            typer.echo(str(checks[-1]))

    try:
        findings = await examine(account, bucket)
        for check in judge(account, findings):
            tell(check)
        if findings.reached:
            async for check in _post(account, findings, bucket, trial):
                tell(check)
    finally:
        # What has been told is not lost to a Ctrl-C, a RequestID among it.
        if as_json:
            typer.echo(json.dumps([check.as_json() for check in checks]))
    if findings.refused:
        return Exit.KEYS_REFUSED
    if any(check.verdict is Verdict.NO and check.in_use for check in checks):
        return Exit.SOME_NOT
    if not any(check.verdict is Verdict.OK for check in checks):
        typer.echo(
            "nothing is confirmed: ask again later (with --limit, where calls were refused for"
            f" their number), or see that {HOST} is right",
            err=True,
        )
        return Exit.SOME_NOT
    return Exit.ALL_ACCEPTED


async def _post(
    account: Account, findings: Findings, bucket: Bucket, trial: Trial | None
) -> AsyncGenerator[Check]:
    """Post one activity in the way that works, and tell what becomes of it."""
    if trial is None:
        yield Check("post", Verdict.SKIPPED, "nothing is posted without --post LEAD_ID")
        return
    event = trial.event or next(iter(findings.codes), None)
    if findings.refused or event is None:
        why = "the keys are refused" if findings.refused else "no type is known: give --event CODE"
        yield Check("post", Verdict.SKIPPED, why)
        return
    activity = evolve(trial.activity, activity_event=event)
    path = findings.status_path or account.status_path
    working = varied(account, keys_in=findings.way, status_path=path)
    try:
        async with AsyncActivityPoster(working, bucket=bucket, retry=_ONE_POST) as poster:
            request_id = await poster.post(activity)
    except Rejected as error:
        yield Check("post", Verdict.NO, told(error))
        return
    except LeadpostError as error:
        what = "uncertain" if error.state == "uncertain" else "not posted"
        yield Check("post", Verdict.UNCLEAR, f"{what}: {told(error)}")
        return
    yield Check("post", Verdict.OK, f"accepted, RequestID {request_id}")
    try:
        async with AsyncActivityPoster(working, bucket=bucket) as poster:
            status = await poster.wait(request_id, trial.timeout)
    except LeadpostError as error:
        yield Check("its status", Verdict.UNCLEAR, _unfinished(error, request_id))
    else:
        for check in _ended(status):
            yield check


def _ended(status: RequestStatus) -> Iterator[Check]:
    if status.state == "failed":
        reason = status.status_reason or "without a reason"
        yield Check("its status", Verdict.NO, f"{status.status}: {reason}")
        return
    yield Check("its status", Verdict.OK, status.status)
    if status.activity_id:
        yield Check("its activity id", Verdict.OK, f"{status.activity_id}, as Message holds it")
    else:
        yield Check("its activity id", Verdict.NO, "Message holds none where it is looked for")


def _unfinished(error: LeadpostError, request_id: str) -> str:
    later = f"{told(error)}; ask later: leadpost status {request_id}"
    if isinstance(error, StatusTimeout) and error.last and error.last.state == "failed":
        return f"{later}. If it is the same 12 h later, set LEADPOST_FAILURE_IS_FINAL=true"
    return later
