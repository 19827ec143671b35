"""`leadpost post`: check a file, post it, say what became of it."""

import json
from contextlib import ExitStack
from typing import Any, Literal

import typer
from attrs import frozen
from rich.console import Console

from leadpost.account import Account
from leadpost.bucket import Bucket
from leadpost.cli.check import Check, checked, duration, number_of, spoken
from leadpost.cli.exits import Exit
from leadpost.cli.keys import where_to_look
from leadpost.cli.outputs import Outputs, RowsFile
from leadpost.cli.progress import shown
from leadpost.cli.rows import Input
from leadpost.cli.run import Run
from leadpost.cli.tally import CountedBucket, Tally
from leadpost.errors import ConnectionFailed, NotFound, Unauthorized
from leadpost.limit import LIMIT, PERIOD
from leadpost.poster import AsyncActivityPoster

STATES = ("accepted", "rejected", "uncertain", "failed")


@frozen(kw_only=True)
class How:
    """
    How to post.

    Attributes:
        limit: Calls per 5 s.
        on_uncertain: What to do about a post that may have arrived.
        skip_invalid: Whether the good rows are posted although there are bad ones.
        as_json: Whether standard output gets JSON.
    """

    limit: int = LIMIT
    on_uncertain: Literal["raise", "retry"] = "raise"
    skip_invalid: bool = False
    as_json: bool = False


def check_file(source: Input, console: Console) -> Check:
    """Check all rows and list the bad ones."""
    with ExitStack() as stack:
        if console.is_terminal:
            stack.enter_context(console.status(f"checking {source.name}"))
        check = checked(source.rows())
    for line in check.lines():
        typer.echo(line, err=True)
    return check


def tell_check(check: Check, source: Input, how: How, *, dry_run: bool) -> None:
    """Print what a check found and how long posting would take, on standard output."""
    if how.as_json:
        typer.echo(json.dumps(check.as_json(how.limit)))
        return
    time = spoken(duration(check.good, how.limit))
    rows = number_of(check.rows, "row")
    typer.echo(f"{source.name}: {rows}, {check.good} good, {check.bad} bad")
    typer.echo(f"posting {check.good} takes about {time} at {how.limit} calls per {PERIOD:g} s")
    if not dry_run:
        typer.echo("nothing was sent: correct the bad rows, or --skip-invalid posts the others")


def exit_of_check(check: Check, how: How) -> Exit:
    """Give the exit code of a check alone."""
    if not check.bad:
        return Exit.ALL_ACCEPTED
    return Exit.SOME_NOT if how.skip_invalid else Exit.BAD_INPUT


async def post_file(
    source: Input,
    outputs: Outputs,
    account: Account,
    total: int,
    *,
    how: How,
    bucket: Bucket,
    console: Console,
) -> Exit:
    """
    Post the rows of an input and print what became of them.

    Args:
        source: The input.
        outputs: Where to record it.
        account: Where to post.
        total: How many rows there are.
        how: Options.
        bucket: The limit.
        console: Where to show progress.

    Returns:
        The exit code.
    """
    counted = CountedBucket(bucket)
    tally = Tally(source.name, total, STATES, lambda: counted.calls, how.limit)
    poster = AsyncActivityPoster(account, bucket=counted, on_uncertain=how.on_uncertain)

    def stopping() -> None:
        console.print(
            "stopping: waiting for the calls under way; Ctrl-C again stops at once",
            highlight=False,
        )

    with outputs:
        with shown(tally, console) as changed:
            run = Run(source, outputs, tally, changed, stopping)
            async with poster:
                await run.post(poster)
        _tell_errors(tally, run, account)
        _tell(source, outputs, tally, run, how)
    return _exit_of(run, tally)


def _exit_of(run: Run, tally: Tally) -> Exit:
    if run.interrupted:
        return Exit.INTERRUPTED
    if Unauthorized in run.errors:
        return Exit.KEYS_REFUSED
    all_accepted = tally.counts["accepted"] == tally.done and run.failure is None
    return Exit.ALL_ACCEPTED if all_accepted else Exit.SOME_NOT


def _not_sent(tally: Tally) -> int:
    return tally.total - tally.done + tally.counts["not_sent"]


def _tell_errors(tally: Tally, run: Run, account: Account) -> None:
    """Say on standard error what ended the run, and what the rows are not to blame for."""
    where = where_to_look(account, "LEADPOST_SUBMIT_PATH")
    if run.interrupted:
        left = _not_sent(tally)
        typer.echo(f"interrupted: {left} of {tally.total} rows were not sent", err=True)
    if Unauthorized in run.errors:
        typer.echo("error: the keys were refused; nothing more was sent", err=True)
    if (wrong := run.errors.get(NotFound)) is not None:
        typer.echo(f"error: the URL is wrong; nothing more was sent: {wrong} {where}", err=True)
    if (failed := run.errors.get(ConnectionFailed)) is not None:
        typer.echo(f"error: a connection failed: {failed} {where}", err=True)
    if run.failure is not None:
        typer.echo(f"error: the results could not be written: {run.failure}", err=True)
        typer.echo("\n".join(["not in the results:", *run.unrecorded]), err=True)


def _tell(source: Input, outputs: Outputs, tally: Tally, run: Run, how: How) -> None:
    if how.as_json:
        typer.echo(json.dumps(_summary(outputs, tally, run)))
        return
    rows = number_of(tally.total, "row")
    typer.echo(f"{source.name}: {rows} in {spoken(tally.elapsed)}: {tally.told()}")
    typer.echo(f"results:   {outputs.results}")
    for name, file, hint in (
        ("rejects:  ", outputs.rejects, f"not through: {_what_to_do(outputs)}"),
        ("uncertain:", outputs.uncertain, "may have arrived: look before posting them again"),
    ):
        if file.count:
            typer.echo(f"{name} {file.path} ({file.count} {hint})")


def _what_to_do(outputs: Outputs) -> str:
    correct, later = outputs.to_correct, outputs.rejects.count - outputs.to_correct
    parts = (
        f"{correct} to correct and post again" if correct else "",
        f"{later} to post again later, nothing to correct" if later else "",
    )
    return "; ".join(part for part in parts if part)


def _summary(outputs: Outputs, tally: Tally, run: Run) -> dict[str, Any]:
    return {
        "rows": tally.total,
        **{state: tally.counts[state] for state in STATES},
        "not_sent": _not_sent(tally),
        "seconds": round(tally.elapsed, 3),
        "interrupted": run.interrupted,
        "results": str(outputs.results),
        "rejects": _path(outputs.rejects),
        "uncertain_rows": _path(outputs.uncertain),
    }


def _path(file: RowsFile) -> str | None:
    return str(file.path) if file.count else None
