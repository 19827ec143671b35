"""`leadpost results`, `verify` and `reconcile`: what became of the rows of a file, or of all."""

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

import typer
from attrs import frozen
from rich.console import Console

from leadpost import Account
from leadpost.cli.console import say
from leadpost.cli.exits import Exit
from leadpost.cli.files.comparing.comparison import Comparison, compared
from leadpost.cli.files.comparing.ledger import Batch, Ledger
from leadpost.cli.files.comparing.options import Options
from leadpost.cli.files.reporting.outputs import Outputs
from leadpost.cli.files.reporting.showing import arguments, done_json, done_lines
from leadpost.cli.outbox_url import outbox_option
from leadpost.outbox import Outbox


@frozen
class Query:
    """A query about entries, before their results are shown."""

    command: str
    # Makes its calls, given the outbox and the name of a batch, None for all entries; returns the
    # number of entries that reached each state.
    make: Callable[[Outbox, str | None], Awaitable[Mapping[str, int]]]
    words: str  # says that; a format string
    left: str  # the state of entries that need attention


async def show_results(
    file: str,
    url: str,
    account: Account,
    console: Console,
    *,
    batch: str | None = None,
    as_json: bool = False,
    query: Query | None = None,
) -> Exit:
    """
    Make a query, if any; then write and print the results of a file that was posted before.

    Returns:
        0 if all rows were accepted, 1 if some were not.

    Raises:
        InputError: the file cannot be used, or was never posted.
    """
    command = query.command if query else "results"
    options = Options(
        command=command, path=file, url=url, batch=batch, as_json=as_json, reads_as_before=True
    )
    async with AsyncExitStack() as stack:
        found = await compared(options, account, console, stack)
        plan, ledger = found.plan, cast("Ledger", found.ledger)  # there is an account
        if query is not None:
            await query.make(ledger.outbox, found.name)
        outputs = await write_outputs(found, ledger, console)
        report(found, outputs)
        is_fine = outputs.accepted == len(plan.rows) and not outputs.has_failed
        return Exit.ALL_ACCEPTED if is_fine else Exit.SOME_NOT


async def make_query(
    query: Query,
    file: str | None,
    url: str,
    account: Account,
    console: Console,
    *,
    batch: str | None,
    as_json: bool,
) -> Exit:
    """Query a file, see `show_results`, or all entries; return 1 if some need attention."""
    if file is not None:
        return await show_results(
            file, url, account, console, batch=batch, as_json=as_json, query=query
        )
    async with Outbox(url, account) as outbox:
        found = await query.make(outbox, batch)
    if as_json:
        echo_json(found)
    else:
        typer.echo(query.words.format_map(found))
        if found[query.left]:
            command = f"leadpost outbox list --state {query.left}{outbox_option(url)}"
            typer.echo(f"See which: {command}")
    return Exit.SOME_NOT if found[query.left] else Exit.ALL_ACCEPTED


async def write_outputs(found: Comparison, ledger: Ledger, console: Console) -> Outputs:
    """Write the results and the rejects; where that fails, say how to do it later."""
    batch = cast("Batch", found.batch)  # it was posted
    outputs = Outputs(found.options.path, dict(batch.outputs))
    try:
        await outputs.write(found, ledger)
    except OSError as error:
        async for _ in outputs.counted(found.plan, ledger):
            pass
        # Windows refuses to replace a file that a spreadsheet has open.
        is_open = isinstance(error, PermissionError) and os.access(outputs.results.parent, os.W_OK)
        outputs.has_failed = not is_open
        remedy = "Close it" if is_open else "Fix that"
        say(
            console,
            f"{outputs.results} could not be written: {error.strerror}. {remedy}, then:"
            f" leadpost results {arguments(found)}",
        )
    await ledger.record_outputs(batch, outputs.written)
    return outputs


def report(
    found: Comparison, outputs: Outputs, seconds: float | None = None, *, has_failed: bool = False
) -> None:
    """Print what became of the rows, see `done_lines`."""
    if found.options.as_json:
        echo_json(done_json(found, outputs, seconds))
    else:
        typer.echo("\n".join(done_lines(found, outputs, seconds, has_failed=has_failed)))


def echo_json(record: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(record, ensure_ascii=False))
