"""`leadpost outbox` and its commands: their options, nothing else."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from leadpost.cli.exits import Exit, InputError
from leadpost.cli.options import Json, Outbox

# What the commands do is imported where it is done, so that --help is quick.
# ruff: noqa: PLC0415


State = Literal["pending", "sending", "accepted", "succeeded", "failed", "rejected", "uncertain"]
Retried = Literal["failed", "rejected", "uncertain"]

_OwnOutbox = Annotated[
    str,
    typer.Option("--outbox", metavar="URL", help="As for `leadpost outbox` itself."),
]

outbox_app = typer.Typer(rich_markup_mode="markdown")


def span(text: str) -> timedelta:
    """
    Read a length of time.

    >>> span("30d"), span("90s")
    (datetime.timedelta(days=30), datetime.timedelta(seconds=90))
    """
    units = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    found = re.fullmatch(r"([0-9]{1,6})([dhms])", text)
    if found is None:
        raise typer.BadParameter(f"found {text!r}, wanted a number and d, h, m or s, such as 30d")
    return timedelta(**{units[found[2]]: int(found[1])})


@outbox_app.callback(invoke_without_command=True)
def outbox_command(
    ctx: typer.Context,
    *,
    outbox: Outbox = "",
    watch: Annotated[bool, typer.Option("--watch", help="Every second, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """
    Show how an outbox is doing: counts by state, the oldest pending entry, calls per second, time
    left. The commands below do more.
    """
    ctx.obj = outbox
    if ctx.invoked_subcommand is not None:
        return
    from leadpost.cli import outbox_status

    url = _url(ctx, "")
    if not watch:
        asyncio.run(outbox_status.show(url, as_json=as_json))
        return
    try:
        asyncio.run(outbox_status.watch(url, as_json=as_json))
    except KeyboardInterrupt:
        return  # there is no other way to end it


@outbox_app.command("list")
def list_command(
    ctx: typer.Context,
    *,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    outbox: _OwnOutbox = "",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object on each line.")] = False,
) -> None:
    """List entries in the order of putting; the activities themselves are not shown."""
    from leadpost.cli import outbox_entries

    url = _url(ctx, outbox)
    asyncio.run(outbox_entries.tell_entries(url, [state] if state else [], as_json=as_json))


@outbox_app.command("retry")
def retry_command(
    ctx: typer.Context,
    *,
    state: Annotated[Retried | None, typer.Option(help="Only those in this state.")] = None,
    ids: Annotated[
        list[int] | None, typer.Option("--id", metavar="N", help="Only these; as listed.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Uncertain ones too, which may post them twice.")
    ] = False,
    outbox: _OwnOutbox = "",
) -> None:
    """
    Make entries pending again, for a worker or the next run of the file to post them.

    `leadpost reconcile` finds out about uncertain ones without posting.
    """
    from leadpost.cli import outbox_entries

    if not (state or ids):
        raise typer.BadParameter("give --state or --id")
    url = _url(ctx, outbox)
    asyncio.run(outbox_entries.put_back(url, state, ids or [], twice=yes))


@outbox_app.command("arrived")
def arrived_command(
    ctx: typer.Context,
    *,
    keys: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="Of this key, as in results.")
    ] = None,
    ids: Annotated[
        list[int] | None, typer.Option("--id", metavar="N", help="Of this number, as listed.")
    ] = None,
    outbox: _OwnOutbox = "",
) -> None:
    """
    Say of uncertain entries that they have arrived: you have seen them on their leads.

    They are `succeeded` then, for good. The exit code is 1 if some were not there, or not
    uncertain.
    """
    from leadpost.cli import outbox_entries

    if not (keys or ids):
        raise typer.BadParameter("give --key or --id")
    if not asyncio.run(outbox_entries.arrived(_url(ctx, outbox), keys or [], ids or [])):
        raise typer.Exit(Exit.SOME_NOT)


@outbox_app.command("export")
def export_command(
    ctx: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(dir_okay=False)],
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    outbox: _OwnOutbox = "",
) -> None:
    """Write all entries to a CSV file: ids, states and errors, not the activities themselves."""
    from leadpost.cli import outbox_entries

    if file.exists() and not force:
        raise InputError(f"{file}: there already; --force replaces")
    asyncio.run(outbox_entries.export(_url(ctx, outbox), file))


@outbox_app.command("prune")
def prune_command(
    ctx: typer.Context,
    *,
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Such as 30d, 12h, 90m, 5s.")],
    outbox: _OwnOutbox = "",
) -> None:
    """
    Delete entries that have been succeeded, failed or rejected for so long.

    Not in the outbox of a file that may be posted once more: it could not tell its rows from new
    ones, and would be refused.
    """
    from leadpost.cli import outbox_entries

    asyncio.run(outbox_entries.prune(_url(ctx, outbox), span(older_than)))


def _url(ctx: typer.Context, own: str) -> str:
    """Give the URL: of the command itself, or of `leadpost outbox`."""
    from leadpost.cli.outbox_url import url_of

    outbox = own or str(ctx.obj or "")
    if not outbox:
        raise typer.BadParameter("give --outbox URL, or set LEADPOST_OUTBOX")
    return url_of(outbox)
