"""Shared by the tests of the command: ways to run it, and what its outbox has."""

import asyncio
import json
import os
import pty
import select
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import processes
from files_support import lead
from processes import Process

from leadpost import Account
from leadpost.outbox import Outbox

LONG = 60.0
"""Seconds after which waiting for a condition fails."""


def payload(number: int) -> dict[str, Any]:
    """Return an activity in LeadSquared's shape, as it is sent."""
    return {
        "RelatedProspectId": lead(number),
        "ActivityEvent": 201,
        "ActivityNote": f"Note {number}",
        "ActivityDateTime": "2025-01-31 12:13:44",
        "Fields": [{"SchemaName": "mx_Custom_1", "Value": f"value {number}"}],
    }


def read_jsonl(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def start(args: Sequence[object], env: Mapping[str, str], directory: Path) -> Process:
    """Start the command in a process of its own; what it prints goes to files in `directory`."""
    variables = {**processes.ENVIRONMENT, "COLUMNS": "100", "NO_COLOR": "1", **env}
    with (directory / "stdout").open("wb") as out, (directory / "stderr").open("wb") as err:
        command = ["-m", "leadpost.cli", *args]
        return processes.start(command, variables, directory, stdout=out, stderr=err)


@contextmanager
def at_a_terminal(
    args: Sequence[str], folder: Path, **environment: str
) -> Generator[tuple[Process, int]]:
    """Run the command with a terminal for standard input and standard error; yield both."""
    leader, follower = pty.openpty()
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    variables = processes.ENVIRONMENT | {"TERM": "dumb", "NO_COLOR": "1"} | home | environment
    command = ["-m", "leadpost.cli", *args]
    process = processes.start(command, variables, folder, stdin=follower, stderr=follower)
    os.close(follower)
    try:
        yield process, leader
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def read_until(leader: int, wanted: str) -> str:
    """Return what the terminal shows up to some text; a command that ended instead raises."""
    shown = b""
    while wanted.encode() not in shown:
        shown += os.read(leader, 4096)
    return shown.decode()


def press_until(
    process: Process, leader: int, wanted: str, number: signal.Signals = signal.SIGINT
) -> str:
    """Send a signal until the terminal shows some text: one just as a question begins is lost."""
    shown = b""
    while wanted.encode() not in shown:
        process.send_signal(number)
        if select.select([leader], [], [], 0.5)[0]:
            shown += os.read(leader, 4096)
    return shown.decode()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "the condition never came"
        time.sleep(0.01)


def pressing(condition: Callable[[], bool], number: signal.Signals) -> threading.Thread:
    """Send a signal to this process once a condition holds."""

    def press() -> None:
        until(condition)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def texts_of(directory: Path) -> str:
    """Return the contents of all files of a directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return "\n".join(path.read_text(errors="replace") for path in files)


def states_in(outbox: Path) -> Counter[str]:
    """Count the entries of an outbox by state; none if it does not exist yet."""
    if not outbox.exists():
        return Counter()
    query = "SELECT state, count(*) FROM leadpost_entries GROUP BY state"
    with (
        closing(sqlite3.connect(f"file:{outbox}?mode=ro", uri=True)) as connection,
        suppress(sqlite3.OperationalError),  # there are no tables yet
    ):
        return Counter(dict(connection.execute(query).fetchall()))
    return Counter()


def url_of(path: Path) -> str:
    """Return the URL of an outbox in a file."""
    return f"sqlite:///{path}"


def put(url: str, *numbers: int, account: Account | str) -> None:
    """Put payloads into an outbox, unless their keys exist already."""

    async def putting() -> None:
        async with Outbox(url, account) as outbox:
            await outbox.put_many(map(payload, numbers), keys=[f"call-{n}" for n in numbers])

    asyncio.run(putting())
