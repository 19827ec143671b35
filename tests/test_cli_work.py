"""`leadpost work` against a server that goes away and comes back."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import signal
import sqlite3
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from cli_support import LONG, keys_of, payload, pressing, start, states_in, until
from cli_support import run as command
from support import run, server_in

from leadpost import NotSent, TokenBucket
from leadpost.cli.tally import CountedBucket
from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox


async def put(url: str, number: int) -> None:
    async with Outbox(url) as outbox:
        await outbox.put(payload(number))


def test_a_worker_says_when_the_database_goes_and_when_it_is_back(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="leadpost-") as folder,
        server_in(folder) as server,
        Sandbox(pace=1000) as sandbox,
    ):
        url = f"postgresql+asyncpg://postgres:private@/postgres?host={folder}"
        run(put(url, 0))

        def says(text: str) -> bool:
            return text in (tmp_path / "stderr").read_text()

        process = start(["work", "--outbox", url], keys_of(sandbox), tmp_path)
        try:
            until(lambda: len(sandbox.taken) == 1)
            server.stop()
            until(lambda: says("is away"))
            server.ensure_postgres_running()
            run(put(url, 1))
            until(lambda: len(sandbox.taken) == 2)
            until(lambda: says("is back after"))
            process.terminate()
            assert process.wait(LONG) == 0
        finally:
            process.kill()
            process.wait()
        assert says("ended by SIGTERM")
        assert not says("Traceback")
        assert not says("private")
        assert sandbox.report().duplicates == 0


async def test_a_token_for_which_no_call_was_made_is_not_counted() -> None:
    counted = CountedBucket(TokenBucket())
    async with counted.token():
        pass
    with pytest.raises(NotSent):
        async with counted.token():
            raise NotSent("nothing is pending")
    assert counted.calls == 1


def test_a_worker_ends_although_another_process_has_the_database_locked(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    run(put(f"sqlite+aiosqlite:///{path}", 0))
    with Sandbox() as sandbox:
        process = start(["work", "--outbox", path], keys_of(sandbox), tmp_path)
        try:
            until(lambda: states_in(path)["accepted"] == 1)
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            process.terminate()
            assert process.wait(LONG) == 0
            other.close()
        finally:
            process.kill()
            process.wait()


def test_a_worker_ends_although_the_database_hangs(tmp_path: Path, postgresql_url: str) -> None:
    async def hung() -> list[int]:
        async with Outbox(postgresql_url) as outbox:
            pids = sa.text(
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            found = await outbox._store.read(lambda connection: connection.execute(pids))
            return [row.pid for row in found]

    run(put(postgresql_url, 0))
    with Sandbox(pace=1000) as sandbox:
        process = start(["work", "--outbox", postgresql_url], keys_of(sandbox), tmp_path)
        backends: list[int] = []
        try:
            until(lambda: len(sandbox.taken) == 1)
            backends = run(hung())
            assert backends
            for pid in backends:
                os.kill(pid, signal.SIGSTOP)
            process.terminate()
            assert process.wait(LONG) in {0, 1}  # 1 if something was still to be set down
        finally:
            for pid in backends:
                os.kill(pid, signal.SIGCONT)
            process.kill()
            process.wait()


def test_it_ends_the_process_where_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("leadpost.cli.work._AT_LAST", 0.0)
    monkeypatch.setattr("leadpost.cli.work.os._exit", codes.append)
    path = tmp_path / "leadpost.db"
    run(put(f"sqlite+aiosqlite:///{path}", 0))
    with Sandbox(pace=1000) as sandbox:
        thread = pressing(lambda: states_in(path)["accepted"] == 1, signal.SIGTERM)
        command("work", "--no-verify", "--outbox", path, env=keys_of(sandbox))
        thread.join()
    assert codes == [1]
    assert "what was not set down will be uncertain" in caplog.text
