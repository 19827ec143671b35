"""`leadpost outbox`: how an outbox is doing, once or all the time."""

import asyncio
import json
from typing import Any

import typer
from attrs import frozen
from rich.console import Console
from rich.live import Live
from rich.text import Text

from leadpost.bucket import LIMIT, PERIOD
from leadpost.cli.check import spoken
from leadpost.cli.outbox_url import existing
from leadpost.errors import OutboxUnavailable
from leadpost.outbox import EntryState, Outbox

_EVERY = 1.0


@frozen
class Status:
    """
    An outbox at one moment.

    Attributes:
        counts: How many entries are in each state.
        oldest: Seconds since the oldest pending entry was put, None if none is pending.
        calls_per_second: By all workers, over the last 10 s.
        workers: How many are alive: `leadpost work`, `leadpost post`, services.
    """

    counts: dict[EntryState, int]
    oldest: float | None
    calls_per_second: float
    workers: int

    @classmethod
    async def of(cls, outbox: Outbox) -> "Status":
        counts, oldest = await outbox.counts(), await outbox.oldest_pending()
        return cls(counts, oldest, await outbox.calls_per_second(), await outbox.workers())

    @property
    def seconds_left(self) -> float:
        """At the rate of the last seconds or, where nobody posts, at the limit."""
        return self.counts["pending"] / (self.calls_per_second or LIMIT / PERIOD)

    def as_json(self) -> dict[str, Any]:
        return {
            **{state: count for state, count in self.counts.items()},  # noqa: C416  keys of type str
            "oldest_pending_seconds": self.oldest,
            "calls_per_second": self.calls_per_second,
            "workers": self.workers,
            "seconds_left": self.seconds_left,
        }

    def __str__(self) -> str:
        lines = [f"{state:10}{count:9}" for state, count in self.counts.items()]
        if self.oldest is not None:
            lines[0] += f"   the oldest for {spoken(self.oldest)}"
        lines.append(f"calls/s   {self.calls_per_second:9.1f}")
        lines.append(f"workers   {self.workers:9}")
        at = "" if self.calls_per_second else " at 25 calls per 5 s"
        lines.append(f"time left  {spoken(self.seconds_left)}{at}")
        return "\n".join(lines)


async def show(url: str, *, as_json: bool) -> None:
    """Print the status of an outbox."""
    async with existing(url) as outbox:
        typer.echo(await _text(outbox, as_json=as_json))


async def watch(url: str, *, as_json: bool) -> None:
    """Show the status of an outbox every second, for ever; where it is away, say so meanwhile."""
    console = Console()
    async with existing(url) as outbox:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                try:
                    text = await _text(outbox, as_json=as_json)
                except OutboxUnavailable as error:
                    text = json.dumps({"error": str(error)}) if as_json else str(error)
                if console.is_terminal and not as_json:
                    live.update(Text(text), refresh=True)
                else:
                    typer.echo(text)
                await asyncio.sleep(_EVERY)


async def _text(outbox: Outbox, *, as_json: bool) -> str:
    status = await Status.of(outbox)
    return json.dumps(status.as_json()) if as_json else str(status)
