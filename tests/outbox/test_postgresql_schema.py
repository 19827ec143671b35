"""PostgreSQL: roles, and the schema that others create, migrate or insert into."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from database_support import changed, execute, name_of, numbers, plain_postgresql
from sqlalchemy.ext.asyncio import create_async_engine
from support import LeadSquared, account, activity, within

from leadpost import AsyncActivityPoster, OpenBucket, OutboxError, OutboxUnavailable
from leadpost import outbox as outbox_package
from leadpost.cli.files.comparing.ledger import statements as of_files
from leadpost.outbox import Outbox
from leadpost.outbox.database import ddl


@asynccontextmanager
async def role(url: str, *grants: str) -> AsyncGenerator[str]:
    """Create a role with few permissions, and return its URL."""
    name = f"role_of_{name_of(url)}"
    await execute(
        url,
        f"CREATE ROLE {name} LOGIN",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        *(f"GRANT {grant} TO {name}" for grant in grants),
    )
    try:
        yield changed(url, username=name)
    finally:
        await execute(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def test_a_read_only_role_can_read_everything(postgresql_url: str) -> None:
    async with Outbox(postgresql_url, account()) as outbox:
        await outbox.put(activity(1), key="call-1")
    async with (
        role(postgresql_url, "SELECT ON ALL TABLES IN SCHEMA public") as url,
        Outbox(url, account()) as outbox,
    ):
        assert (await outbox.counts())["pending"] == 1
        assert await numbers(url) == [1]
        assert await outbox.find(["call-1"])
        assert await outbox.history(1)
        assert (await outbox.health()).counts["pending"] == 1
        assert await outbox.others() == {}
        with pytest.raises(OutboxError, match="GRANT what is missing"):
            await outbox.put(activity(2))


async def test_opening_existing_tables_writes_nothing(postgresql_url: str) -> None:
    async with Outbox(postgresql_url, account()):
        pass
    read_only = f"{postgresql_url}&options=-c%20default_transaction_read_only%3Don"
    async with Outbox(read_only, account()) as outbox:
        assert (await outbox.counts())["pending"] == 0
        with pytest.raises(OutboxUnavailable, match="read-only: a standby, or in a failover"):
            await outbox.put(activity(1))


def shown(language: str, beginning: str) -> str:
    """Return a code block of the README."""
    text = (Path(outbox_package.__file__).parent / "README.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split(f"```{language}\n")[1:]]
    (found,) = [block for block in blocks if block.startswith(beginning)]
    return found


async def test_a_role_with_the_grants_of_the_readme_can_do_a_workers_work(
    postgresql_url: str,
) -> None:
    await execute(postgresql_url, ddl("postgresql"), *of_files("postgresql"))
    async with role(postgresql_url) as url:
        name = str(sa.make_url(url).username)
        await execute(postgresql_url, shown("sql", "GRANT").replace("TO worker", f"TO {name}"))
        async with Outbox(url, account()) as outbox:
            await outbox.put(activity(1))
            await outbox.put_many(map(activity, range(2, 5)), keys=["a", "b", "c"])
            posting = AsyncActivityPoster(
                account(), client=LeadSquared().client(), bucket=OpenBucket()
            )
            assert (await outbox.drain(posting))["accepted"] == 4
            assert (await outbox.counts())["accepted"] == 4
            await outbox.adopt("another")
            assert await outbox.prune(timedelta(0)) == 0


async def test_a_temporary_table_of_a_caller_is_not_taken_for_one_of_the_outbox(
    postgresql_url: str,
) -> None:
    """Its own triggers would run with the rights of the owner."""
    grants = ("INSERT, SELECT ON leadpost_entries", "USAGE ON ALL SEQUENCES IN SCHEMA public")
    async with Outbox(postgresql_url, account(name="acme")) as outbox:
        async with role(postgresql_url, *grants) as url, plain_postgresql(url) as server:
            await server.execute("CREATE TEMP TABLE leadpost_counts (LIKE leadpost_entries)")
            await server.execute("GRANT ALL ON pg_temp.leadpost_counts TO PUBLIC")
            put = "INSERT INTO leadpost_entries (account, activity) VALUES ('acme', '{}')"
            await server.execute(put)
        assert (await outbox.counts())["pending"] == 1


async def test_a_role_without_create_raises_with_the_remedy(postgresql_url: str) -> None:
    async with role(postgresql_url) as url:
        with pytest.raises(OutboxError, match="may not create or use the tables") as caught:
            await Outbox(url, account()).__aenter__()
        assert not isinstance(caught.value, OutboxUnavailable)


async def test_the_printed_schema_is_the_one_an_outbox_creates(
    postgresql_url: str,
) -> None:
    await execute(postgresql_url, ddl("postgresql"))
    async with Outbox(postgresql_url, account()) as outbox:
        await outbox.put(activity(1))
    printed = await objects_in(postgresql_url)
    await execute(postgresql_url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    async with Outbox(postgresql_url, account()):
        pass
    assert await objects_in(postgresql_url) == printed
    assert len(printed) > 30


async def objects_in(url: str) -> set[str]:
    """Return columns, indexes, constraints, triggers and functions, as the server prints them."""
    async with plain_postgresql(url) as server:
        rows = await server.fetch(
            """
            SELECT concat_ws(' ', table_name, column_name, data_type, column_default, is_nullable,
                             is_generated, generation_expression)
            FROM information_schema.columns WHERE table_schema = 'public'
            UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT concat_ws(' ', conname, pg_get_constraintdef(oid))
            FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
            UNION ALL SELECT pg_get_functiondef(oid) FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
            """
        )
    return {row[0] for row in rows}


async def test_creating_the_tables_blocks_nobody_else(
    postgresql_url: str,
) -> None:
    await execute(postgresql_url, "CREATE TABLE theirs (id int)", "INSERT INTO theirs VALUES (1)")
    async with plain_postgresql(postgresql_url) as server, server.transaction():
        await server.execute("UPDATE theirs SET id = 2")
        async with within(5), Outbox(postgresql_url, account()) as outbox:
            await outbox.put(activity(1))


async def test_the_plain_insert_of_the_readme_is_all_that_is_needed(postgresql_url: str) -> None:
    async with Outbox(postgresql_url, account(name="acme")) as outbox:
        for _ in range(2):
            await execute(postgresql_url, shown("sql", "INSERT"))
        assert [e.activity["ActivityEvent"] async for e in outbox.entries()] == [201]
        posting = AsyncActivityPoster(
            account(name="acme"), client=LeadSquared().client(), bucket=OpenBucket()
        )
        assert await outbox.drain(posting) == {"accepted": 1}
        with pytest.raises(asyncpg.DataError, match="json"):
            await execute(
                postgresql_url,
                "INSERT INTO leadpost_entries (account, activity) VALUES ('acme', 'no JSON')",
            )


def test_alembic_ignores_our_tables_as_documented() -> None:
    names: dict[str, Any] = {}
    exec(shown("python", "from leadpost.outbox.database import ddl"), names)
    include: Callable[..., bool] = names["include_object"]
    tables = re.findall(r"CREATE TABLE (\w+)", ddl("postgresql"))
    assert len(tables) > 5
    for name in tables:
        assert not include(None, name, "table", reflected=True, compare_to=None)
    assert include(None, "calls", "table", reflected=True, compare_to=None)
    assert include(None, "leadpost_id", "column", reflected=True, compare_to=None)


async def test_the_schema_creates_only_names_with_our_prefix(postgresql_url: str) -> None:
    await execute(postgresql_url, ddl("postgresql"))
    async with plain_postgresql(postgresql_url) as server:
        rows = await server.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        )
    assert {row[0] for row in rows if not row[0].startswith("leadpost_")} == set()


async def test_a_migration_of_alembic_can_execute_the_schema(postgresql_url: str) -> None:
    """`op.execute` makes it a `text()`, in which colons and percent signs have a meaning."""
    engine = create_async_engine(postgresql_url)
    async with engine.begin() as connection:
        for statement in ddl("postgresql").split(";\n\n")[:-1]:  # as in the README
            await connection.execute(sa.text(statement))
    await engine.dispose()
    async with Outbox(postgresql_url, account()) as outbox:
        await outbox.put(activity(1))
