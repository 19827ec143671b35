"""Frequent statements find their rows by an index, however many entries there are."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa
from outbox_support import ACME, executed
from sqlalchemy import event
from support import activity

from leadpost.outbox import Outbox
from leadpost.outbox.database import _calls, _settling
from leadpost.outbox.database._calls import Claim, Result
from leadpost.outbox.database._sql import Transaction

ENTRIES = 3000
STATES = ("pending", "accepted", "succeeded", "uncertain")


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    """Some of each state, just inserted, so that no planner has statistics."""
    async with Outbox(store_url, ACME) as opened:
        rows = [f"row-{number}" for number in range(ENTRIES)]
        await opened.put_many([activity(1)] * ENTRIES, keys=rows)
        for number, state in enumerate(STATES):
            update = f"UPDATE leadpost_entries SET state = '{state}' WHERE id % 4 = {number}"
            await executed(opened, sa.text(update))
        await opened.put(activity(1), key="today/1")
        yield opened


def tried(transaction: Transaction) -> None:
    assert _calls.claim(transaction, "trial", 40.0, is_trial=True) is not None


def of_a_batch(transaction: Transaction) -> None:
    assert _calls.next_due(transaction, "today") == 0
    assert _calls.claim(transaction, "of a batch", 40.0, batch="today") is not None


def claimed(transaction: Transaction) -> None:
    call = _calls.claim(transaction, "call", 40.0)
    assert call is not None
    assert _calls.record(transaction, call, Result("accepted", request_id="r1"))


def checked(transaction: Transaction) -> None:
    assert _settling.next_query(transaction) == 0
    entry = _settling.claim_accepted(transaction)
    assert entry is not None
    verdict = _settling.Verdict("succeeded", activity_id="a1")
    assert _settling.settle(transaction, entry, "accepted", verdict)


def looked_after(transaction: Transaction) -> None:
    _calls.be_seen(transaction, None, 1.0, 1.0)
    _calls.expire(transaction)
    assert not _calls.is_claimed(transaction, Claim(1, "call", "{}", 0, is_uncertain=False))


def within_a_transaction(
    work: Callable[[Transaction], object],
) -> Callable[[Outbox], Awaitable[object]]:
    return lambda outbox: outbox._store.write(work)


async def listed(outbox: Outbox) -> None:
    assert await anext(outbox.entries()) is not None
    assert await anext(outbox.entries("uncertain", "failed")) is not None


async def listed_and_counted(outbox: Outbox) -> None:
    assert [entry.key async for entry in outbox.entries("pending", batch="today")] == ["today/1"]
    assert (await outbox.counts("today"))["pending"] == 1


STEADY: dict[str, Callable[[Outbox], Awaitable[object]]] = {
    "claim and record": within_a_transaction(claimed),
    "claim for a trial": within_a_transaction(tried),
    "next due": within_a_transaction(_calls.next_due),
    "of a batch": within_a_transaction(of_a_batch),
    "list and count a batch": listed_and_counted,
    "ask and settle": within_a_transaction(checked),
    "is posting": within_a_transaction(_settling.is_posting),
    "looking after": within_a_transaction(looked_after),
    "put": lambda outbox: outbox.put(activity(2), key="new"),
    "put again": lambda outbox: outbox.put(activity(1), key="row-7"),
    "find": lambda outbox: outbox.find([f"row-{number}" for number in range(500)]),
    "list": listed,
    "counts": lambda outbox: outbox.counts(),
    "health": lambda outbox: outbox.health(),
    "history": lambda outbox: outbox.history(1),
    "prune": lambda outbox: outbox.prune(timedelta(hours=1)),
}


@contextmanager
def recorded(outbox: Outbox) -> Generator[list[tuple[str, Any]]]:
    """Yield the statements that are executed, with their values."""
    statements: list[tuple[str, Any]] = []
    engine = outbox._database._engine
    assert engine is not None

    def note(*args: Any) -> None:
        if re.search("leadpost_(entries|changes|counts)", args[2]):
            statements.append((args[2], args[3]))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    assert statements


async def plan_of(outbox: Outbox, statements: list[tuple[str, Any]], postgresql: str) -> str:
    """Return the plans of statements; `postgresql` is its EXPLAIN."""

    def plans(connection: sa.Connection) -> str:
        explain = "EXPLAIN QUERY PLAN" if outbox._database.is_sqlite else postgresql
        found = [
            connection.exec_driver_sql(f"{explain} {sql}", values) for sql, values in statements
        ]
        return "\n".join(str(row[-1]) for plan in found for row in plan)

    return await outbox._database.write(plans)


@pytest.mark.parametrize("name", STEADY)
async def test_no_steady_statement_scans_the_table(outbox: Outbox, name: str) -> None:
    with recorded(outbox) as statements:
        await STEADY[name](outbox)
    plan = await plan_of(outbox, statements, "EXPLAIN")
    assert "Seq Scan on leadpost_entries" not in plan
    assert "Seq Scan on leadpost_changes" not in plan
    assert not re.search(r"SCAN leadpost_(entries|changes)", plan)
    # A walk along all ids, in order, is a scan too.
    for line, following in pairwise([*plan.splitlines(), ""]):
        if re.search("_pkey on leadpost_(entries|changes)", line):
            assert following.lstrip().startswith("Index Cond")
    if "batch" in name:  # all other entries that are pending may be before it
        assert plan.count("leadpost_entries_batch") == 2
        assert "leadpost_entries_pending" not in plan
        assert "leadpost_entries_state" not in plan
    if name in {"claim and record", "ask and settle", "of a batch"}:
        assert "TEMP B-TREE" not in plan
        assert "Sort" not in plan


async def test_a_page_reads_only_its_own_entries(store_url: str) -> None:
    """In a queue, finished entries come before pending ones; a planner does not know that."""
    async with Outbox(store_url, ACME) as outbox:
        rows = [f"row-{number}" for number in range(ENTRIES)]
        await outbox.put_many([activity(1)] * ENTRIES, keys=rows)
        half = f"id <= {ENTRIES // 2}"
        await executed(
            outbox, sa.text(f"UPDATE leadpost_entries SET state='succeeded' WHERE {half}")
        )
        await executed(outbox, sa.text("ANALYZE leadpost_entries"))
        with recorded(outbox) as statements:
            pending = [entry.id async for entry in outbox.entries("pending", "rejected")]
        assert pending == sorted(pending)
        assert len(pending) == ENTRIES // 2
        plan = await plan_of(outbox, statements, "EXPLAIN (ANALYZE)")
        assert "Rows Removed by Filter" not in plan
        assert "Merge" not in plan
        assert not re.search(r"SCAN leadpost_entries", plan)
        if outbox._database.is_sqlite:
            assert "leadpost_entries_state (account=? AND state=? AND id>?)" in plan
        else:
            assert "leadpost_entries_state" in plan
            assert "(id > " not in plan


async def test_the_oldest_pending_entry_is_found_by_an_index(store_url: str) -> None:
    """A planner that believes all entries to be pending would read them in the order of ids."""
    async with Outbox(store_url, ACME) as outbox:
        await outbox.put_many([activity(1)] * ENTRIES)
        await executed(outbox, sa.text("ANALYZE leadpost_entries"))
        await executed(outbox, sa.text("UPDATE leadpost_entries SET state = 'succeeded'"))
        with recorded(outbox) as statements:
            assert (await outbox.health()).oldest_pending is None
        plan = await plan_of(outbox, statements, "EXPLAIN (ANALYZE)")
        assert "Rows Removed by Filter" not in plan
        assert "leadpost_entries_pkey" not in plan
