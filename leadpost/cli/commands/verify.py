"""`leadpost verify`: what became of accepted activities."""

import asyncio

import typer
from rich.console import Console

from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.account import read_account
from leadpost.cli.console import counting, logged
from leadpost.cli.files.results import Query, make_query
from leadpost.cli.outbox_url import existing
from leadpost.cli.queries import querying
from leadpost.outbox import EntryState, Outbox


def verify(
    file: options.EntriesOfFile = None,
    *,
    batch: options.Batch = None,
    limit: options.Limit = LIMIT,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Ask LeadSquared about accepted activities until each has succeeded or failed.

    One call each: about the rows of a FILE, whose results and rejects are written then, or else
    about all activities of the outbox. LeadSquared may retry an activity for hours: Ctrl-C loses
    nothing, and the same command resumes. The exit code is 1 if some failed.

    Examples:
    - `leadpost verify calls.csv`
    - `leadpost verify --outbox postgresql://db.example.com/crm --json`
    """
    account, url, console = read_account(env_file), existing(outbox), Console(stderr=True)
    states: tuple[EntryState, EntryState] = ("succeeded", "failed")

    async def verifying(opened: Outbox, name: str | None) -> dict[str, int]:
        before = await opened.counts(name)

        async def found() -> dict[str, int]:
            now = await opened.counts(name)
            return {state: now[state] - before[state] for state in states}

        async def progress() -> str:
            done = sum((await found()).values())
            return f"{done:,} of {before['accepted']:,} accepted activities succeeded or failed"

        async with querying(account, url, limit) as poster, counting(console, progress):
            await opened.verify(poster, batch=name)
        return await found()

    query = Query("verify", verifying, "{succeeded:,} succeeded, {failed:,} failed", left="failed")
    with logged(console, verbose=verbose):
        made = make_query(query, file, url, account, console, batch=batch, as_json=as_json)
        raise typer.Exit(asyncio.run(made))
