"""`leadpost reconcile`: whether uncertain activities have arrived."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.account import read_account
from leadpost.cli.console import counting, logged
from leadpost.cli.files.results import Query, make_query
from leadpost.cli.outbox_url import existing
from leadpost.cli.queries import querying
from leadpost.outbox import Outbox


def reconcile(
    file: options.ResultsOfFile = None,
    *,
    settle: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="How long an activity may take to arrive. If it is not on its lead after that, it"
            " is posted again.",
        ),
    ] = "12h",
    batch: options.Batch = None,
    limit: options.Limit = LIMIT,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Look for uncertain activities on their leads.

    A match proves that an activity arrived. No match proves nothing for the first 12 hours; after
    that, the next run posts it again. All uncertain activities of the outbox are looked for, as one
    may be taken for another. With a FILE, its results and rejects are also written. The exit code
    is 1 if some stay uncertain.

    Examples:
    - `leadpost reconcile calls.csv`
    - `leadpost reconcile --settle 24h`
    """
    account, url, console = read_account(env_file), existing(outbox), Console(stderr=True)
    age = options.span(settle)
    looked = [0, 0]

    def on_progress(done: int, total: int) -> None:
        looked[:] = done, total

    async def progress() -> str:
        return f"looked for {looked[0]:,} of {looked[1]:,} uncertain activities"

    async def reconciling(opened: Outbox, _: str | None) -> dict[str, int]:
        opening = querying(account, url, limit, sync=True)
        async with opening as poster, counting(console, progress):
            found = await opened.reconcile(poster, settle=age, on_progress=on_progress)
        return {state: found[state] for state in ("succeeded", "pending", "uncertain")}

    words = "{succeeded:,} arrived, {pending:,} did not and will be posted again, {uncertain:,}"
    query = Query("reconcile", reconciling, f"{words} uncertain", left="uncertain")
    with logged(console, verbose=verbose):
        made = make_query(query, file, url, account, console, batch=batch, as_json=as_json)
        raise typer.Exit(asyncio.run(made))
