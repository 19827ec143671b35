"""A worker whose database is in trouble: nothing is lost or duplicated, and `run` continues."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable

import pytest
from database_support import path_of, plain_postgresql
from outbox_processes import Job
from outbox_support import until_accepted
from support import activity, server_in, within

from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox

PERIOD = 0.5
ROWS = 200
LASTS = float(os.environ.get("LEADPOST_TEST_TROUBLE", "2"))
"""Seconds for which a database is in trouble."""


async def work_through(url: str, trouble: Callable[[], Awaitable[None]]) -> int:
    """Post all rows with `run`, and return how many were posted while there was trouble."""
    with Sandbox(period=PERIOD, delay=(0.02, 0.1)) as sandbox:
        job = Job(url=url, host=sandbox.url, period=PERIOD, call_timeout=5.0)
        async with Outbox(url, job.account) as outbox, job.poster() as poster:
            await outbox.put_many(map(activity, range(1, ROWS + 1)))
            running = asyncio.create_task(outbox.run(poster, verify=False))
            async with within(20):
                while len(sandbox.accepted) < 40:
                    await asyncio.sleep(0.01)
            before = len(sandbox.accepted)
            await trouble()
            meanwhile = len(sandbox.accepted) - before
            assert before + meanwhile < ROWS, "the trouble came too late"
            async with within(90):
                while (await outbox.counts())["accepted"] < ROWS:
                    await asyncio.sleep(0.1)
            assert not running.done()
            running.cancel()
            await asyncio.wait([running])
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

    async def read_only() -> None:
        writing = {"default_transaction_read_only": "off"}
        async with plain_postgresql(postgresql_url, server_settings=writing) as server:
            await server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            try:
                await server.execute("SELECT pg_reload_conf()")
                async with within(60):
                    while "cannot be reached" not in caplog.text:
                        await asyncio.sleep(0.01)
                await asyncio.sleep(LASTS)
            finally:
                await server.execute("ALTER SYSTEM RESET default_transaction_read_only")
                await server.execute("SELECT pg_reload_conf()")

    assert await work_through(postgresql_url, read_only) <= 25
    assert "cannot be reached: postgresql://" in caplog.text
    assert "read-only: a standby, or in a failover (25006)" in caplog.text


async def test_a_server_that_is_stopped(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory(prefix="leadpost-") as folder, server_in(folder) as server:

        async def stop() -> None:
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(LASTS)
            await asyncio.to_thread(server.ensure_postgres_running)

        assert await work_through(f"postgresql://postgres@/postgres?host={folder}", stop) <= 25
    assert "can be reached again, after " in caplog.text


async def test_connections_that_are_killed_repeatedly(postgresql_url: str) -> None:
    async def kill() -> None:
        killed = 0
        async with plain_postgresql(postgresql_url) as server:
            for _ in range(1000):
                if killed > 20:
                    break
                killed += await server.fetchval(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                await asyncio.sleep(0.03)
        assert killed > 20

    await work_through(postgresql_url, kill)


async def test_a_file_that_another_process_keeps_locked_for_long(sqlite_url: str) -> None:
    script = (
        "import sqlite3, sys, time\n"
        "file = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n"
        "file.execute('BEGIN EXCLUSIVE')\n"
        "time.sleep(float(sys.argv[2]))\n"
        "file.execute('ROLLBACK')\n"
    )

    async def lock() -> None:
        command = [sys.executable, "-c", script, str(path_of(sqlite_url)), str(LASTS)]
        began = time.monotonic()
        assert await asyncio.to_thread(subprocess.call, command) == 0
        assert time.monotonic() - began >= LASTS

    assert await work_through(sqlite_url, lock) <= 25


async def test_a_disk_that_is_full_for_a_while(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def fill() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # less than a page
        try:
            await asyncio.sleep(LASTS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert await work_through(sqlite_url, fill) <= 25
    assert ": the disk" in caplog.text
