"""What the benchmarks share: activities, the ceiling, a sandbox process, tables and results."""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
from attrs import frozen
from rich.console import Console
from rich.table import Table

from leadpost import Account, Activity
from leadpost.sandbox import Report, Sandbox

RESULTS = Path(__file__).parent / "results"
LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"
ANSWER = b'{"Status": "Request accepted", "RequestID": "7ba60ab0-7054-4856-8590-1b5a9f904ad1"}'
ACCOUNT = Account(host="http://127.0.0.1:9", access_key="aaaa", secret_key="bbbb", api_key="cccc")


def activities(count: int) -> list[Activity]:
    return [Activity(LEAD, 201, f"call {number}") for number in range(count)]


async def answer_at_once(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=ANSWER)


def ceiling_seconds(posts: int) -> float:
    """Return the least seconds in which LeadSquared, at 25 in 5 s, accepts so many posts."""
    return (posts - 1) // 25 * 5.0


def ceiling_rate(low: float, high: float, tokens: int = 25) -> float:
    """
    Return the highest rate, in posts a second, at which none can ever be refused.

    It is tokens / (5 + mean round trip); each way takes between `low` and `high` seconds.
    """
    return tokens / (5 + (low + high))


@frozen
class Seen:
    """A sandbox's report, and when each call arrived, in monotonic seconds."""

    report: Report
    arrival_times: list[float]


class SandboxProcess:
    """A sandbox in another process, so that its work does not slow the client down."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.account: Account = connection.recv()

    def seen(self) -> Seen:
        self._connection.send(None)
        seen: Seen = self._connection.recv()
        return seen


def _serve(connection: Connection, options: dict[str, Any]) -> None:
    with Sandbox(**options) as sandbox:
        connection.send(sandbox.account())
        try:
            while True:
                connection.recv()
                connection.send(Seen(sandbox.report(), sandbox.arrival_times))
        except EOFError:
            return  # the benchmark is done


@contextmanager
def sandbox_process(**options: Any) -> Generator[SandboxProcess]:
    """Run a sandbox with these options in another process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, options))
    process.start()
    there.close()
    try:
        yield SandboxProcess(here)
    finally:
        here.close()
        process.join()


def options(doc: str | None, **defaults: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-save", action="store_true", help="do not write to results/")
    return parser.parse_args()


def show(name: str, title: str, rows: Sequence[dict[str, Any]], *, save: bool = True) -> None:
    """Print rows as a table, and write them to results/NAME.json."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=120).print(table)
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
