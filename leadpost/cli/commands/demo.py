"""`leadpost demo`: the whole way through against the sandbox, without keys or network."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import typer
from attrs import asdict, frozen
from rich.console import Console
from rich.table import Table

from leadpost import Activity, AsyncActivityPoster
from leadpost.bucket import Bucket, TokenBucket
from leadpost.cli import options
from leadpost.cli.console import logged
from leadpost.cli.exits import Exit
from leadpost.cli.files.progress import Progress, shown
from leadpost.errors import LeadpostError
from leadpost.sandbox import Sandbox

COUNT = 50
_TIMEOUT = 60.0

NEXT = """
What to do next:
  leadpost post FILE --dry-run   check a CSV, .xlsx or JSON file; needs no keys
  leadpost sandbox               a place to post it for trial
  leadpost setup                 enter the keys of your account
  leadpost post FILE             post it"""


def demo(*, as_json: options.Json = False, verbose: options.Verbose = False) -> None:
    """
    Post 50 sample activities to a sandbox on this machine: no keys, no network, under 30 s.

    Examples:
    `leadpost demo`

    `leadpost demo --json`
    """
    console = Console(stderr=True)
    with (
        logged(console, verbose=verbose),
        Sandbox(delay=(0.02, 0.15), idle_timeout=(4.9, 5.3)) as sandbox,
    ):
        summary = asyncio.run(run_demo(sandbox, TokenBucket(), console))
    show(summary, as_json=as_json)
    raise typer.Exit(summary.exit)


@frozen
class DemoSummary:
    """
    What the demo came to.

    Attributes:
        posted: Activities posted.
        accepted: Those that got a RequestID.
        refused: Calls that the sandbox refused as over the limit.
        fullest_window: The most calls in any 5 s.
        limit: The most that are allowed.
        succeeded: Activities whose status came to be Success.
        seconds: How long it took.
        error: The first error, None if there was none.
    """

    posted: int
    accepted: int
    refused: int
    fullest_window: int
    limit: int
    succeeded: int
    seconds: float
    error: str | None = None

    @property
    def exit(self) -> Exit:
        all_well = self.succeeded == self.accepted == self.posted and not self.refused
        return Exit.ALL_ACCEPTED if all_well else Exit.SOME_NOT


def samples(count: int) -> Iterator[Activity]:
    """Make up activities, each on a lead of its own."""
    begin = datetime(2025, 1, 1, 9, tzinfo=UTC)
    for number in range(count):
        yield Activity(
            str(uuid5(NAMESPACE_URL, f"leadpost-demo:lead:{number}")),
            201,
            f"Sample activity {number + 1}",
            begin + timedelta(minutes=number),
            {"mx_Custom_1": f"sample-{number + 1}.pdf", "mx_Custom_2": str(number)},
        )


async def run_demo(
    sandbox: Sandbox, bucket: Bucket, console: Console, count: int = COUNT
) -> DemoSummary:
    """Post samples to the sandbox and wait until their status is final."""
    began = time.monotonic()
    posts = Progress("posting", count, "the sandbox")
    statuses = Progress("asking for the status", 0, "the sandbox", calls="status")
    request_ids: list[str] = []
    errors: list[LeadpostError] = []
    posted, ended = Counter[str](), Counter[str]()
    posts.counts, statuses.counts = posted, ended
    hooks = [posts.hear, statuses.hear]
    async with AsyncActivityPoster(sandbox.account(), bucket=bucket, hooks=hooks) as poster:
        with shown(posts, console, quiet=False) as changed:
            async for outcome in poster.post_stream(samples(count)):
                posted[outcome.state] += 1
                if outcome.request_id is not None:
                    request_ids.append(outcome.request_id)
                if outcome.error is not None:
                    errors.append(outcome.error)
                changed()

        async def end_of(request_id: str) -> str:
            try:
                return (await poster.wait(request_id, _TIMEOUT)).state
            except LeadpostError as error:
                errors.append(error)
                return "failed"

        statuses.total = len(request_ids)
        with shown(statuses, console, quiet=False) as changed:
            for ending in asyncio.as_completed(map(end_of, request_ids)):
                ended[await ending] += 1
                changed()
    report = sandbox.report()
    return DemoSummary(
        posted=count,
        accepted=posted["accepted"],
        refused=report.refused,
        fullest_window=report.fullest_window,
        limit=25,
        succeeded=ended["succeeded"],
        seconds=round(time.monotonic() - began, 1),
        error=f"{type(errors[0]).__name__}: {errors[0]}" if errors else None,
    )


def show(summary: DemoSummary, *, as_json: bool) -> None:
    """Print the summary and what to do next."""
    if summary.error is not None:
        typer.echo(f"error: {summary.error}", err=True)
    if as_json:
        record: dict[str, Any] = asdict(summary)
        typer.echo(json.dumps(record))
        return
    table = Table(show_header=False)
    table.add_row("posted", str(summary.posted))
    table.add_row("accepted, with a RequestID", str(summary.accepted))
    table.add_row("refused by the sandbox", str(summary.refused))
    table.add_row("fullest 5 s", f"{summary.fullest_window} of {summary.limit} calls allowed")
    table.add_row("status Success", str(summary.succeeded))
    table.add_row("time, status calls included", f"{summary.seconds:.1f} s")
    Console().print(table)
    typer.echo(NEXT)
