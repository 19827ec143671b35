"""`leadpost outbox list`, `retry`, `export` and `prune`: the entries of an outbox."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer

from leadpost.cli.check import number_of
from leadpost.cli.exits import InputError
from leadpost.cli.outbox_url import existing
from leadpost.cli.outputs import replacing
from leadpost.cli.results import csv_line
from leadpost.outbox import Entry, EntryState

COLUMNS = ("id", "key", "state", "request_id", "activity_id", "calls", "error_type", "message")
"""Of an export."""


async def tell_entries(url: str, states: Sequence[EntryState], *, as_json: bool) -> None:
    """Print entries, a line each; their activities are not shown."""
    async with existing(url) as outbox:
        async for entry in outbox.entries(*states):
            typer.echo(json.dumps(_json(entry)) if as_json else line_of(entry))


async def put_back(url: str, state: EntryState | None, ids: Sequence[int], *, twice: bool) -> None:
    """
    Make entries pending again, and tell how many.

    Args:
        url: The outbox.
        state: Those in this state; None for any that allows it.
        ids: Only these; if none are named, all.
        twice: Whether those may be among them that might be posted twice so.

    Raises:
        InputError: that is not allowed.
    """
    if state == "uncertain" and not twice:
        raise InputError(
            "what is uncertain may have arrived, and would be posted twice: `leadpost reconcile`"
            " looks at the leads; --yes does it all the same"
        )
    states: list[EntryState] = [state] if state else ["failed", "rejected"]
    if twice and not state:
        states.append("uncertain")
    async with existing(url) as outbox:
        count = await outbox.retry(*states, ids=ids or None)
    typer.echo(f"{count} pending again")
    if left := len(set(ids)) - count if ids else 0:
        wanted = " or ".join(states)
        typer.echo(f"{left} left as they are: not there, or not {wanted}", err=True)


async def arrived(url: str, keys: Sequence[str], ids: Sequence[int]) -> bool:
    """Take uncertain entries for arrived, by keys or ids; tell how many, and give whether all."""
    async with existing(url) as outbox:
        by_key = await outbox.find(keys) if keys else {}
        chosen = {entry.id for entry in by_key.values()} | set(ids)
        count = await outbox.arrived(sorted(chosen))
    typer.echo(f"{count} succeeded")
    left = len(set(keys)) - len(by_key) + len(chosen) - count
    if left:
        typer.echo(f"{left} left as they are: not there, or not uncertain", err=True)
    return not left


async def export(url: str, path: Path) -> None:
    """Write all entries to a CSV file, without their activities."""
    count = 0
    async with existing(url) as outbox:
        with replacing(path) as file:
            file.write(csv_line(*COLUMNS))
            async for entry in outbox.entries():
                values = (getattr(entry, name) for name in COLUMNS)
                file.write(csv_line(*("" if value is None else str(value) for value in values)))
                count += 1
    typer.echo(f"{path}: {count} entries")


async def prune(url: str, older_than: timedelta) -> None:
    """Delete entries that have been final for so long, and tell how many."""
    async with existing(url) as outbox:
        typer.echo(f"{await outbox.prune(older_than)} entries deleted")


def _json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "key": entry.key,
        "state": entry.state,
        "calls": entry.calls,
        "changed_at": entry.changed_at.isoformat(timespec="seconds"),
        "request_id": entry.request_id,
        "activity_id": entry.activity_id,
        "error_type": entry.error_type,
        "message": entry.message,
    }


def line_of(entry: Entry) -> str:
    """Write an entry for people, without its activity."""
    cells = (
        f"{entry.id:6}",
        f"{entry.state:9}",
        number_of(entry.calls, "call"),
        f"{entry.changed_at:%Y-%m-%d %H:%M:%S}Z",
        entry.key or "",
        entry.request_id or entry.activity_id or "",
        " ".join((entry.message or "").split()),
    )
    return "  ".join(cell for cell in cells if cell)
