"""PgBouncer in transaction mode: a stand-in, and where it is installed, a real one too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from database_support import execute, folder_of, name_of, numbers, plain_postgresql, setting
from pooler import PGBOUNCER, PORT, pgbouncer, pooler
from shared_bucket_support import PERIOD, opened, take
from support import LeadSquared, account, activity, fullest, within

from leadpost import AsyncActivityPoster, OpenBucket, OutboxError, OutboxUnavailable
from leadpost.outbox import Outbox

Pooled: TypeAlias = Callable[..., AbstractAsyncContextManager[str]]
REAL = [True] if PGBOUNCER else []


@pytest.fixture(params=[False, *REAL], ids=lambda real: "PgBouncer" if real else "stand-in")
def pooled(request: pytest.FixtureRequest, postgresql_url: str) -> Pooled:
    """Return a context manager that runs a pooler and returns its URL."""

    @asynccontextmanager
    async def run(size: int = 2, option: str = "pgbouncer=true") -> AsyncGenerator[str]:
        folder = folder_of(postgresql_url)
        url = f"postgresql://postgres@/{name_of(postgresql_url)}?{option}&host="
        async with within(300):
            if request.param:
                with pgbouncer(folder, default_pool_size=size) as socket:
                    yield f"{url}{socket}&port={PORT}"
            else:
                async with pooler(str(folder), size) as running:
                    yield f"{url}127.0.0.1&port={running.port}"

    return run


async def create_tables(url: str) -> None:
    async with Outbox(url, account()):
        pass


async def use(url: str, name: str) -> None:
    """Use an outbox as a service does."""
    async with Outbox(url, account(), connections=2) as outbox:
        for number in range(1, 16):
            await asyncio.gather(
                outbox.put(activity(number), key=f"{name}-{number}"),
                outbox.put_many([activity(number)], keys=[f"{name}-many-{number}"]),
                outbox.find([f"{name}-{number}"]),
                outbox.counts(),
            )


async def test_it_needs_the_option(pooled: Pooled, postgresql_url: str) -> None:
    await create_tables(postgresql_url)
    async with pooled(option="pgbouncer=false") as url:
        results = await asyncio.gather(*(use(url, name) for name in "abc"), return_exceptions=True)
    permanent = [str(result) for result in results if type(result) is OutboxError]
    assert permanent
    for message in permanent:
        assert "shared: add pgbouncer=true to the URL" in message
        assert message.endswith(("(26000)", "(42P05)"))


async def test_with_the_option_many_clients_share_it(pooled: Pooled, postgresql_url: str) -> None:
    await create_tables(postgresql_url)
    async with pooled() as url:
        await asyncio.gather(*(use(url, name) for name in "abc"))
    async with Outbox(postgresql_url, account()) as outbox:
        assert (await outbox.counts())["pending"] == 90


async def test_with_the_option_every_method_works(pooled: Pooled) -> None:
    async with pooled() as url, Outbox(url, account()) as outbox:
        assert await outbox.put(activity(1), key="call-1") == 1
        assert await outbox.put(activity(1), key="call-1") == 1
        keys = [f"call-{number}" for number in range(1, 1101)]
        assert await outbox.put_many(map(activity, range(1, 1101)), keys=keys) == 1099
        assert set(await outbox.find(keys[:500])) == set(keys[:500])
        assert (await outbox.counts())["pending"] == 1100
        await outbox.replace({"call-2": activity(7)})
        second = (await outbox.find(["call-2"]))["call-2"]
        assert len(await outbox.history(second.id)) == 2
        assert len(await numbers(url)) == 1100
        assert (await outbox.health()).oldest_pending
        posting = AsyncActivityPoster(account(), client=LeadSquared().client(), bucket=OpenBucket())
        await outbox._database.write(
            lambda connection: connection.execute(
                sa.text("DELETE FROM leadpost_entries WHERE key > 'call-11'")
            )
        )
        left = (await outbox.counts())["pending"]
        assert (await outbox.drain(posting))["accepted"] == left
        assert await outbox.prune(timedelta(0)) == 0
        assert await outbox.adopt("another") == 0


async def test_shared_buckets_keep_one_limit(pooled: Pooled) -> None:
    arrivals: list[float] = []
    async with pooled() as url, opened(url) as one, opened(url) as other:
        await asyncio.gather(*(take(of, arrivals) for of in (one, other) for _ in range(40)))
    assert len(arrivals) == 80
    assert fullest(arrivals, PERIOD) <= 25


async def test_a_transaction_is_on_disk(pooled: Pooled, postgresql_url: str) -> None:
    of = f"ALTER DATABASE {name_of(postgresql_url)} SET"
    await execute(postgresql_url, f"{of} synchronous_commit = off")
    async with pooled() as url, Outbox(url, account()) as outbox:
        assert await outbox._database.write(setting("synchronous_commit")) == "on"
        assert await outbox._database.write(setting("transaction_isolation")) == "read committed"


async def test_a_cancelled_call_leaves_nothing_behind(pooled: Pooled, postgresql_url: str) -> None:
    async with pooled(size=1) as url, Outbox(url, account()) as outbox:
        async with plain_postgresql(postgresql_url) as server, server.transaction():
            await server.execute("LOCK TABLE leadpost_entries")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await outbox.put(activity(1))
        await outbox.put(activity(2))
        assert await numbers(url) == [2]


async def test_an_unsupported_option_is_an_error_in_its_words(pooled: Pooled) -> None:
    async with pooled(option="pgbouncer=true&options=-c%20search_path%3Dcrm") as url:
        with pytest.raises(OutboxError) as caught:
            await create_tables(url)
    words = r"unsupported startup parameter(: options| in options: search_path) \(08P01\)$"
    assert caught.match(words)
    assert not isinstance(caught.value, OutboxUnavailable)


STAND_IN_REFUSALS = [
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
]
AWAY: dict[str, Any] = {"databases": "* = host=/nowhere"}
REAL_REFUSALS: list[tuple[dict[str, Any], str, bool]] = [
    ({"databases": "crm = host={}"}, "no such database: leadpost_", False),
    ({"auth_file": "/dev/null"}, "authentication failed", False),
    ({"auth_type": "md5"}, "password authentication failed", False),
    ({"auth_type": "scram-sha-256"}, "SASL authentication failed", False),
    ({"auth_type": "any"}, "bouncer config error", False),
    ({"auth_type": "hba", "auth_hba_file": "/dev/null"}, "login rejected", False),
    ({"max_client_conn": 0}, "no more connections allowed (max_client_conn)", True),
    (AWAY | {"query_wait_timeout": 1}, "query_wait_timeout", True),
    (AWAY | {"client_login_timeout": 1}, "client_login_timeout (server down)", True),
]


@pytest.mark.parametrize(
    ("settings", "words", "passes"),
    [
        *((None, *refusal) for refusal in STAND_IN_REFUSALS),
        *(REAL_REFUSALS if PGBOUNCER else ()),
    ],
)
async def test_its_refusals_are_quoted_and_permanent_or_temporary(
    postgresql_url: str, settings: dict[str, Any] | None, words: str, *, passes: bool
) -> None:
    folder = folder_of(postgresql_url)
    url = f"postgresql://postgres:wrong@/{name_of(postgresql_url)}?pgbouncer=true&host="
    async with AsyncExitStack() as stack:
        if settings is None:
            running = await stack.enter_async_context(pooler(str(folder)))
            running.refusal = words
            url += f"127.0.0.1&port={running.port}"
        else:
            socket = stack.enter_context(pgbouncer(folder, **settings))
            url += f"{socket}&port={PORT}"
        with pytest.raises(OutboxError) as caught:
            await create_tables(url)
    assert isinstance(caught.value, OutboxUnavailable) is passes
    # Later versions may have a SQLSTATE for each refusal, and then the words are leadpost's own.
    message = str(caught.value)
    assert words.replace("postgres", "…") in message or "(08P01)" not in message
