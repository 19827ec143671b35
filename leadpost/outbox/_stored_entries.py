"""Entries that are stored: reading them, and changing them by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import timedelta

from leadpost._models import Item
from leadpost.outbox._entry import STATES, Change, Entry, EntryState, Health
from leadpost.outbox._new_entries import checked_key, json_of
from leadpost.outbox.database import Database, Store, _edits, _entries
from leadpost.outbox.database._entries import PART
from leadpost.outbox.database._sql import UNSTORABLE


class StoredEntries:
    """
    The entries of an account: what `Outbox` does with them besides putting and posting.

    Args:
        database: The database.
        account: The account's id.
    """

    def __init__(self, database: Database, account: str) -> None:
        self.account = account
        self._database = database
        self._store = Store(database, account=account)
        self._news = asyncio.Event()  # wakes this process's worker

    @property
    def database(self) -> Database:
        """The database, for the tables of leadpost's command."""
        return self._database

    # Reading.

    async def find(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries of up to 500 `keys`, by key, without unknown ones."""
        if isinstance(keys, str) or len(keys) > PART:
            raise ValueError(f"keys must be a list of up to {PART} keys")
        storable = [key for key in keys if not UNSTORABLE.search(key)]  # no entry has others
        return await self._store.read(_entries.find, storable)

    async def entries(self, *states: EntryState, batch: str | None = None) -> AsyncGenerator[Entry]:
        """
        Yield entries in the order in which they were put.

        Args:
            states: Only the entries in these states; by default all.
            batch: Only the entries of this batch, as for `drain`.
        """
        last = 0
        while True:
            page = await self._store.read(
                _entries.page, states=states or STATES, after=last, batch=batch
            )
            for entry in page:
                yield entry
            if len(page) < PART:
                return
            last = page[-1].id

    async def history(self, entry_id: int) -> list[Change]:
        """Return the changes of state of the entry `entry_id`, oldest first; [] if unknown."""
        return await self._store.read(_entries.history, entry_id)

    async def counts(self, batch: str | None = None) -> dict[EntryState, int]:
        """Count the entries in each state; with a `batch`, only those of it, as for `drain`."""
        return await self._store.read(_entries.count, batch)

    async def others(self) -> dict[str, int]:
        """Count the unfinished entries of other accounts in the same database, by account."""
        return await self._store.read(_entries.count_of_others)

    async def health(self) -> Health:
        """Return the data for a health check: counts, oldest pending entry, worker, outage."""
        return await self._store.read(_entries.health)

    # Changing by hand.

    async def retry(self, *states: EntryState, ids: Sequence[int] | None = None) -> int:
        """
        Make entries pending again, and return their number.

        Args:
            states: Only entries in these states: `failed`, `rejected`, or `uncertain`, which may
                post an activity twice.
            ids: Only entries with these ids.

        Raises:
            ValueError: there is no state, or another one.
        """
        if not states or set(states) - {"failed", "rejected", "uncertain"}:
            raise ValueError(
                f"states: found {', '.join(states) or 'none'}, wanted failed, rejected or uncertain"
            )
        done = await self._store.write_many(_edits.retry, states=states, ids=ids)
        self._news.set()
        return done

    async def replace(self, activities: Mapping[str, Item]) -> None:
        """
        Replace the activities of entries that were not accepted, and make the entries pending.

        Args:
            activities: Key to activity, as for `put`.

        Raises:
            InvalidActivity: one is invalid; none was replaced.
            KeyConflict: a key is unknown, or its entry may have been accepted; none was replaced.
            ValueError: a key is empty or contains a character that no database stores.
        """
        texts = {checked_key(key): json_of(activity) for key, activity in activities.items()}
        await self._store.write_many(_edits.replace, texts)
        self._news.set()

    async def arrived(self, ids: Sequence[int]) -> int:
        """
        Make `uncertain` entries `succeeded`, because somebody has seen them on their leads.

        Args:
            ids: The entries' ids; those that are not uncertain are skipped.

        Returns:
            The number of changed entries.
        """
        return await self._store.write_many(_edits.arrived, ids)

    async def prune(self, older_than: timedelta) -> int:
        """
        Delete entries that finished longer ago than `older_than`, and return their number.

        It deletes 500 at a time, so that nobody waits; what is deleted stays so if this raises.
        """
        if older_than < timedelta(0):
            raise ValueError(f"older_than: found {older_than}, wanted a time of zero or more")
        done = 0
        while part := await self._store.write(_edits.prune, older_than.total_seconds()):
            done += part
        return done
