"""`leadpost reconcile`: whether activities in doubt have arrived."""

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console

from leadpost import AsyncActivityPoster
from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.account import naming, read_account
from leadpost.cli.console import counting, logged
from leadpost.cli.exits import Exit
from leadpost.cli.files.looking import look
from leadpost.cli.outbox_url import existing
from leadpost.outbox import Outbox, SharedTokenBucket


def reconcile(
    file: options.MaybeFile = None,
    *,
    settle: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="How long after sending an activity may still arrive. If it is not on its lead"
            " then, it is posted again.",
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
    Look for activities in doubt among those that their leads have.

    A match proves that it arrived. No match proves nothing for the first 12 hours. What surely did
    not arrive is posted by the next run. The exit code is 1 if some stay in doubt.

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
        return f"{looked[0]:,} of {looked[1]:,} activities in doubt looked for"

    async def ask(opened: Outbox, _: str | None = None) -> dict[str, int]:
        async with AsyncActivityPoster(
            account, bucket=SharedTokenBucket(url, limit=limit)
        ) as poster:
            with naming(account, sync=True):
                async with counting(console, progress):
                    found = await opened.reconcile(poster, settle=age, on_progress=on_progress)
        return {state: found[state] for state in ("accepted", "pending", "uncertain")}

    async def ask_all() -> Exit:
        async with Outbox(url, account) as opened:
            found = await ask(opened)
        if as_json:
            typer.echo(json.dumps(found))
        else:
            typer.echo(
                f"{found['accepted']:,} have arrived, {found['pending']:,} have not and will be"
                f" posted, {found['uncertain']:,} stay in doubt"
            )
            if found["uncertain"]:
                typer.echo("See why: leadpost outbox list --state uncertain")
        return Exit.SOME_NOT if found["uncertain"] else Exit.ALL_ACCEPTED

    with logged(console, verbose=verbose):
        if file is None:
            raise typer.Exit(asyncio.run(ask_all()))
        looking = look(file, url, account, console, batch=batch, as_json=as_json, before=ask)
        raise typer.Exit(asyncio.run(looking))
