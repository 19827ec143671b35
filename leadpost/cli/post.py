"""`leadpost post`: check a file, post it, say what became of it."""

import json
import signal
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any, Literal

import typer
from attrs import frozen
from rich.console import Console

from leadpost._account import Account
from leadpost._poster import AsyncActivityPoster
from leadpost.bucket import LIMIT, PERIOD
from leadpost.cli.check import Check, checked, duration, number_of, spoken
from leadpost.cli.exits import Exit, InputError, told
from leadpost.cli.file_entries import FileEntries
from leadpost.cli.keys import where_to_look
from leadpost.cli.outbox_url import is_missing, shown_url, url_of
from leadpost.cli.outputs import Outputs, RowsFile
from leadpost.cli.progress import busy, shown
from leadpost.cli.results import bad_in
from leadpost.cli.rows import Input
from leadpost.cli.run import Run
from leadpost.cli.tally import CountedBucket, Tally
from leadpost.errors import (
    ConnectionFailed,
    LeadpostError,
    NotFound,
    OutageTimeout,
    Unauthorized,
)
from leadpost.outbox import Outbox, SharedTokenBucket

_STOPPING = "stopping: waiting for the calls under way; Ctrl-C again stops at once"
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
        force: Whether results of which the outbox knows nothing are replaced.
    """

    limit: int = LIMIT
    on_uncertain: Literal["raise", "retry"] = "raise"
    skip_invalid: bool = False
    as_json: bool = False
    force: bool = False


def check_file(source: Input, outputs: Outputs, console: Console, *, force: bool) -> Check:
    """Check all rows, list the bad ones, and say what was assumed."""
    with busy(console, f"checking {source.name}"), closing(outputs.last()) as last:
        check = checked(source.rows(), iter(()) if force else last)
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
        typer.echo(
            "this run sends nothing: correct the bad rows, or --skip-invalid posts the others"
        )


def exit_of_check(check: Check, how: How) -> Exit:
    """Give the exit code of a check alone."""
    if not check.bad:
        return Exit.ALL_ACCEPTED
    return Exit.SOME_NOT if how.skip_invalid else Exit.BAD_INPUT


async def post_file(
    source: Input,
    outputs: Outputs,
    url: str,
    account: Account,
    check: Check,
    *,
    rejects_of: Path | None,
    how: How,
    bucket: SharedTokenBucket,
    console: Console,
) -> Exit:
    """
    Post the rows of an input through an outbox, and print what became of them.

    Args:
        source: The input.
        outputs: Where the results go.
        url: The outbox.
        account: Where to post.
        check: What the check of the input found.
        rejects_of: The input that the rows are of, where they are its rejects.
        how: Options.
        bucket: The limit, not entered yet.
        console: Where to show progress.

    Returns:
        The exit code.

    Raises:
        InputError: rows that got through were changed since, or results would be overwritten.
        OutboxError: the outbox cannot be used.
    """
    name = Path(rejects_of or outputs.base).name
    if is_missing(url):  # a run that is refused leaves none
        if rejects_of is not None:
            raise InputError(f"{shown_url(url)}: there is no such outbox")
        outputs.begin(name, known=False, force=how.force)
    counted = CountedBucket(bucket)
    poster = AsyncActivityPoster(account, bucket=counted, on_uncertain=how.on_uncertain)
    async with Outbox(url) as outbox:
        identity = await outbox.identity()
        are_rejects = rejects_of is not None
        latest = bad_in(Path(f"{rejects_of}.results.csv")) if are_rejects else {}
        entries = FileEntries(
            outbox, identity, source, name, are_rejects=are_rejects, latest=latest
        )
        with busy(console, f"putting {source.name} into the outbox"):
            known = are_rejects or any((await entries.counts()).values())
            outputs.begin(name, known=known, force=how.force)
            with closing(outputs.last()) as last:
                first = await entries.compare(last, _new_names(outputs, url))
            await entries.put(first)
        if entries.in_doubt:
            doubt = number_of(entries.in_doubt, "row")
            _say(console, f"{doubt} posted again that may have arrived, as the file asks for")
        if entries.corrected and not are_rejects:
            _say(console, f"{number_of(entries.corrected, 'row')} corrected since an earlier run")
        tally = Tally(source.name, check.rows, STATES, lambda: counted.calls, how.limit)
        run = Run(outbox, entries, check.rows, tally, shown_url(url))
        await run.look()
        tally.before = tally.done
        if known and not are_rejects:
            _say(console, f"going on: {tally.done} of {tally.total} rows were done before")
        async with bucket, poster:
            with shown(tally, console) as changed:
                await run.post(poster, changed, lambda: _say(console, _STOPPING))
            await poster.aclose(grace=0)  # its calls were waited for
        await _write(outputs, entries)
    _tell_errors(outputs, run, account)
    _tell(source, outputs, tally, run, as_json=how.as_json)
    return _exit_of(outputs, run)


def _new_names(outputs: Outputs, url: str) -> str:
    """Say how a new file that has the name of an old one is posted."""
    advice = "--output-base NAME"
    outbox = Path(f"{outputs.base}.outbox.db")
    if url == url_of(str(outbox)):  # any other may have more than this file's rows
        old = [str(path) for path in (outbox, *outputs.paths) if path.exists()]
        advice += f", or move {' and '.join(old)} away"
    return advice


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


async def _write(outputs: Outputs, entries: FileEntries) -> None:
    try:
        async with aclosing(entries.rows()) as rows:
            await outputs.write(rows, entries.more)
    except OSError as error:
        raise InputError(
            f"the results could not be written: {told(error)}; the outbox has all of them:"
            " run the same command again"
        ) from error


def _exit_of(outputs: Outputs, run: Run) -> Exit:
    if run.signal is not None:
        return Exit.INTERRUPTED if run.signal is signal.SIGINT else Exit.TERMINATED
    if isinstance(run.error, Unauthorized):
        return Exit.KEYS_REFUSED
    left = outputs.counts.total() - outputs.counts["accepted"]
    return Exit.SOME_NOT if left else Exit.ALL_ACCEPTED


def _tell_errors(outputs: Outputs, run: Run, account: Account) -> None:
    """Say on standard error what ended the run, and what the rows are not to blame for."""
    if run.signal is not None:
        counts = outputs.counts
        left = f"{counts['not_sent']} of {counts.total()} rows were not sent"
        typer.echo(f"interrupted: {left}", err=True)
    match run.error:
        case Unauthorized():
            what = "the keys were refused; nothing more was sent; leadpost doctor tells which"
            typer.echo(f"error: {what}", err=True)
        case NotFound():
            what = f"the URL is wrong; nothing more was sent: {run.error}"
            typer.echo(f"error: {what}", err=True)
        case ConnectionFailed():
            where = where_to_look(account)
            typer.echo(f"error: a connection failed: {run.error} {where}", err=True)
        case OutageTimeout():
            what = str(run.error).removesuffix("; nothing was sent")
            typer.echo(f"error: {what}; nothing more was sent", err=True)
        case LeadpostError():
            typer.echo(f"error: {run.error}", err=True)
        case _:
            pass


def _tell(source: Input, outputs: Outputs, tally: Tally, run: Run, *, as_json: bool) -> None:
    counts = outputs.counts
    if as_json:
        typer.echo(json.dumps(_summary(outputs, tally, run)))
        return
    rows = number_of(counts.total(), "row")
    states = ", ".join(f"{counts[state]} {state}" for state in STATES)
    typer.echo(f"{source.name}: {rows} in {spoken(tally.elapsed)}: {states}")
    typer.echo(f"results:   {outputs.results}")
    for name, part, what, hint in (
        ("rejects:  ", outputs.rejects, "not through", _what_to_do(outputs)),
        ("uncertain:", outputs.uncertain, "may have arrived", _how_to_look(run)),
    ):
        if part.count:
            typer.echo(f"{name} {part.path} ({part.count} {what}: {hint})")
    typer.echo(f"outbox:    {run.store}")
    if lost := counts["pruned"]:
        typer.echo(f"{number_of(lost, 'row')} pruned meanwhile: what became of them is not known")
    if left := counts["not_sent"]:
        rows = number_of(left, "row")
        typer.echo(f"{rows} not sent: run the same command again to go on where it stopped")


def _how_to_look(run: Run) -> str:
    return f"leadpost reconcile --outbox {run.store}, then the same command again"


def _what_to_do(outputs: Outputs) -> str:
    correct, later = outputs.to_correct, outputs.rejects.count - outputs.to_correct
    parts = (
        f"{correct} to correct" if correct else "",
        f"{later} good as they are" if later else "",
    )
    when = "then" if correct else "later"
    return f"{', '.join(part for part in parts if part)}; {when} post this file"


def _summary(outputs: Outputs, tally: Tally, run: Run) -> dict[str, Any]:
    counts = outputs.counts
    return {
        "rows": counts.total(),
        **{state: counts[state] for state in (*STATES, "not_sent")},
        "seconds": round(tally.elapsed, 3),
        "interrupted": run.signal is not None,
        "results": str(outputs.results),
        "rejects": _path(outputs.rejects),
        "uncertain_rows": _path(outputs.uncertain),
        "outbox": run.store,
    }


def _path(file: RowsFile) -> str | None:
    return str(file.path) if file.count else None
