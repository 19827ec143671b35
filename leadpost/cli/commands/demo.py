"""`leadpost demo`: sample activities posted to a sandbox, without keys or network."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid5

import typer
from rich.console import Console
from rich.table import Table

from leadpost import Activity, AsyncActivityPoster, Bucket, RequestStatus, TokenBucket
from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.console import logged
from leadpost.cli.exits import Exit
from leadpost.cli.files.sending.progress import Progress, shown
from leadpost.sandbox import Sandbox

_TIMEOUT = 60.0
_NEXT = """
What to do next:
  leadpost post FILE --dry-run   check a CSV, .xlsx or JSON file; needs no keys
  leadpost sandbox               run a stand-in for LeadSquared, to try it there
  leadpost setup                 enter your keys
  leadpost post FILE             post it"""


def demo(*, verbose: options.Verbose = False) -> None:
    """
    Post 50 sample activities to a sandbox on this machine: no keys, no network, under 30 s.

    Examples:
    - `leadpost demo`
    - `leadpost demo --verbose`
    """
    console = Console(stderr=True)
    with (
        logged(console, verbose=verbose),
        Sandbox(delay=(0.02, 0.15), idle_timeout=(4.9, 5.3)) as sandbox,
    ):
        raise typer.Exit(asyncio.run(run_demo(sandbox, TokenBucket(), console)))


def samples(count: int) -> Iterator[Activity]:
    """Yield made-up activities, each on another lead."""
    begin = datetime(2025, 1, 1, 9, tzinfo=UTC)
    for number in range(count):
        yield Activity(
            str(uuid5(NAMESPACE_URL, f"leadpost-demo:lead:{number}")),
            201,
            f"Sample activity {number + 1}",
            begin + timedelta(minutes=number),
            {"mx_Custom_1": f"sample-{number + 1}.pdf", "mx_Custom_2": str(number)},
        )


async def run_demo(sandbox: Sandbox, bucket: Bucket, console: Console, count: int = 50) -> Exit:
    """Post samples to the sandbox, wait for their final status, and print a summary."""
    began = time.monotonic()
    posts = Progress("posting", count, "the sandbox")
    posted = Counter[str]()
    posts.counts = posted
    request_ids: list[str] = []
    errors: list[BaseException] = []
    async with AsyncActivityPoster(sandbox.account(), bucket=bucket, hooks=[posts.count]) as poster:
        with shown(posts, console, quiet=False) as changed:
            async for outcome in poster.post_stream(samples(count)):
                posted[outcome.state] += 1
                if outcome.request_id is not None:
                    request_ids.append(outcome.request_id)
                if outcome.error is not None:
                    errors.append(outcome.error)
                changed()
        with console.status("asking for the status of each"):
            waits = (poster.wait(request_id, _TIMEOUT) for request_id in request_ids)
            ends = await asyncio.gather(*waits, return_exceptions=True)
    errors += [end for end in ends if isinstance(end, BaseException)]
    succeeded = sum(isinstance(end, RequestStatus) and end.state == "succeeded" for end in ends)
    if errors:
        typer.echo(f"error: {type(errors[0]).__name__}: {errors[0]}", err=True)
    report = sandbox.report()
    table = Table(show_header=False)
    for what, found in (
        ("posted", f"{count}"),
        ("accepted, with a RequestID", f"{posted['accepted']}"),
        ("refused by the sandbox", f"{report.refused}"),
        ("most calls in 5 s", f"{report.fullest_window} of {LIMIT} allowed"),
        ("status Success", f"{succeeded}"),
        ("time, status calls included", f"{time.monotonic() - began:.1f} s"),
    ):
        table.add_row(what, found)
    Console().print(table)
    typer.echo(_NEXT)
    is_fine = succeeded == count and not report.refused
    return Exit.ALL_ACCEPTED if is_fine else Exit.SOME_NOT
