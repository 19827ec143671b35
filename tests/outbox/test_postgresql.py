"""PostgreSQL: settings, connections, PgBouncer, roles and schema."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from database_support import changed, folder_of, plain_postgresql
from pooler import Pooler, pooler
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from support import Vendor, account, activity, within

from leadpost import AsyncActivityPoster, OpenBucket, OutboxError, OutboxUnavailable
from leadpost import outbox as outbox_package
from leadpost.outbox import Outbox, _worker
from leadpost.outbox.database import Database, ddl


async def numbers(outbox: Outbox) -> list[int]:
    return [entry.activity["ActivityEvent"] async for entry in outbox.entries()]


async def execute(url: str, *statements: str, **changes: Any) -> None:
    async with plain_postgresql(url, **changes) as server:
        for statement in statements:
            await server.execute(statement)


def name_of(url: str) -> str:
    return str(sa.make_url(url).database)


# Settings.


def setting(name: str) -> Callable[[AsyncConnection], Awaitable[str]]:
    async def ask(connection: AsyncConnection) -> str:
        return str((await connection.exec_driver_sql(f"SHOW {name}")).scalar_one())

    return ask


@pytest.mark.parametrize(
    ("name", "default", "ours"),
    [
        ("synchronous_commit", "off", "on"),
        ("synchronous_commit", "remote_apply", "remote_apply"),
        ("synchronous_commit", "local", "local"),
        ("default_transaction_isolation", "serializable", "serializable"),
        ("transaction_isolation", "", "read committed"),
        ("idle_in_transaction_session_timeout", "0", "5s"),
    ],
)
async def test_a_transaction_has_its_settings_whatever_the_defaults_of_the_database(
    postgresql_url: str, name: str, default: str, ours: str
) -> None:
    of = f"ALTER DATABASE {name_of(postgresql_url)} SET"
    await execute(postgresql_url, f"{of} default_transaction_isolation = serializable")
    if default:
        await execute(postgresql_url, f"{of} {name} = '{default}'")
    async with Outbox(postgresql_url, account()) as outbox:
        assert await outbox._database.write(setting(name)) == ours
        if name != "idle_in_transaction_session_timeout":
            assert await outbox._database.read(setting(name)) == ours


async def test_a_transaction_that_need_not_be_durable_keeps_the_default(
    postgresql_url: str,
) -> None:
    await execute(
        postgresql_url, f"ALTER DATABASE {name_of(postgresql_url)} SET synchronous_commit = off"
    )
    database = Database(postgresql_url, durable=False)
    await database.open()
    assert await database.write(setting("synchronous_commit")) == "off"
    await database.aclose()


async def test_settings_end_with_the_transaction(postgresql_url: str) -> None:
    await execute(
        postgresql_url, f"ALTER DATABASE {name_of(postgresql_url)} SET synchronous_commit = off"
    )
    async with Outbox(postgresql_url, account(), connections=1) as outbox:
        await outbox.put(activity(1))
        engine = outbox._database._opened()
        async with engine.connect() as connection:
            assert await setting("synchronous_commit")(connection) == "off"


# Connections.


async def backends(url: str) -> list[int]:
    """Return the processes that serve an outbox."""
    async with plain_postgresql(url) as server:
        rows = await server.fetch(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'leadpost'"
        )
    return [row["pid"] for row in rows]


async def test_killed_connections_are_replaced(postgresql_url: str) -> None:
    async with Outbox(postgresql_url, account(), connections=3) as outbox, within(20):
        await outbox.put(activity(1), key="call-1")
        for method in (
            lambda: outbox.put(activity(2)),
            lambda: outbox.put_many([activity(3)]),
            lambda: outbox.find(["call-1"]),
            outbox.counts,
        ):
            await asyncio.gather(*(outbox.counts() for _ in range(3)))
            await kill_backends(postgresql_url)
            await method()
        assert await numbers(outbox) == [1, 2, 3]


async def kill_backends(url: str) -> None:
    pids = await backends(url)
    assert pids
    async with plain_postgresql(url) as server:
        for pid in pids:
            await server.execute(f"SELECT pg_terminate_backend({pid})")
    while set(await backends(url)) & set(pids):
        await asyncio.sleep(0.01)


async def test_a_process_has_at_most_its_number_of_connections(postgresql_url: str) -> None:
    async with Outbox(postgresql_url, account(), connections=3) as outbox, within(20):
        await asyncio.gather(
            *(outbox.put(activity(number)) for number in range(1, 30)),
            *(outbox.counts() for _ in range(30)),
        )
        assert len(await backends(postgresql_url)) == 3
    while await backends(postgresql_url):
        await asyncio.sleep(0.01)


async def test_a_run_ends_although_its_table_is_locked(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "GRACE", 0.1)
    monkeypatch.setattr(_worker, "_RECORDING", 0.1)
    vendor = Vendor()
    posting = AsyncActivityPoster(account(), client=vendor.client(), bucket=OpenBucket())
    async with (
        Outbox(postgresql_url, account()) as outbox,
        plain_postgresql(postgresql_url) as holder,
        within(30),
    ):
        await outbox.put(activity(1))
        running = asyncio.create_task(outbox.run(posting))
        while not vendor.requests:
            await asyncio.sleep(0.01)
        async with holder.transaction():
            await holder.execute("LOCK TABLE leadpost_entries")
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


# PgBouncer.


@asynccontextmanager
async def pooled(
    url: str, *, size: int = 2, option: str = "pgbouncer=true"
) -> AsyncGenerator[tuple[str, Pooler]]:
    """Create the tables, run a pooler, and return its URL too."""
    async with Outbox(url, account()):
        pass
    login = f"{sa.make_url(url).username}@127.0.0.1"
    async with pooler(str(folder_of(url)), size) as running, within(60):
        yield f"postgresql://{login}:{running.port}/{name_of(url)}?{option}", running


async def use_both(one: Outbox, other: Outbox) -> None:
    for number in range(1, 30):
        await asyncio.gather(
            one.put(activity(number), key=f"a{number}"),
            other.put(activity(number), key=f"b{number}"),
            one.find([f"a{number}"]),
            other.counts(),
        )


async def test_a_pooler_in_transaction_mode_needs_the_option(postgresql_url: str) -> None:
    async with pooled(postgresql_url, option="") as (url, _):
        with pytest.raises(OutboxError, match="shared: add pgbouncer=true to the URL") as caught:
            async with Outbox(url, account()) as one, Outbox(url, account()) as other:
                await use_both(one, other)
        assert str(caught.value).endswith(("(26000)", "(42P05)"))
        assert not isinstance(caught.value, OutboxUnavailable)


async def test_with_the_option_every_method_works_through_a_pooler(postgresql_url: str) -> None:
    async with pooled(postgresql_url) as (url, running), Outbox(url, account()) as outbox:
        assert await outbox.put(activity(1), key="call-1") == 1
        assert await outbox.put(activity(1), key="call-1") == 1
        keys = [f"call-{number}" for number in range(1, 1101)]
        assert await outbox.put_many(map(activity, range(1, 1101)), keys=keys) == 1099
        assert set(await outbox.find(keys[:500])) == set(keys[:500])
        assert (await outbox.counts())["pending"] == 1100
        await outbox.replace({"call-2": activity(7)})
        second = (await outbox.find(["call-2"]))["call-2"]
        assert len(await outbox.history(second.id)) == 2
        assert len(await numbers(outbox)) == 1100
        assert (await outbox.health()).oldest_pending
        posting = AsyncActivityPoster(account(), client=Vendor().client(), bucket=OpenBucket())
        await outbox._database.write(
            lambda connection: connection.execute(
                sa.text("DELETE FROM leadpost_entries WHERE key > 'call-11'")
            )
        )
        left = (await outbox.counts())["pending"]
        assert (await outbox.drain(posting))["accepted"] == left
        assert await outbox.prune(timedelta(0)) == 0
        assert await outbox.adopt("another") == 0
    assert running.lent > 50


async def test_with_the_option_many_clients_share_a_pooler(postgresql_url: str) -> None:
    async def use(url: str, name: str) -> None:
        async with Outbox(url, account(), connections=2) as outbox:
            for number in range(1, 16):
                await asyncio.gather(
                    outbox.put(activity(number), key=f"{name}-{number}"),
                    outbox.put_many([activity(number)], keys=[f"{name}-many-{number}"]),
                    outbox.find([f"{name}-{number}"]),
                    outbox.counts(),
                )

    async with pooled(postgresql_url) as (url, running):
        await asyncio.gather(*(use(url, name) for name in "abc"))
    assert running.lent > 180
    async with Outbox(postgresql_url, account()) as outbox:
        assert (await outbox.counts())["pending"] == 90


async def test_a_transaction_through_a_pooler_is_on_disk_too(postgresql_url: str) -> None:
    await execute(
        postgresql_url, f"ALTER DATABASE {name_of(postgresql_url)} SET synchronous_commit = off"
    )
    async with pooled(postgresql_url) as (url, _), Outbox(url, account()) as outbox:
        assert await outbox._database.write(setting("synchronous_commit")) == "on"
        assert await outbox._database.write(setting("transaction_isolation")) == "read committed"


async def test_a_cancelled_call_leaves_nothing_in_a_pooler(postgresql_url: str) -> None:
    async with (
        pooled(postgresql_url, size=1) as (url, _),
        Outbox(url, account()) as outbox,
    ):
        async with plain_postgresql(postgresql_url) as server, server.transaction():
            await server.execute("LOCK TABLE leadpost_entries")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await outbox.put(activity(1))
        await outbox.put(activity(2))
        assert await numbers(outbox) == [2]


async def test_tables_are_created_through_a_pooler(postgresql_url: str) -> None:
    parsed = sa.make_url(postgresql_url)
    async with pooler(str(folder_of(postgresql_url))) as running, within(20):
        url = (
            f"postgres://{parsed.username}@127.0.0.1:{running.port}/{parsed.database}"
            "?pgbouncer=true"
        )
        async with Outbox(url, account()) as outbox:
            await outbox.put(activity(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "&options=-c%20search_path%3Dcrm",
            "unsupported startup parameter in options: search_path (08P01)",
        ),
        ("&options=-c%20timezone%3DUTC", None),
    ],
)
async def test_an_error_of_a_pooler_is_quoted(
    postgresql_url: str, options: str, words: str | None
) -> None:
    async with pooled(postgresql_url) as (url, _):
        outbox = Outbox(url + options, account())
        if words is None:
            async with outbox:
                return
        with pytest.raises(OutboxError) as caught:
            await outbox.__aenter__()
        assert str(caught.value) == f"postgresql://127.0.0.1/{name_of(postgresql_url)}: {words}"
        assert not isinstance(caught.value, OutboxUnavailable)


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("no such database: crm", False),
        ("no such user: postgres", False),
        ("SASL authentication failed", False),
        ("SSL required", False),
        ("no more connections allowed (max_client_conn)", True),
        ("client connections exceeded (max_user_client_connections)", True),
        ("query_wait_timeout", True),
        ("client_login_timeout (server down)", True),
        ("pooler is shutting down", True),
        ("server conn crashed?", True),
        ("server login has been failing, cached error: gone (server_login_retry)", True),
    ],
)
async def test_an_error_of_a_pooler_is_temporary_or_permanent(
    postgresql_url: str, words: str, *, passes: bool
) -> None:
    async with pooled(postgresql_url) as (url, running):
        running.refusal = words
        with pytest.raises(OutboxError) as caught:
            await Outbox(url, account()).__aenter__()
    assert isinstance(caught.value, OutboxUnavailable) is passes
    assert f"{words.replace('postgres', '…')} (08P01)" in str(caught.value)


# Roles and schema.


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
    yield changed(url, username=name)
    await execute(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def test_a_read_only_role_can_read_everything(postgresql_url: str) -> None:
    async with Outbox(postgresql_url, account()) as outbox:
        await outbox.put(activity(1), key="call-1")
    async with (
        role(postgresql_url, "SELECT ON ALL TABLES IN SCHEMA public") as url,
        Outbox(url, account()) as outbox,
    ):
        assert (await outbox.counts())["pending"] == 1
        assert await numbers(outbox) == [1]
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
    await execute(postgresql_url, ddl("postgresql"))
    async with role(postgresql_url) as url:
        name = str(sa.make_url(url).username)
        await execute(postgresql_url, shown("sql", "GRANT").replace("TO worker", f"TO {name}"))
        async with Outbox(url, account()) as outbox:
            await outbox.put(activity(1))
            await outbox.put_many(map(activity, range(2, 5)), keys=["a", "b", "c"])
            posting = AsyncActivityPoster(account(), client=Vendor().client(), bucket=OpenBucket())
            assert (await outbox.drain(posting))["accepted"] == 4
            assert (await outbox.counts())["accepted"] == 4
            await outbox.adopt("another")
            assert await outbox.prune(timedelta(0)) == 0


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
        assert await numbers(outbox) == [201]
        posting = AsyncActivityPoster(
            account(name="acme"), client=Vendor().client(), bucket=OpenBucket()
        )
        assert await outbox.drain(posting) == {"accepted": 1}
        with pytest.raises(asyncpg.DataError, match="json"):
            await execute(
                postgresql_url,
                "INSERT INTO leadpost_entries (account, activity) VALUES ('acme', 'no JSON')",
            )


def test_alembic_ignores_our_tables_as_documented() -> None:
    names: dict[str, Any] = {}
    exec(shown("python", "def include_object").partition("\n\n\n")[0], names)
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
