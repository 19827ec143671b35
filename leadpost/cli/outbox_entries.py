"""The entries of an outbox: what `leadpost outbox` shows and changes."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leadpost._validation import is_mapping
from leadpost.bucket import LIMIT, PERIOD
from leadpost.cli.console import at_time, number_of, spoken
from leadpost.cli.files.reading.lead_columns import lead_of
from leadpost.outbox import Entry, EntryState, Outbox

_PART = 500


async def show_status(outbox: Outbox, batch: str | None, *, as_json: bool) -> None:
    """Print counts by state, worker and outage; only of the entries of a batch."""
    health = await outbox.health()
    counts = health.counts if batch is None else await outbox.counts(batch)
    others = {} if batch else await outbox.others()
    seconds_left = counts["pending"] / (LIMIT / PERIOD)
    if as_json:
        record: dict[str, Any] = {
            **dict[str, int](counts.items()),
            "oldest_pending_seconds": health.oldest_pending,
            "is_working": health.is_working,
            "away_since": health.away_since and health.away_since.isoformat(),
            "seconds_left": seconds_left,
            "of_other_accounts": others,
        }
        typer.echo(json.dumps(record))
        return
    for state, count in counts.items():
        is_first = state == "pending" and health.oldest_pending is not None
        age = f"   the oldest for {spoken(health.oldest_pending or 0)}" if is_first else ""
        typer.echo(f"{state:10}{count:9,}{age}")
    found = "a" if health.is_working else "not now: no"
    typer.echo(f"posting    {found} run or worker was seen in the last minute")
    if health.away_since is not None:
        typer.echo(f"outage     LeadSquared is away since {at_time(health.away_since)}")
    if counts["pending"]:
        typer.echo(f"time left  {spoken(seconds_left)} at 25 calls per 5 s")
    _show_others(others)


def _show_others(others: Mapping[str, int]) -> None:
    """Name other accounts, as the name of this one may be mistyped."""
    for account, count in others.items():
        entries = number_of(count, "unfinished entry", "unfinished entries")
        typer.echo(
            f"Not posted with these keys: {entries} of account {account}. To take them over:"
            f" leadpost outbox adopt {account}"
        )


async def show_entries(
    outbox: Outbox, states: Sequence[EntryState], batch: str | None, *, as_json: bool
) -> None:
    """Print entries, one a line, without notes and fields."""
    if as_json:
        async for entry in outbox.entries(*states, batch=batch):
            typer.echo(json.dumps(_json(entry)))
        return
    rows = [_cells(entry) async for entry in outbox.entries(*states, batch=batch)]
    if not rows:
        typer.echo("no entries")
        _show_others({} if batch else await outbox.others())
        return
    table = Table("id", "state", "age", "key", "lead", "RequestID", "error", box=None)
    for cells in rows:
        table.add_row(*map(Text, cells))
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # one line for each, for grep
    console.print(table)


async def retry(
    outbox: Outbox,
    states: Sequence[Literal["failed", "rejected", "uncertain"]],
    ids: Sequence[int] | None,
    batch: str | None,
) -> bool:
    """Make entries pending again, print their number, and return whether all of `ids` are."""
    wanted = ids
    if batch is not None and ids is None:
        wanted = [e.id async for e in outbox.entries(*states, batch=batch)]
    count = await outbox.retry(*states, ids=wanted) if wanted != [] else 0
    typer.echo(f"{count:,} pending again")
    left = len(set(ids)) - count if ids else 0
    if left:
        others = "" if "uncertain" in states else "; uncertain ones need --yes"
        typer.echo(f"{left:,} unchanged: unknown, or not {' or '.join(states)}{others}", err=True)
    return not left


async def arrived(outbox: Outbox, keys: Sequence[str], ids: Sequence[int]) -> bool:
    """Record that uncertain entries have arrived; return whether all named ones were uncertain."""
    by_key: dict[str, Entry] = {}
    for first in range(0, len(keys), _PART):
        by_key |= await outbox.find(keys[first : first + _PART])
    chosen = {entry.id for entry in by_key.values()} | set(ids)
    count = await outbox.arrived(sorted(chosen))
    typer.echo(f"{count:,} succeeded")
    left = len(set(keys)) - len(by_key) + len(chosen) - count
    if left:
        typer.echo(f"{left:,} unchanged: unknown, or not uncertain", err=True)
    return not left


def _json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "key": entry.key,
        "state": entry.state,
        "lead": _lead(entry),
        "calls": entry.calls,
        "changed_at": entry.changed_at.isoformat(timespec="seconds"),
        "request_id": entry.request_id,
        "activity_id": entry.activity_id,
        "error_type": entry.error_type,
        "message": entry.message,
    }


def _cells(entry: Entry) -> tuple[str, ...]:
    age = (datetime.now(UTC) - entry.put_at).total_seconds()
    error = " ".join((entry.message or entry.error_type or "").split())
    ids = entry.request_id or entry.activity_id or ""
    return (str(entry.id), entry.state, spoken(age), entry.key or "", _lead(entry), ids, error)


def _lead(entry: Entry) -> str:
    return lead_of(entry.activity) if is_mapping(entry.activity) else ""  # put by SQL
