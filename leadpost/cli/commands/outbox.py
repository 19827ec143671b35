"""`leadpost outbox`: the state of an outbox, its entries, and changes by hand."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from leadpost import Account
from leadpost.cli import options, outbox_entries
from leadpost.cli.account import read_account
from leadpost.cli.exits import Exit, InputError
from leadpost.cli.files.comparing.comparison import batch_of
from leadpost.cli.files.comparing.ledger import Ledger, statements
from leadpost.cli.files.comparing.options import Options
from leadpost.cli.files.reading.opening import opened
from leadpost.cli.files.reading.own_files import input_of
from leadpost.cli.files.reading.settings import Reading
from leadpost.cli.files.sending.entries import withdraw
from leadpost.cli.outbox_url import existing, url_of
from leadpost.outbox import Outbox
from leadpost.outbox.database import ddl

State = Literal["pending", "sending", "accepted", "succeeded", "failed", "rejected", "uncertain"]
Retried = Literal["failed", "rejected", "uncertain"]
Ids = Annotated[list[int] | None, typer.Option("--id", metavar="N", help="The entry with this id.")]

app = typer.Typer(rich_markup_mode="markdown", no_args_is_help=True, add_completion=False)


@app.callback()
def outbox() -> None:
    """
    Look at an outbox, and change entries by hand.

    Examples:
    - `leadpost outbox status --watch`
    - `leadpost outbox list calls.csv --state uncertain`
    """


@app.command()
def status(
    file: options.EntriesOfFile = None,
    *,
    batch: options.Batch = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until Ctrl-C.")] = False,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
) -> None:
    """
    Show counts by state, the oldest pending entry, and whether a run or a worker is posting.

    Examples:
    - `leadpost outbox status`
    - `leadpost outbox status calls.csv --watch`
    """

    async def show(opened: Outbox) -> None:
        name = await _batch(opened, "status", file, batch, outbox)
        while True:
            await outbox_entries.show_status(opened, name, as_json=as_json)
            if not watch:
                return
            await asyncio.sleep(1)

    with suppress(KeyboardInterrupt):  # the only way to end --watch
        _with_outbox(outbox, _owner(env_file), show)


@app.command("list")
def list_(
    file: options.EntriesOfFile = None,
    *,
    batch: options.Batch = None,
    state: Annotated[State | None, typer.Option(help="Only entries in this state.")] = None,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
) -> None:
    """
    List entries, oldest first: state, age, key, lead, RequestID, error.

    Examples:
    - `leadpost outbox list --state uncertain`
    - `leadpost outbox list calls.csv --json`
    """
    states: list[State] = [state] if state else []

    async def show(opened: Outbox) -> None:
        name = await _batch(opened, "list", file, batch, outbox)
        await outbox_entries.show_entries(opened, states, name, as_json=as_json)

    _with_outbox(outbox, _owner(env_file), show)


@app.command()
def retry(
    file: options.EntriesOfFile = None,
    *,
    batch: options.Batch = None,
    state: Annotated[Retried | None, typer.Option(help="Only entries in this state.")] = None,
    ids: Ids = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Uncertain ones too: they may be posted twice.")
    ] = False,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
) -> None:
    """
    Make entries pending again: a worker, or the next run of the file, posts them.

    Examples:
    - `leadpost outbox retry calls.csv --state failed`
    - `leadpost outbox retry --id 4711 --yes`
    """
    if not (state or ids):
        raise typer.BadParameter("choose with --state or --id")
    if state == "uncertain" and not yes:
        raise InputError(
            "uncertain entries may have arrived, and would be posted twice. Check first: leadpost"
            " reconcile. To post them again anyway: --yes"
        )
    states: list[Retried] = [state] if state else ["failed", "rejected"]
    if yes and not state:
        states.append("uncertain")

    async def retrying(opened: Outbox) -> bool:
        name = await _batch(opened, "retry", file, batch, outbox)
        return await outbox_entries.retry(opened, states, ids, name)

    _with_outbox(outbox, _owner(env_file), retrying)


@app.command()
def arrived(
    keys: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="The entry with this key.")
    ] = None,
    *,
    ids: Ids = None,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
) -> None:
    """
    Record that uncertain entries have arrived, as you have seen them on their leads.

    They become `succeeded`. The exit code is 1 if some are unknown, or not uncertain.

    Examples:
    - `leadpost outbox arrived --id 4711`
    - `leadpost outbox arrived --key call-8812`
    """
    if not (keys or ids):
        raise typer.BadParameter("choose with --key or --id")
    _with_outbox(
        outbox,
        _owner(env_file),
        lambda opened: outbox_entries.arrived(opened, keys or [], ids or []),
    )


@app.command()
def prune(
    *,
    older_than: Annotated[str, typer.Option(metavar="TIME", help="Such as 30d, 12h, 90m, 5s.")],
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
) -> None:
    """
    Delete entries that succeeded, failed or were rejected longer ago than --older-than.

    Rows that were posted from files stay known, so that these can be posted again safely.

    Examples:
    - `leadpost outbox prune --older-than 30d`
    - `leadpost outbox prune --older-than 12h --outbox sandbox.db`
    """
    age = options.span(older_than)

    async def deleting(opened: Outbox) -> None:
        typer.echo(f"entries deleted: {await opened.prune(age):,}")

    _with_outbox(outbox, _owner(env_file), deleting)


@app.command()
def adopt(
    previous: Annotated[str, typer.Argument(help="Their account: its name or fingerprint.")],
    *,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
) -> None:
    """
    Take over the entries of a former access key, or of a former name of your account.

    Stop its workers first. `leadpost outbox status` shows which accounts have unfinished entries.

    Examples:
    - `leadpost outbox adopt 1f0c2a7b9d3e4f56`
    - `leadpost outbox adopt acme-staging`
    """
    own = read_account(env_file)

    async def adopting(opened: Outbox) -> None:
        ledger = Ledger(opened, own.host)
        repeated = await ledger.repeated(previous)
        withdrawn = len(repeated) - await withdraw(ledger, repeated)
        await ledger.adopt(previous)  # first, so that no entry is without its row
        count = await opened.adopt(previous)
        if withdrawn:
            typer.echo(f"unsent entries withdrawn, as your account has the same: {withdrawn:,}")
        typer.echo(f"entries of {previous} that now belong to {opened.account}: {count:,}")

    _with_outbox(outbox, own, adopting)


@app.command("account")
def account_(*, env_file: options.EnvFile = None) -> None:
    """
    Print the name of your account in an outbox: LEADPOST_ACCOUNT, or a fingerprint of its keys.

    Examples:
    - `leadpost outbox account`
    - `leadpost outbox account --env-file staging.env`
    """
    typer.echo(read_account(env_file).id)


@app.command()
def schema(dialect: Annotated[Literal["sqlite", "postgresql"], typer.Argument()]) -> None:
    """
    Print the SQL that creates the tables, those for files included, for your own migrations.

    Examples:
    - `leadpost outbox schema postgresql`
    - `leadpost outbox schema sqlite`
    """
    own = [f"{statement};\n\n" for statement in statements(dialect)]
    typer.echo(ddl(dialect) + "".join(own))


async def _batch(
    opened: Outbox, command: str, file: str | None, batch: str | None, outbox: str | None
) -> str | None:
    """Return the batch of a file's rows, or the one that was named; None for all entries."""
    if file is None:
        return batch
    ledger = Ledger(opened, "")
    own = Path(file).name
    name = batch or await batch_of(own, _keys(file), ledger)
    name = name or await ledger.last_batch(own) or await ledger.last_batch(input_of(own))
    name = name or input_of(own)
    options = Options(command=f"outbox {command}", path=file, url=url_of(outbox))
    await ledger.batch_for(options, name)
    return name


def _keys(file: str) -> list[tuple[int, str]]:
    """Return the keys of a rejects file by line; none of another file, or where there is none."""
    if Path(file).is_file():
        with suppress(InputError), opened(file) as rejects:
            return rejects.own_columns(Reading())[1]
    return []


def _owner(env_file: Path | None) -> Account | str:
    """Return whose entries are meant: a name is enough, without keys."""
    return os.environ.get("LEADPOST_ACCOUNT") or read_account(env_file)


def _with_outbox(
    url: str | None, owner: Account | str, work: Callable[[Outbox], Awaitable[bool | None]]
) -> None:
    """Do some work with an outbox; end with 1 if the work returns False."""

    async def working() -> bool | None:
        async with Outbox(existing(url), owner) as opened:
            return await work(opened)

    if asyncio.run(working()) is False:
        raise typer.Exit(Exit.SOME_NOT)
