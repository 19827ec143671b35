"""The owners of entries: two accounts in one database, rotated keys, borrowed names."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from outbox_support import executed, states, until_logged, working
from sqlalchemy.ext.asyncio import create_async_engine
from support import LeadSquared, account, activity

from leadpost import (
    Account,
    AsyncActivityPoster,
    ConfigurationError,
    KeyConflict,
    OpenBucket,
    OutboxError,
)
from leadpost.outbox import Outbox

A = account(access_key="access-key-of-a")
B = account(access_key="access-key-of-b")


def poster_of(account: Account, leadsquared: LeadSquared) -> AsyncActivityPoster:
    return AsyncActivityPoster(account, client=leadsquared.client(), bucket=OpenBucket())


def test_the_id_of_an_account_is_its_name_or_a_fingerprint_of_host_and_access_key() -> None:
    assert A.id == A.fingerprint
    assert len(A.fingerprint) == 16
    assert A.fingerprint == account(access_key="access-key-of-a", secret_key="another").fingerprint
    others = {
        B.fingerprint,
        account(host="http://127.0.0.1:8", access_key=A.access_key).fingerprint,
    }
    assert len({A.fingerprint, *others}) == 3
    assert A.access_key not in A.fingerprint
    assert account(name="acme").id == "acme"
    assert (
        Account.from_env(
            {
                "LEADPOST_HOST": "http://127.0.0.1:9",
                "LEADPOST_ACCESS_KEY": "access-key",
                "LEADPOST_SECRET_KEY": "secret-key",
                "LEADPOST_API_KEY": "api-key",
                "LEADPOST_ACCOUNT": "acme-production",
            }
        ).id
        == "acme-production"
    )


@pytest.mark.parametrize("name", ["two words", "a\nb", "x" * 101, "a/b"])
def test_a_name_has_letters_digits_dots_and_hyphens(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"name \(LEADPOST_ACCOUNT\)"):
        account(name=name)


async def test_entries_are_posted_only_with_the_keys_of_their_account(store_url: str) -> None:
    of_a, of_b = LeadSquared(), LeadSquared()
    async with Outbox(store_url, A) as ours, Outbox(store_url, B) as theirs:
        await ours.put_many(map(activity, (1, 2, 3)), keys=["one", "two", "three"])
        await theirs.put(activity(9), key="one")  # keys are unique within an account
        with pytest.raises(ValueError, match=r"the outbox belongs to .*, the poster to"):
            await ours.drain(poster_of(B, of_b))
        for run in (ours.run, ours.verify, ours.reconcile):
            use: Any = run(poster_of(B, of_b))
            with pytest.raises(ValueError, match=r"the outbox belongs to .*, the poster to"):
                await use
        assert await theirs.drain(poster_of(B, of_b)) == {"accepted": 1}
        assert (of_a.requests, of_b.numbers) == ([], [9])
        assert await ours.others() == {B.id: 1}
        assert await theirs.others() == {A.id: 3}
        assert await states(ours) == ["pending"] * 3
        assert (await theirs.counts())["accepted"] == 1
        assert (await theirs.health()).counts["pending"] == 0
        assert (await theirs.find(["one", "two"])).keys() == {"one"}
        assert await theirs.history(1) == []
        assert await theirs.retry("failed", "rejected", ids=[1, 2, 3]) == 0
        assert await theirs.prune(timedelta(0)) == 0
        with pytest.raises(KeyConflict):
            await theirs.replace({"two": activity(5)})
        assert await ours.drain(poster_of(A, of_a)) == {"accepted": 3}
        assert of_a.numbers == [1, 2, 3]


async def test_entries_of_other_accounts_are_not_settled(store_url: str) -> None:
    async with Outbox(store_url, A) as ours, Outbox(store_url, B) as theirs:
        first = await ours.put(activity(1))
        entries = sa.text("UPDATE leadpost_entries SET state = 'uncertain', ends_by = 0")
        await executed(ours, entries)
        assert await theirs.arrived([first]) == 0
        assert await theirs.reconcile(poster_of(B, LeadSquared())) == {}
        await executed(ours, sa.text("UPDATE leadpost_entries SET state = 'accepted'"))
        assert await theirs.verify(poster_of(B, LeadSquared())) == {}
        await executed(ours, sa.text("UPDATE leadpost_entries SET state = 'sending'"))
        await theirs.drain(poster_of(B, LeadSquared()))
        assert await states(ours) == ["sending"]
        await ours.drain(poster_of(A, LeadSquared()))
        assert await states(ours) == ["uncertain"]


async def test_after_a_rotation_entries_are_adopted(store_url: str) -> None:
    leadsquared = LeadSquared()
    async with Outbox(store_url, A) as before:
        await before.put_many(map(activity, (1, 2)), keys=["one", "two"])
    async with Outbox(store_url, B) as outbox:
        await outbox.put(activity(3), key="three")
        assert await outbox.drain(poster_of(B, leadsquared)) == {"accepted": 1}
        assert await outbox.others() == {A.fingerprint: 2}
        assert await outbox.adopt(A.fingerprint) == 2
        assert await outbox.adopt(A.fingerprint) == 0
        assert await outbox.others() == {}
        assert await outbox.drain(poster_of(B, leadsquared)) == {"accepted": 2}
        assert sum((await outbox.counts()).values()) == 3


async def test_more_entries_are_adopted_than_one_statement_covers(store_url: str) -> None:
    async with Outbox(store_url, A) as before, Outbox(store_url, B) as outbox:
        await before.put_many(map(activity, range(1, 1102)))
        await executed(before, sa.text("UPDATE leadpost_entries SET state='failed' WHERE id > 700"))
        await outbox.put(activity(1102))
        assert await outbox.adopt(A.id) == 1101
        assert await outbox.adopt(B.id) == 0
        assert await states(before) == []
        counts = await outbox.counts()
        assert (counts["pending"], counts["failed"]) == (701, 401)


async def test_entries_with_the_same_key_are_not_adopted(store_url: str) -> None:
    async with Outbox(store_url, A) as ours, Outbox(store_url, B) as theirs:
        await ours.put_many(map(activity, (1, 2)), keys=["one", "two"])
        await theirs.put(activity(1), key="one")
        with pytest.raises(KeyConflict, match="both accounts have entries") as caught:
            await theirs.adopt(A.id)
        assert caught.value.keys == ("one",)
        assert len(await states(ours)) == 2


async def test_a_name_with_other_keys_raises_until_it_is_adopted(store_url: str) -> None:
    """The key of acme was rotated; or somebody copied the name to the staging account."""
    first = account(name="acme", access_key=A.access_key)
    second = account(name="acme", access_key=B.access_key)
    leadsquared = LeadSquared()
    async with Outbox(store_url, first) as outbox:
        await outbox.put_many(map(activity, (1, 2)))
        with pytest.raises(ValueError, match="have different keys; pass the same Account"):
            await outbox.drain(poster_of(second, leadsquared))
        await outbox.drain(poster_of(first, leadsquared))
        await outbox.put(activity(3))
    async with Outbox(store_url, second) as outbox:
        refused = (
            outbox.put(activity(4)),
            outbox.put_many([activity(4)]),
            outbox.drain(poster_of(second, leadsquared)),
            outbox.run(poster_of(second, leadsquared)),
            outbox.verify(poster_of(second, leadsquared)),
        )
        advice = f"leadpost outbox adopt {first.fingerprint}"
        for use in refused:
            with pytest.raises(OutboxError, match=f"belong to other keys.*{advice}"):
                await use
        assert len(leadsquared.requests) == 2
        assert await outbox.adopt(first.fingerprint) == 0  # they have the right name already
        assert await outbox.drain(poster_of(second, leadsquared)) == {"accepted": 1}
    async with Outbox(store_url, first) as outbox:
        with pytest.raises(OutboxError, match="belong to other keys"):
            await outbox.put(activity(5))


async def test_keys_belong_to_whoever_puts_first(store_url: str) -> None:
    first = account(name="acme", access_key=A.access_key)
    second = account(name="acme", access_key=B.access_key)
    leadsquared = LeadSquared()
    async with Outbox(store_url, second) as staging, Outbox(store_url, first) as production:
        await production.put(activity(1))
        with pytest.raises(OutboxError, match="belong to other keys"):
            await staging.drain(poster_of(second, leadsquared))
        engine = create_async_engine(store_url)
        async with engine.connect() as connection:
            with pytest.raises(OutboxError, match="belong to other keys"):
                await staging.put(activity(2), connection=connection)
        await engine.dispose()
        assert leadsquared.requests == []
        # An outbox that is open notices that another process adopts its entries.
        async with Outbox(store_url, second) as command:
            await command.adopt(first.fingerprint)
        await staging.put(activity(2))
        assert await staging.drain(poster_of(second, leadsquared)) == {"accepted": 2}


async def test_two_workers_that_begin_at_once_agree_on_the_keys(store_url: str) -> None:
    named = [account(name="acme", access_key=one.access_key) for one in (A, B)]
    async with Outbox(store_url, "acme") as one, Outbox(store_url, "acme") as other:
        await one.put(activity(1))
        ended = await asyncio.gather(
            one.drain(poster_of(named[0], LeadSquared())),
            other.drain(poster_of(named[1], LeadSquared())),
            return_exceptions=True,
        )
    assert sorted(type(end).__name__ for end in ended) == ["Counter", "OutboxError"]


async def test_entries_can_be_adopted_by_name_alone(store_url: str) -> None:
    async with Outbox(store_url, "old") as former:
        await former.put(activity(1), key="call-1")
    async with Outbox(store_url, "acme") as outbox:
        assert await outbox.adopt("old") == 1
        assert await outbox.adopt("acme") == 0
        assert set(await outbox.find(["call-1"])) == {"call-1"}


async def test_a_worker_logs_that_it_leaves_others_entries_alone(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Outbox(store_url, B) as other:
        await other.put_many([activity(1), activity(2)])
    async with (
        Outbox(store_url, A) as outbox,
        poster_of(A, LeadSquared()) as poster,
        working(outbox.run(poster)),
    ):
        await until_logged(caplog, "unfinished entries of other accounts")
    assert f"other accounts are not posted: 2 of {B.fingerprint}" in caplog.text
