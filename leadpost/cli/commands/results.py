"""`leadpost results`: write what became of the rows of a file."""

import asyncio

import typer
from rich.console import Console

from leadpost.cli import options
from leadpost.cli.account import read_account
from leadpost.cli.console import logged
from leadpost.cli.files.results import show_results
from leadpost.cli.outbox_url import existing


def results(
    file: options.File,
    *,
    batch: options.Batch = None,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Write FILE.results.csv and FILE.rejects.csv; post nothing.

    For a run that was stopped, or whose results could not be written as they were open elsewhere.
    The exit code is 1 if some rows were not accepted.

    Examples:
    - `leadpost results calls.csv`
    - `leadpost results daily.csv --batch 2026-11-28 --json`
    """
    account = read_account(env_file)
    console = Console(stderr=True)
    with logged(console, verbose=verbose):
        shown = show_results(file, existing(outbox), account, console, batch=batch, as_json=as_json)
        raise typer.Exit(asyncio.run(shown))
