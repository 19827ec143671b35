"""`Outbox`: a durable queue of activities."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from leadpost._batch import Item, Source, numbered
from leadpost._models import Activity
from leadpost._poster import AsyncActivityPoster
from leadpost.outbox import again, claims, entries, settling
from leadpost.outbox.arguments import check_texts, check_type
from leadpost.outbox.entries import STATES, Change, Entry, EntryState, New
from leadpost.outbox.reconcile import SETTLE, reconcile
from leadpost.outbox.store import DEFAULT_URL, Store
from leadpost.outbox.verify import verify
from leadpost.outbox.worker import LEASE, Worker

_CHUNK = 500


class Outbox:
    """
    Activities that are on disk before they are posted, and what became of each.

    An entry is marked `sending`, durably, before its call leaves. One whose worker died meanwhile
    is `uncertain`, never silently sent again. Any number of workers on any number of hosts drain
    one outbox; entries leave in the order of putting, those of a higher priority first.

    It holds no key of the account. SQLite's file is made readable by its owner only.

    Use it as an async context manager, within one event loop.

    Args:
        url: `sqlite+aiosqlite:///FILE` for one machine, or
            `postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE` for many, as SQLAlchemy writes them,
            or without the driver's name (`postgresql://…`).
        lease: Seconds after the last word of a worker until it is taken for dead.

    Raises:
        OutboxError: on entering, if the store cannot be used, or was written by a newer version.
            Every method raises it when the store fails: `OutboxUnavailable` where that may pass.
        RuntimeError: by every method, before it is entered and after it is closed.
    """

    def __init__(self, url: str = DEFAULT_URL, *, lease: float = LEASE) -> None:
        self._database = Store(url)
        self._is_open = False
        self._lease = lease
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Outbox {self._database.name}>"

    @property
    def _store(self) -> Store:
        if not self._is_open:
            raise RuntimeError("an Outbox is used within `async with`")
        return self._database

    async def __aenter__(self) -> Self:
        await self._database.open()
        self._is_open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the store."""
        self._is_open = False
        await self._database.aclose()

    async def put(
        self,
        activity: Item,
        *,
        key: str | None = None,
        priority: int = 0,
        connection: AsyncConnection | AsyncSession | None = None,
    ) -> int:
        """
        Put an activity; it is on disk when this returns.

        Args:
            activity: An `Activity`, or a mapping in the vendor's JSON shape.
            key: Your name for it, such as the number of the call it tells of. The same key again
                is the same entry.
            priority: The higher, the sooner it is sent.
            connection: A connection or session of your own to the same database: the entry is
                there if its transaction is committed, and only then.

        Returns:
            The entry's id.

        Raises:
            InvalidActivity: it cannot be posted as it is; nothing was put.
            KeyConflict: the entry of that key holds another activity, and was not corrected from
                this one; nothing was put.
            ValueError: the key is text that no database takes; nothing was put.
            TypeError: the key is no text, or the priority no integer; nothing was put.
        """
        store = self._store
        check_type("priority", priority, int)
        new = New(_content(activity), _checked(key), priority)
        if connection is not None:
            return await entries.put_one(await _own(connection), new)
        put = await store.write(partial(entries.put_one, new=new))
        self._news.set()
        return put

    async def put_many(
        self,
        activities: Source,
        *,
        keys: Iterable[str] | None = None,
        priority: int = 0,
        connection: AsyncConnection | AsyncSession | None = None,
    ) -> int:
        """
        Put activities in one transaction: all of them, or none.

        Others that write to a SQLite store wait meanwhile, so many are better put in parts.

        Args:
            activities: An iterable or async iterable of what `put` takes; it is not held in memory.
            keys: A key for each, in the same order.
            priority: As for `put`.
            connection: As for `put`.

        Returns:
            How many entries there were not before.

        Raises:
            InvalidActivity: one cannot be posted as it is; none was put.
            KeyConflict: an entry of one of the keys holds another activity; none was put.
            ValueError: there are fewer keys than activities, or a key is text that no database
                takes; none was put.
            TypeError: a key is no text, or the priority no integer; none was put.
        """
        store = self._store
        check_type("priority", priority, int)
        put = 0
        async with aclosing(_chunks(activities, keys, priority)) as chunks:
            if connection is not None:
                own = await _own(connection)
                async for chunk in chunks:
                    put += await entries.put_many(own, chunk)
                return put
            async with store.transaction() as step:
                async for chunk in chunks:
                    put += await step(partial(entries.put_many, news=chunk))
        self._news.set()
        return put

    async def drain(self, poster: AsyncActivityPoster) -> Counter[EntryState]:
        """
        Post until nothing is pending, retries included.

        Cancelled, it makes no new calls, waits for those under way for some seconds, and then
        passes the cancellation on.

        Args:
            poster: What to post with; its bucket holds the limit, its `RetryPolicy` tells how often
                and when an entry is tried again.

        Returns:
            How many entries were brought into each state.

        Raises:
            Unauthorized, NotFound: the keys are refused, or the URL is wrong; what was not sent is
                pending still.
            ConnectionFailed: no call of this drain was ever answered, and connections failed for
                some seconds: the host may be a wrong one; likewise.
            OutageTimeout: LeadSquared was away for 300 s; likewise.
            OutboxError: the store failed.
        """
        return await self._worker(poster).drain()

    async def run(self, poster: AsyncActivityPoster) -> None:
        """
        Post what is pending and what will be, until cancelled.

        Waits out a vendor that cannot be reached, and a store that is away. Cancelled, it makes no
        new calls, waits for those under way for some seconds, and passes the cancellation on;
        cancelled once more, it waits no longer. A scope of anyio cancels again at once: what is
        under way is `uncertain` then, unless this runs in an asyncio task of its own.

        Args:
            poster: As for `drain`.

        Raises:
            Unauthorized, NotFound: as `drain`.
            OutboxError: the store failed in a way that does not pass.
        """
        await self._worker(poster).run()

    def _worker(self, poster: AsyncActivityPoster) -> Worker:
        check_type("poster", poster, AsyncActivityPoster)
        return Worker(self._store, poster, self._lease, self._news)

    async def verify(
        self, poster: AsyncActivityPoster, *, forever: bool = False
    ) -> Counter[EntryState]:
        """
        Ask the Status API what became of accepted entries, until all are `succeeded` or `failed`.

        One is asked for at a time: at the pace of the limit where nothing is pending or being sent,
        else at a fifth of it. The vendor may try a request again for hours.

        Args:
            poster: What to ask with.
            forever: Go on with what will be accepted, until cancelled.

        Returns:
            How many entries were brought into each state.

        Raises:
            Unauthorized, NotFound: the keys are refused, or the Status API is elsewhere.
            UnexpectedAnswer: an answer cannot be read.
            OutboxError: the store failed in a way that does not pass.
        """
        check_type("poster", poster, AsyncActivityPoster)
        return await verify(self._store, poster, forever=forever)

    async def reconcile(
        self, poster: AsyncActivityPoster, *, settle: timedelta = SETTLE
    ) -> Counter[EntryState]:
        """
        Look once for each `uncertain` entry among the activities that its lead has.

        One of the same type, note and date-time, made since the entry was sent and no other
        entry's, is it: `accepted`, with the activity's id. If there surely is none, it is `pending`
        again. What is not clear stays `uncertain`, with the reason in its message.

        Args:
            poster: What to ask with; needs the account's `sync_host`.
            settle: How long after sending an activity that is not there can come no more. The
                vendor tries a request again for up to 9 h 20 min.

        Returns:
            How many entries are in which state after that.

        Raises:
            LeadpostError: as `AsyncActivityPoster.lead_activities`.
            OutboxError: the store failed.
        """
        check_type("poster", poster, AsyncActivityPoster)
        return await reconcile(self._store, poster, settle=settle)

    async def counts(
        self, key_prefix: str | None = None, *, keys: Sequence[str] | None = None
    ) -> dict[EntryState, int]:
        """
        Count the entries in each state.

        Args:
            key_prefix: Only those whose key begins with it.
            keys: Only those of these keys.
        """
        count = partial(entries.count, key_prefix=key_prefix)
        if keys is None:
            return await self._store.read(count)
        found = Counter[EntryState]()
        for first in range(0, len(keys), _CHUNK):
            chosen = keys[first : first + _CHUNK]
            found.update(await self._store.read(partial(count, keys=chosen)))
        return {state: found[state] for state in STATES}

    async def identity(self) -> str:
        """Give what tells this outbox from all others: text, made by chance with its tables."""
        return await self._store.read(entries.identity)

    async def unasked(self) -> int:
        """Count the accepted entries that `verify` has not asked for yet."""
        return await self._store.read(settling.count_unasked)

    async def oldest_pending(self) -> float | None:
        """Give the seconds since the oldest pending entry was put; None if none is pending."""
        return await self._store.read(entries.oldest_pending)

    async def calls_per_second(self, seconds: float = 10.0) -> float:
        """Give the rate of calls over the last seconds, by all workers."""
        calls = await self._store.read(partial(entries.calls_since, seconds=seconds))
        return calls / seconds

    async def workers(self) -> int:
        """Count the workers that are alive, those that find nothing to post among them."""
        return await self._store.read(claims.count_workers)

    async def find(self, keys: Sequence[str]) -> dict[str, Entry]:
        """
        Give the entries of these keys, at most 500, by key; what is not there is left out.

        Args:
            keys: The keys.

        Raises:
            TypeError: it is one text, or one of them is none.
        """
        check_texts("keys", keys)
        return await self._store.read(partial(entries.find, keys=keys))

    async def entries(
        self, *states: EntryState, key_prefix: str | None = None
    ) -> AsyncGenerator[Entry]:
        """
        Yield entries in the order of putting.

        Args:
            states: Only those in these states; by default all.
            key_prefix: Only those whose key begins with it.
        """
        last = 0
        while True:
            page = await self._store.read(
                partial(
                    entries.select,
                    states=states or STATES,
                    after=last,
                    key_prefix=key_prefix,
                    limit=_CHUNK,
                )
            )
            for entry in page:
                yield entry
            if len(page) < _CHUNK:
                return
            last = page[-1].id

    async def history(self, entry_id: int) -> list[Change]:
        """Give each change of state of `entry_id`, the putting first; none if it is not there."""
        return await self._store.read(partial(entries.history, entry_id=entry_id))

    async def retry(self, *states: EntryState, ids: Sequence[int] | None = None) -> int:
        """
        Make entries pending again.

        Args:
            states: Of those in these states: `failed`, `rejected`, and `uncertain`, which may post
                it twice.
            ids: Only these entries.

        Returns:
            How many were.

        Raises:
            ValueError: none of these states, or others, were given.
        """
        if not states or not set(states) <= {"failed", "rejected", "uncertain"}:
            raise ValueError(
                f"states: found {', '.join(states) or 'none'}, wanted failed, rejected or uncertain"
            )
        put_back = partial(again.put_back, states=states, limit=_CHUNK)
        done = last = 0
        if ids is not None:
            for first in range(0, len(ids), _CHUNK):
                chosen = ids[first : first + _CHUNK]
                done += len(await self._store.write(partial(put_back, ids=chosen)))
        else:
            while part := await self._store.write(partial(put_back, after=last)):
                done += len(part)
                last = part[-1]
        self._news.set()
        return done

    async def arrived(self, ids: Sequence[int]) -> int:
        """
        Take it that these entries have arrived: of those that are `uncertain`, make `succeeded`.

        For what somebody has seen on the lead, where `reconcile` cannot tell.

        Args:
            ids: The entries.

        Returns:
            How many were.
        """
        done = 0
        for first in range(0, len(ids), _CHUNK):
            chosen = ids[first : first + _CHUNK]
            done += await self._store.write(partial(again.arrived, ids=chosen))
        return done

    async def correct(
        self,
        activities: Mapping[str, Item],
        *,
        states: Collection[EntryState] = ("failed", "rejected"),
        calls: Mapping[str, int] | None = None,
        originals: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Give entries that did not get through another activity each, and make them pending again.

        What was put is in `Entry.original`; to put it under the key again changes nothing.

        Args:
            activities: By key, what `put` takes.
            states: In which state they may be: `failed`, `rejected`, `pending`, and `uncertain`,
                which may post it twice (so may one that is pending after a doubt).
            calls: By key, the `Entry.calls` that you have seen: one that was sent since is not to
                be corrected. One of which it is 0 is put if it is not there.
            originals: By key, what is taken for what was put from now on; to put what really was
                is a `KeyConflict` then.

        Raises:
            InvalidActivity: one cannot be posted as it is; none was corrected.
            KeyConflict: one is not there, is in another state, or was sent since; none was
                corrected.
            ValueError: other states were given, or a key is text that no database takes.
            TypeError: a key is no text.
        """
        store = self._store
        if others := set(states) - {"failed", "rejected", "pending", "uncertain"}:
            raise ValueError(
                f"states: found {', '.join(sorted(others))}, wanted failed, rejected, pending or"
                " uncertain"
            )
        for key in activities:
            check_type("key", key, str)
            _checked(key)
        # In the order of the keys, or else two at once may wait for each other.
        contents = iter([(key, _content(activities[key])) for key in sorted(activities)])
        texts = {key: json.dumps(original) for key, original in (originals or {}).items()}
        correct = partial(again.correct, states=states, calls=calls, originals=texts)
        async with store.transaction() as step:
            while part := dict(islice(contents, _CHUNK)):
                await step(partial(correct, corrections=part))
        self._news.set()

    async def prune(self, older_than: timedelta) -> int:
        """
        Delete entries that are `succeeded`, `failed` or `rejected`, since `older_than` or longer.

        Nothing else ever deletes one. Of one that was corrected, key and state stay, without the
        activity: what put it may not know of the correction yet, and is not to put it once more.

        Returns:
            How many were, those of which something stays among them.
        """
        deleted = 0
        while True:
            prune = partial(entries.prune, older_than=older_than.total_seconds(), limit=_CHUNK)
            part = await self._store.write(prune)
            deleted += part
            if part < _CHUNK:
                return deleted


async def _own(connection: AsyncConnection | AsyncSession) -> AsyncConnection:
    if isinstance(connection, AsyncSession):
        return await connection.connection()
    return connection


async def _chunks(
    activities: Source, keys: Iterable[str] | None, priority: int
) -> AsyncGenerator[list[New]]:
    names = iter(keys) if keys is not None else None
    chunk: list[New] = []
    async with aclosing(numbered(activities)) as source:
        async for index, activity in source:
            key = next(names, None) if names is not None else None
            if names is not None and key is None:
                raise ValueError(f"keys: found {index}, wanted one for each activity")
            chunk.append(New(_content(activity), _checked(key), priority))
            if len(chunk) == _CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


def _checked(key: str | None) -> str | None:
    if key is None:
        return None
    check_type("key", key, str)
    if "\0" in key or re.search("[\ud800-\udfff]", key):
        raise ValueError("key: found NUL or half a surrogate pair, wanted text")
    return key


def _content(activity: Item) -> str:
    if not isinstance(activity, Activity):
        activity = Activity.from_payload(activity)
    return json.dumps(activity.to_payload(), ensure_ascii=False)
