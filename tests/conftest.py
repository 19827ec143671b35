"""Fixtures for the tests that need a database: each gets one of its own, SQLite and PostgreSQL."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from support import run, server_in


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a real server: LEADPOST_TEST_POSTGRES_URL's, or one of its own."""
    if given := os.environ.get("LEADPOST_TEST_POSTGRES_URL"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="leadpost-") as folder, server_in(folder):
        yield f"postgresql+asyncpg://postgres@/postgres?host={folder}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty store in a file."""
    return f"sqlite+aiosqlite:///{tmp_path}/store.db"


@pytest.fixture(params=["sqlite_url", "postgresql_url"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store, of one kind and of the other."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """The URL of an empty store on a server."""
    server = sa.make_url(postgresql)
    name = f"leadpost_{uuid4().hex}"
    run(_administer(server, f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    run(_administer(server, f"DROP DATABASE {name} WITH (FORCE)"))


async def _administer(server: sa.URL, statement: str) -> None:
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(sa.text(statement))
    await engine.dispose()
