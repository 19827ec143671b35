"""What the benchmarks share: activities, the ceiling, tables, and JSON beside them."""

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
    """The least time in which a vendor that allows 25 in 5 s takes so many posts."""
    return (posts - 1) // 25 * 5.0


def ceiling_rate(low: float, high: float, tokens: int = 25) -> float:
    """
    The most posts a second that can never be refused, delays evenly between low and high each way:
    tokens / (5 + mean round trip).
    """
    return tokens / (5 + (low + high))


@frozen
class Seen:
    """What a sandbox has seen: its report, and when each call arrived, in monotonic seconds."""

    report: Report
    arrival_times: list[float]


class SandboxProcess:
    """A sandbox in a process of its own: its work is not on the client's interpreter."""

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
            return  # the benchmark has what it wanted


@contextmanager
def sandbox_process(**options: Any) -> Generator[SandboxProcess]:
    """Start a sandbox with these options in another process, and end it afterwards."""
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
    parser.add_argument("--no-save", action="store_true", help="leave the results as they are")
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
