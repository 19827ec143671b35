"""A worker whose database is in trouble: nothing is lost or duplicated, and `run` continues."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from database_support import path_of, plain_postgresql
from outbox_processes import Job
from outbox_support import until_accepted, until_logged, until_true, working
from support import activity, server_in, within

from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox

PERIOD = 1.0
ROWS = 200
LASTS = float(os.environ.get("LEADPOST_TEST_TROUBLE", "2"))
"""Seconds for which a database is in trouble."""


async def work_through(
    url: str, trouble: Callable[[], AbstractAsyncContextManager[None]], lasts: float = LASTS
) -> int:
    """Post all rows with `run`, and return how many were posted while there was trouble."""
    with Sandbox(period=PERIOD, delay=(0.02, 0.1)) as sandbox:
        job = Job(url=url, host=sandbox.url, period=PERIOD, call_timeout=5.0)
        async with Outbox(url, job.account) as outbox, job.poster() as poster:
            await outbox.put_many(map(activity, range(1, ROWS + 1)))
            async with working(outbox.run(poster, verify=False)) as running:
                await until_true(lambda: len(sandbox.accepted) >= 40)
                async with trouble():
                    before = len(sandbox.accepted)
                    assert before < ROWS, "the trouble came too late"
                    await asyncio.sleep(lasts)
                    meanwhile = len(sandbox.accepted) - before
                async with within(90):
                    while (await outbox.counts())["accepted"] < ROWS:
                        await asyncio.sleep(0.1)
                assert not running.done()
            await until_accepted(outbox, ROWS)
            ids = {entry.request_id async for entry in outbox.entries()}
        report = sandbox.report()
        assert (report.accepted, report.refused, report.duplicates) == (ROWS, 0, 0)
        assert ids == {one.request_id for one in sandbox.accepted}
    return meanwhile


async def test_a_server_that_is_temporarily_read_only(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a failover."""

    @asynccontextmanager
    async def read_only() -> AsyncGenerator[None]:
        writing = {"default_transaction_read_only": "off"}
        async with plain_postgresql(postgresql_url, server_settings=writing) as server:
            await server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            try:
                await server.execute("SELECT pg_reload_conf()")
                await until_logged(caplog, "cannot be reached")
                yield
            finally:
                await server.execute("ALTER SYSTEM RESET default_transaction_read_only")
                await server.execute("SELECT pg_reload_conf()")

    assert await work_through(postgresql_url, read_only) <= 25
    assert "cannot be reached: postgresql://" in caplog.text
    assert "read-only: a standby, or in a failover (25006)" in caplog.text


async def test_a_server_that_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(prefix="leadpost-") as folder, server_in(folder) as server:

        @asynccontextmanager
        async def stopped() -> AsyncGenerator[None]:
            await asyncio.to_thread(server.stop)
            yield
            await asyncio.to_thread(server.ensure_postgres_running)

        assert await work_through(f"postgresql://postgres@/postgres?host={folder}", stopped) <= 25
    assert "can be reached again, after " in caplog.text


async def test_connections_that_are_killed_repeatedly(postgresql_url: str) -> None:
    @asynccontextmanager
    async def killed() -> AsyncGenerator[None]:
        kills = 0
        async with plain_postgresql(postgresql_url) as server:
            for _ in range(1000):
                if kills > 20:
                    break
                kills += await server.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                await asyncio.sleep(0.03)
        assert kills > 20
        yield

    await work_through(postgresql_url, killed, lasts=0)


async def test_a_file_that_another_process_keeps_locked_for_long(sqlite_url: str) -> None:
    script = (
        "import sqlite3, sys\n"
        "file = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        "file.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
        "file.execute('ROLLBACK')\n"
    )

    @asynccontextmanager
    async def locked() -> AsyncGenerator[None]:
        command = [sys.executable, "-c", script, str(path_of(sqlite_url))]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"locked\n"
        yield
        await process.communicate(b"")
        assert process.returncode == 0

    assert await work_through(sqlite_url, locked) <= 25


async def test_a_disk_that_is_full_for_a_while(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    @asynccontextmanager
    async def full() -> AsyncGenerator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # less than a page
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert await work_through(sqlite_url, full) <= 25
    assert ": the disk" in caplog.text
