"""A file of 150,000 rows: how long checking takes, the first call, and the same file again."""

from __future__ import annotations

import csv
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from common import options, sandbox_process, show

HEADER = (
    "RelatedProspectId",
    "ActivityEvent",
    "ActivityNote",
    "ActivityDateTime",
    "mx_Custom_1",
    "mx_Custom_2",
)


def write(path: Path, count: int) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for n in range(count):
            moment = f"2026-11-{n % 28 + 1:02} 14:{n % 60:02}:07"
            lead = uuid5(NAMESPACE_URL, f"lead:{n}")
            table.writerow((lead, 201, f"Spoke about offer {n}", moment, f"value {n}", "web"))


def begun(folder: Path, environment: dict[str, str], *args: str) -> subprocess.Popen[bytes]:
    """Start `leadpost post`; it has the interpreter and the modules of this process."""
    command = [sys.executable, "-m", "leadpost.cli", "post", "calls.csv", "--timezone"]
    return subprocess.Popen(
        [*command, "Asia/Kolkata", *args],
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def ended(process: subprocess.Popen[bytes], code: int = 0) -> tuple[float, float]:
    """Wait for the end of a process; return the most memory that it needed, in MB, and its CPU."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == code, process.returncode
    memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    return memory, usage.ru_utime + usage.ru_stime


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def main() -> None:
    wanted = options(__doc__, rows=150_000)
    found: list[dict[str, Any]] = []

    def note(what: str, seconds: float, used: tuple[float, float]) -> None:
        found.append({"what": what, "s": seconds, "CPU s": used[1], "MB": used[0]})

    with tempfile.TemporaryDirectory() as name, sandbox_process() as sandbox:
        folder = Path(name)
        write(folder / "calls.csv", wanted.rows)
        keys = sandbox.account
        environment = {
            "HOME": name,
            "XDG_CONFIG_HOME": name,
            "LEADPOST_HOST": keys.host,
            "LEADPOST_ACCESS_KEY": keys.access_key,
            "LEADPOST_SECRET_KEY": keys.secret_key,
            "LEADPOST_API_KEY": keys.api_key,
        }
        began = time.monotonic()
        used = ended(begun(folder, environment, "--dry-run", "--outbox", "none.db"))
        note("checked", time.monotonic() - began, used)

        began = time.monotonic()
        process = begun(folder, environment)
        until(lambda: sandbox.seen().report.accepted > 0)
        first = time.monotonic() - began
        outbox = folder / "leadpost" / "outbox.db"
        with closing(sqlite3.connect(outbox, timeout=60)) as database:
            count = "SELECT count(*) FROM leadpost_entries"
            until(lambda: database.execute(count).fetchone()[0] == wanted.rows)
            all_put = time.monotonic() - began
            process.send_signal(signal.SIGTERM)
            stopping = time.monotonic()
            used = ended(process, 143)
            note("first call", first, used)
            note("all rows in the outbox", all_put, used)
            note("ended after SIGTERM", time.monotonic() - stopping, used)
            # As if the run had gone on for hours.
            database.execute(
                "UPDATE leadpost_entries SET state = 'accepted', request_id = 'id-' || id"
            )
            database.commit()

        for what in ("again, all posted", "once more"):
            began = time.monotonic()
            used = ended(begun(folder, environment))
            note(what, time.monotonic() - began, used)
    name = f"A file of {wanted.rows:,} rows"
    show("files", name, found, save=not wanted.no_save)


if __name__ == "__main__":
    main()
