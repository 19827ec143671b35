"""`leadpost work`, `verify` and `reconcile`: their options, nothing else."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from leadpost.bucket import LIMIT
from leadpost.cli.options import EnvFile, Json, Limit, Outbox, Verbose
from leadpost.cli.outbox_commands import span

# What the commands do is imported where it is done, so that --help is quick.
# ruff: noqa: PLC0415


def work_command(
    *,
    outbox: Outbox,
    no_verify: Annotated[
        bool, typer.Option("--no-verify", help="Do not ask what became of accepted activities.")
    ] = False,
    limit: Limit = LIMIT,
    env_file: EnvFile = None,
) -> None:
    """
    Post what is in an outbox and what will be put there, for ever: a worker for a service manager.

    It logs to standard error, and waits for a database that is away. SIGTERM ends it within 10 s,
    with the calls under way answered; the exit code is 0 then, or 1 if a database that hangs kept
    it from setting all down. Any number of workers may share an outbox, and they share its limit.
    """
    from leadpost.cli import work
    from leadpost.cli.keys import read_account
    from leadpost.cli.logs import logged
    from leadpost.cli.outbox_url import url_of

    account = read_account(env_file)
    with logged(Console(stderr=True, force_terminal=False), verbose=True):
        working = work.work(url_of(outbox), account, limit, verifying=not no_verify)
        raise typer.Exit(asyncio.run(working))


def verify_command(
    *,
    outbox: Outbox,
    limit: Limit = LIMIT,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """
    Ask what became of the accepted activities of an outbox, until that is known of all.

    LeadSquared may try one that failed again for hours: Ctrl-C loses nothing, and the same command
    goes on. The exit code is 0 if all succeeded, 1 if
    some failed.
    """
    from leadpost.cli import work
    from leadpost.cli.keys import read_account
    from leadpost.cli.logs import logged
    from leadpost.cli.outbox_url import url_of

    account = read_account(env_file)
    console = Console(stderr=True)
    with logged(console, verbose=verbose):
        asking = work.verify(url_of(outbox), account, limit, console, as_json=as_json)
        raise typer.Exit(asyncio.run(asking))


def reconcile_command(
    *,
    outbox: Outbox,
    settle: Annotated[
        str,
        typer.Option(
            metavar="AGE",
            help="How long after sending, such as 12h, an activity that its lead does not have can"
            " come no more, so that it is posted again.",
        ),
    ] = "12h",
    limit: Limit = LIMIT,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """
    Look among the activities of the leads for those that may have arrived.

    What is there is accepted, what surely is not is pending again, and the rest stays uncertain and
    is listed with the reason.
    The exit code is 0 if none stays so, 1 if some do.
    """
    from leadpost.cli import work
    from leadpost.cli.keys import read_account
    from leadpost.cli.logs import logged
    from leadpost.cli.outbox_url import url_of

    account = read_account(env_file)
    with logged(Console(stderr=True), verbose=verbose):
        looking = work.reconcile(url_of(outbox), account, limit, span(settle), as_json=as_json)
        raise typer.Exit(asyncio.run(looking))
