"""A run that is interrupted, hung up, terminated or killed, and what the next one makes of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_support import start, states_in, until
from files_support import Desk, cells, keys_of, read_csv, write_csv
from processes import ENVIRONMENT, Process
from sqlalchemy import event
from sqlalchemy.engine import Engine

from leadpost.cli.files.comparing.ledger import Ledger
from leadpost.cli.signals import Stop, on_signals
from leadpost.errors import OutboxError
from leadpost.outbox.database import _calls
from leadpost.sandbox import Faults, Sandbox

ROWS = 40
ANSWERED = 10
BURST = 25
COMMAND = ["post", "calls.csv", "--timezone", "UTC"]


def sandbox_of(slow: float) -> Sandbox:
    """Answer ten posts at once, the others of the first burst late, and all later ones at once."""
    script = ["ok"] * ANSWERED + ["slow"] * (BURST - ANSWERED)
    return Sandbox(faults=Faults(script=script, slow=slow))


def home(folder: Path, sandbox: Sandbox) -> dict[str, str]:
    return keys_of(sandbox) | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}


def begun(folder: Path, sandbox: Sandbox) -> Process:
    return start(COMMAND, home(folder, sandbox), folder)


def in_flight(folder: Path, sandbox: Sandbox) -> Process:
    """Start a run, and wait until ten rows are answered and the rest of the burst is in flight."""
    write_csv(folder / "calls.csv", [cells(n) for n in range(ROWS)])
    process = begun(folder, sandbox)
    until(lambda: len(sandbox.accepted) >= BURST)
    until(lambda: states_in(folder / "leadpost" / "outbox.db")["accepted"] >= ANSWERED)
    return process


def let_time_pass(folder: Path) -> None:
    """Let the calls in flight count as lost after 3 s, and their tokens return after 8 s."""
    with closing(sqlite3.connect(folder / "leadpost" / "outbox.db")) as file, file:
        now = time.time()
        ended = now + 3 - _calls.OVERDUE
        file.execute("UPDATE leadpost_entries SET ends_by = ? WHERE state = 'sending'", (ended,))
        file.execute("UPDATE leadpost_tokens SET back_at = ? WHERE back_at > ?", (now + 8, now))


def said(folder: Path) -> str:
    return (folder / "stderr").read_text()


def states(folder: Path) -> list[str]:
    return [row["state"] for row in read_csv(folder / "calls.csv.results.csv")]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_waits_for_the_calls_in_flight(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with sandbox_of(slow=1.5) as sandbox:
        process = in_flight(tmp_path, sandbox)
        process.send_signal(number)
        assert process.wait() == code
        assert "Stopped. To resume, run the same command again." in said(tmp_path)
        assert "leadpost results calls.csv" in said(tmp_path)
        assert "Traceback" not in said(tmp_path)
        found = states_in(tmp_path / "leadpost" / "outbox.db")
        assert found["accepted"] == len(sandbox.accepted)
        assert not found["uncertain"] + found["sending"]
        files = {path.name for path in tmp_path.iterdir()}
        assert files == {"calls.csv", "leadpost", "stdout", "stderr"}
        assert start(["results", "calls.csv"], home(tmp_path, sandbox), tmp_path).wait() == 1
        assert states(tmp_path).count("accepted") == len(sandbox.accepted)
        assert begun(tmp_path, sandbox).wait() == 0
        assert sandbox.report().duplicates == 0
    assert states(tmp_path) == ["accepted"] * ROWS


def test_nohup_keeps_a_run_alive(tmp_path: Path) -> None:
    write_csv(tmp_path / "calls.csv", [cells(n) for n in range(3)])
    with Sandbox(delay=1.0) as sandbox:
        process = subprocess.Popen(
            ["nohup", sys.executable, "-m", "leadpost.cli", *COMMAND],
            env=ENVIRONMENT | home(tmp_path, sandbox),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: sandbox.report().arrivals > 0)
        process.send_signal(signal.SIGHUP)
        assert process.wait() == 0


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    with sandbox_of(slow=600) as sandbox:
        process = in_flight(tmp_path, sandbox)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        let_time_pass(tmp_path)
        began = time.monotonic()
        process = begun(tmp_path, sandbox)
        until(lambda: states_in(tmp_path / "leadpost" / "outbox.db")["pending"] == 0)
        until(lambda: "Settling" in said(tmp_path) or process.poll() is not None)
        assert process.wait() == 1
        assert time.monotonic() - began < 60
        assert sandbox.report().duplicates == 0
        assert sandbox.report().refused == 0
    found = states(tmp_path)
    assert len(found) == ROWS
    # On a slow machine, a row may have been claimed and not sent when it was killed.
    arrived = len(sandbox.accepted)
    assert found.count("accepted") + BURST - ANSWERED <= arrived <= ROWS
    # Those that were in flight, of which nobody knows: the late ones, on a fast machine.
    assert BURST - ANSWERED <= found.count("uncertain") <= BURST
    assert found.count("accepted") == ROWS - found.count("uncertain")


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with sandbox_of(slow=600) as sandbox:
        process = in_flight(tmp_path, sandbox)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait() == 130
        assert time.monotonic() - began < 5
    found = states_in(tmp_path / "leadpost" / "outbox.db")
    assert found["uncertain"] + found["sending"] >= BURST - ANSWERED


def test_a_call_that_never_ends_does_not_keep_a_run_for_more_than_8_seconds(
    tmp_path: Path,
) -> None:
    with sandbox_of(slow=600) as sandbox:
        process = in_flight(tmp_path, sandbox)
        began = time.monotonic()
        process.terminate()
        assert process.wait() == 143
        assert time.monotonic() - began < 20  # a call times out after 30 s


def test_two_runs_of_a_file_share_the_work(tmp_path: Path) -> None:
    write_csv(tmp_path / "calls.csv", [cells(n) for n in range(ROWS)])
    other = tmp_path / "other"
    other.mkdir()
    command = ["post", tmp_path / "calls.csv", "--timezone", "UTC", "--quiet"]
    with Sandbox(delay=(0.01, 0.05)) as sandbox:
        environment = home(tmp_path, sandbox)
        runs = [start(command, environment, folder) for folder in (tmp_path, other)]
        assert [process.wait() for process in runs] == [0, 0]
        assert (len(sandbox.accepted), sandbox.report().refused) == (ROWS, 0)
        assert len({accepted.payload["ActivityNote"] for accepted in sandbox.accepted}) == ROWS
    assert states(tmp_path) == ["accepted"] * ROWS


@pytest.mark.parametrize("error", [OutboxError("gone"), TypeError("a mistake")])
@pytest.mark.parametrize(
    "where", ["leadpost.outbox.Outbox.drain", "leadpost.cli.files.sending.entries.put"]
)
def test_a_run_whose_outbox_fails_says_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(where, failing)
    path = write_csv(desk.folder / "calls.csv", [cells(0)])
    done = desk.run("post", path, "--timezone", "UTC", "--quiet")
    if isinstance(error, OutboxError):
        assert (done.exit_code, done.stderr) == (2, "error: gone\n")
    else:
        assert done.exception is error


@pytest.mark.parametrize(
    ("command", "where"),
    [
        ("post", "leadpost.cli.files.posting.compared"),
        ("post", "leadpost.cli.files.posting.write_outputs"),
        ("work", "leadpost.outbox.Outbox.run"),
    ],
)
def test_a_cancellation_without_a_signal_is_no_success(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, command: str, where: str
) -> None:
    async def cancelled(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(where, cancelled)
    path = write_csv(desk.folder / "calls.csv", [cells(0)])
    with pytest.raises(asyncio.CancelledError):
        desk.run(command, *([path, "--timezone", "UTC"] if command == "post" else []))


@pytest.mark.parametrize("pages", [20, 120])
def test_a_full_disk_ends_a_run_at_once(desk: Desk, pages: int) -> None:
    """While rows are put, and while results are recorded."""

    def fill(connection: Any, _: object) -> None:
        connection.cursor().execute(f"PRAGMA max_page_count = {pages}")

    path = write_csv(desk.folder / "calls.csv", [cells(n) for n in range(300)])
    event.listen(Engine, "connect", fill)
    try:
        began = time.monotonic()
        done = desk.run("post", path, "--timezone", "UTC", "--quiet")
        assert time.monotonic() - began < 120  # it would wait for a database for five minutes
    finally:
        event.remove(Engine, "connect", fill)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].endswith(
        "/outbox.db: the disk is full: make room (SQLITE_FULL); then run the same command again"
    )
    assert 0 < len(desk.sandbox.accepted) < 300 or pages == 20


def no_room_in_sqlite(*_: object) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("CREATE TABLE large (text)")


def no_room_in_a_file(*_: object) -> None:
    with Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"large")


@pytest.mark.parametrize("add", [no_room_in_sqlite, no_room_in_a_file])
def test_a_full_disk_of_temporary_files_is_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, add: Callable[..., None]
) -> None:
    monkeypatch.setattr("leadpost.cli.files.comparing.plan.Rows.add", add)
    path = write_csv(desk.folder / "calls.csv", [cells(0)])
    done = desk.run("post", path, "--timezone", "UTC")
    assert (done.exit_code, desk.notes()) == (1, [])
    assert done.stderr == (
        "error: no room for temporary files: make room, or name another folder in TMPDIR\n"
    )


def test_ctrl_c_before_anything_is_sent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(desk.folder / "calls.csv", [cells(n) for n in range(1200)])

    pressed: list[int] = []

    def pressing(*_: object) -> None:
        if not pressed:
            pressed.append(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("leadpost.cli.files.comparing.plan.Rows.add", pressing)
    done = desk.run("post", path, "--timezone", "UTC")
    assert (done.exit_code, done.stderr) == (130, "Stopped: nothing was sent\n")
    assert desk.notes() == []


def test_ctrl_c_while_the_results_are_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(desk.folder / "calls.csv", [cells(n) for n in range(600)])
    done = desk.run("post", path, "--timezone", "UTC", "--quiet", "--first", "1")
    results = path.with_name("calls.csv.results.csv").read_bytes()
    states = Ledger.states

    async def pressing(*args: Any) -> Any:
        assert len(desk.files()) == 4  # a new one of each kind, and its name
        os.kill(os.getpid(), signal.SIGINT)
        return await states(*args)

    monkeypatch.setattr(Ledger, "states", pressing)
    done = desk.run("post", path, "--timezone", "UTC", "--quiet", "--first", "1")
    assert (done.exit_code, len(desk.notes())) == (130, 2)
    assert "Stopped. To resume, run the same command again." in done.stderr
    assert desk.files() == ["calls.csv", "calls.csv.results.csv"]
    assert path.with_name("calls.csv.results.csv").read_bytes() == results


async def test_signals_reach_the_event_loop_and_earlier_handlers_return() -> None:
    pressed: asyncio.Queue[signal.Signals] = asyncio.Queue()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with on_signals(pressed.put_nowait):
        for number in numbers:
            os.kill(os.getpid(), number)
            assert await asyncio.wait_for(pressed.get(), 60) is number
    assert [signal.getsignal(number) for number in numbers] == before


def test_the_first_signal_decides_even_if_nothing_is_to_be_cancelled() -> None:
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        stop(number)
    assert stop.signal is signal.SIGTERM
