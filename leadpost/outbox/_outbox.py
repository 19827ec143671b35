"""`Outbox`: activities that are in a database before they are posted, and what became of each."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from datetime import timedelta
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, NoReturn, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from leadpost._account import Account
from leadpost._batch import Item, Source
from leadpost._models import Activity
from leadpost._poster import AsyncActivityPoster
from leadpost.errors import OutboxError
from leadpost.outbox._reconciler import SETTLE, Reconciler
from leadpost.outbox._verifier import verify
from leadpost.outbox._worker import Worker
from leadpost.outbox.database import AccountDatabase, Database, _calls, _edits, _entries
from leadpost.outbox.database._entries import PART, STATES, Change, Entry, EntryState, Health, New

AnyAsync = AsyncConnection | AsyncSession | async_scoped_session[AsyncSession]
AnySync = sa.Connection | Session | scoped_session[Session]

SEEN_WITHIN = 60.0
"""Seconds after its last sign of life for which a worker is taken to be alive."""
RECONCILE_EVERY = timedelta(hours=1)


class Outbox:
    """
    Activities that are in a database before they are posted, and what became of each.

    An entry is marked `sending`, durably, before its call leaves. If its worker dies meanwhile, it
    becomes `uncertain`, and is never silently sent again. Any number of workers on any number of
    hosts may post from one outbox; entries leave in the order of putting, those of a higher
    priority first.

    Every entry belongs to an account, and only workers of this account post it: several accounts
    may use one database. No key of an account is stored.

    Use it as an async context manager. It has to stay open longer than the poster that it is run
    with, as the last calls are still recorded.

    Args:
        url: `sqlite:///FILE` for one machine, or `postgresql://USER:PASSWORD@HOST/DATABASE` for
            many, with the options that libpq knows; `pgbouncer=true` for a PgBouncer in transaction
            mode. SQLite's file is created so that only its owner can read it.
        account: Whose entries. Its id is enough to put entries and look at them: the `name` of the
            account, or its fingerprint (`leadpost outbox account` prints it).
        connections: Connections to keep at most.

    Raises:
        OutboxError: on entering, if the database cannot be used, or has tables of another version.
            By every method, if the database fails: `OutboxUnavailable` if that may pass. What
            raises has changed nothing, unless the connection was lost during a COMMIT. By putting
            and posting, if the account's entries were put with other keys, see `adopt`.
        ValueError: by what takes a poster, if it is of another account.
        RuntimeError: by every method, before it is entered and after it is closed.
    """

    def __init__(self, url: str, account: Account | str, *, connections: int = 4) -> None:
        self.account = _id(account)
        self._fingerprint = account.fingerprint if isinstance(account, Account) else None
        self._database = Database(url, connections=connections)
        self._store = AccountDatabase(self._database, self.account)
        self._posted_by: str | None = None  # the fingerprint of the keys, as the database knows it
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Outbox of {self.account} in {self._database.name}>"

    async def __aenter__(self) -> Self:
        await self._database.open()
        try:
            self._posted_by = await self._store.read(_edits.fingerprint_of)
        except BaseException:
            await self._database.aclose()
            raise
        self._news = asyncio.Event()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to the database."""
        await self._database.aclose()

    @property
    def database(self) -> Database:
        """The database, for tables that leadpost's command has beside those of the outbox."""
        return self._database

    # Putting.

    async def put(
        self,
        activity: Item,
        *,
        key: str | None = None,
        priority: int = 0,
        connection: AnyAsync | None = None,
    ) -> int:
        """
        Put an activity; it is on disk when this returns.

        Args:
            activity: An `Activity`, or a mapping in LeadSquared's JSON shape.
            key: Your name for it, such as the number of the phone call that it is about. Putting
                the same key again is idempotent.
            priority: The higher, the sooner it is sent.
            connection: A connection or session of SQLAlchemy's to the same database: the entry is
                there if its transaction is committed, and only then.

        Returns:
            The entry's id.

        Raises:
            InvalidActivity: it cannot be posted as it is.
            KeyConflict: the entry of this key has another activity.
            ValueError: the key is text that no database takes.
        """
        self._check_keys()
        new = New(_json(activity), _checked(key), priority)
        if connection is not None:
            own = await _connection(connection)
            return await own.run_sync(_entries.put_one, self.account, new)
        put = await self._store.write(_put_one, new)
        self._news.set()
        return put

    async def put_many(
        self,
        activities: Source,
        *,
        keys: Iterable[str] | None = None,
        priority: int = 0,
        connection: AnyAsync | None = None,
    ) -> int:
        """
        Put activities in one transaction: all of them, or none.

        They are all drawn before the transaction begins, so that a slow source keeps nobody
        waiting; put millions in parts of some 10,000.

        Args:
            activities: An iterable or async iterable of what `put` takes.
            keys: A key for each, in the same order.
            priority: As for `put`.
            connection: As for `put`. What raises leaves the transaction as it was, so that the rest
                of it can be committed.

        Returns:
            The number of new entries.

        Raises:
            InvalidActivity: one cannot be posted as it is.
            KeyConflict: the entry of one of the keys has another activity.
            ValueError: there is not one key for each activity, or a key is text that no database
                takes.
        """
        self._check_keys()
        news = await _drawn(activities, keys, priority)
        if connection is not None:
            own = await _connection(connection)
            return await own.run_sync(_put_many_within, self.account, news)
        put = await self._database.write(
            lambda own: own.run_sync(_entries.put_many, self.account, news), within=None
        )
        self._news.set()
        return put

    # Posting, and what became of it.

    async def drain(
        self,
        poster: AsyncActivityPoster,
        *,
        key_prefix: str | None = None,
        outage_timeout: float | None = None,
    ) -> Counter[EntryState]:
        """
        Post until nothing is pending, retries included.

        Cancelled, it makes no new calls, waits up to 8 s for calls in flight, and records them.

        Args:
            poster: What to post with; its bucket holds the limit, its `RetryPolicy` says how often
                and when an entry is retried.
            key_prefix: Only entries whose key begins with it.
            outage_timeout: Seconds for which it waits while LeadSquared is away, 300 by default.

        Returns:
            How many entries came into each state.

        Raises:
            Unauthorized, NotFound: the keys are refused, or the URL is wrong; what was not sent
                stays pending.
            ConnectionFailed: no call of this drain was ever answered, and connections failed for 5
                s: the host may be a wrong one.
            OutageTimeout: LeadSquared was away for longer.
        """
        await self._check_poster(poster)
        worker = Worker(self._store, poster, self._news, key_prefix or "", outage_timeout)
        return await worker.drain()

    async def run(
        self,
        poster: AsyncActivityPoster,
        *,
        verify: bool = True,
        reconcile_every: timedelta | None = RECONCILE_EVERY,
        keep: timedelta | None = None,
    ) -> NoReturn:
        """
        Post what is pending and what will be, until cancelled; all that a service needs.

        It waits out every outage of LeadSquared and of the database. Cancelled, it makes no new
        calls, waits up to 8 s for calls in flight, and records them; cancelled once more, it cuts
        them off. (A scope of anyio cancels again at once: calls in flight are `uncertain` then,
        unless this runs in an asyncio task of its own.)

        Args:
            poster: As for `drain`.
            verify: Ask LeadSquared what became of accepted entries, as `verify` does. While entries
                are pending, posts have four fifths of the tokens.
            reconcile_every: How often to look for uncertain entries on their leads, as `reconcile`
                does; None for never.
            keep: Delete entries so long after they have finished, as `prune` does; None to keep
                them all.

        Raises:
            Unauthorized, NotFound: as `drain`.
            OutboxError: the database fails in a way that does not pass.
            ValueError: a time is not above zero.
        """
        for name, time in (("reconcile_every", reconcile_every), ("keep", keep)):
            if time is not None and time <= timedelta(0):
                raise ValueError(f"{name}: found {time}, wanted a time above zero")
        worker = Worker(self._store, poster, self._news)
        await worker.run(
            begin=partial(self._check_poster, poster),
            verifies=verify,
            reconcile_every=reconcile_every,
            keep=keep,
        )

    async def verify(self, poster: AsyncActivityPoster) -> Counter[EntryState]:
        """
        Ask the Status API what became of accepted entries, until all are `succeeded` or `failed`.

        One question at a time: at the pace of the limit if nothing is pending, else at a fifth of
        it. LeadSquared may retry a request for hours.

        Args:
            poster: What to ask with.

        Returns:
            How many entries came into each state.

        Raises:
            Unauthorized, NotFound: the keys are refused, or the Status API is elsewhere.
            UnexpectedAnswer: an answer cannot be read.
        """
        await self._check_poster(poster)
        return await verify(self._store, poster)

    async def reconcile(
        self,
        poster: AsyncActivityPoster,
        *,
        settle: timedelta = SETTLE,
        on_progress: Callable[[int, int], None] = lambda _, __: None,
    ) -> Counter[EntryState]:
        """
        Look once for each `uncertain` entry among the activities that its lead has.

        One of the same type, note and date-time, created since the entry was sent and not another
        entry's, is it: `accepted`, with the activity's id. If there surely is none, the entry is
        `pending` again. What is not clear stays `uncertain`, with the reason in its message.

        Args:
            poster: What to ask with; needs the account's `sync_host`.
            settle: How long after sending an activity may still arrive. LeadSquared retries a
                request for up to 9 h 20 min.
            on_progress: Called with the number of entries looked at, and of all.

        Returns:
            How many entries are in which state after that.

        Raises:
            LeadpostError: as `AsyncActivityPoster.lead_activities`.
            ValueError: `settle` is negative.
        """
        if settle < timedelta(0):
            raise ValueError(f"settle: found {settle}, wanted a time of zero or more")
        await self._check_poster(poster)
        await self._store.write(_calls.expire)
        reconciler = Reconciler(self._store, poster, settle)
        return await reconciler.reconcile(on_progress)

    # Looking.

    async def find(self, keys: Sequence[str]) -> dict[str, Entry]:
        """Return the entries of these keys, 500 at most, by key; unknown ones are left out."""
        if isinstance(keys, str) or len(keys) > PART:
            raise ValueError(f"keys: wanted a list of up to {PART} keys")
        return await self._store.read(_entries.find, keys)

    async def entries(
        self, *states: EntryState, key_prefix: str | None = None
    ) -> AsyncGenerator[Entry]:
        """
        Yield the entries in these states, by default all, in the order of putting.

        Args:
            states: As in `Entry.state`.
            key_prefix: Only entries whose key begins with it.
        """
        last = 0
        while True:
            page = await self._store.read(
                _entries.page,
                states=states or STATES,
                after=last,
                key_prefix=key_prefix or "",
                limit=PART,
            )
            for entry in page:
                yield entry
            if len(page) < PART:
                return
            last = page[-1].id

    async def history(self, entry_id: int) -> list[Change]:
        """Return each change of state of the entry `entry_id`, the putting first; [] if unknown."""
        return await self._store.read(_entries.history, entry_id)

    async def counts(self, key_prefix: str | None = None) -> dict[EntryState, int]:
        """Count the entries in each state, all or those whose key begins with `key_prefix`."""
        return await self._store.read(_entries.count, key_prefix or "")

    async def others(self) -> dict[str, int]:
        """Count the unfinished entries of other accounts in the same database, by account."""
        return await self._store.read(_entries.count_of_others)

    async def health(self) -> Health:
        """Return what a health check asks for: counts, oldest pending, worker, outage."""
        return await self._store.read(_entries.health, SEEN_WITHIN)

    # Changing by hand.

    async def retry(self, *states: EntryState, ids: Sequence[int] | None = None) -> int:
        """
        Make entries pending again, and return their number.

        Args:
            states: Those in these states: `failed`, `rejected`, and `uncertain`, which may post it
                twice. Others are a ValueError.
            ids: Only these entries.
        """
        if not states or set(states) - {"failed", "rejected", "uncertain"}:
            raise ValueError(
                f"states: found {', '.join(states) or 'none'}, wanted failed, rejected or uncertain"
            )
        parts = [None] if ids is None else [ids[i : i + PART] for i in range(0, len(ids), PART)]
        done = 0
        for part in parts:
            last = 0
            while found := await self._store.write(
                _edits.retry, states=states, ids=part, after=last
            ):
                done += len(found)
                last = found[-1]
        self._news.set()
        return done

    async def replace(self, activities: Mapping[str, Item]) -> None:
        """
        Give entries that did not get through another activity each, and make them pending again.

        Args:
            activities: By key, what `put` takes.

        Raises:
            InvalidActivity: one cannot be posted as it is; none was replaced.
            KeyConflict: one is unknown, or may have got through; none was replaced.
        """
        texts = {key: _json(activity) for key, activity in activities.items()}
        await self._store.write(_edits.replace, texts)
        self._news.set()

    async def arrived(self, ids: Sequence[int]) -> int:
        """
        Make `uncertain` entries `succeeded`, because somebody has seen them on the lead.

        Args:
            ids: The entries' ids.

        Returns:
            The number of these entries that were uncertain.
        """
        done = 0
        for first in range(0, len(ids), PART):
            done += await self._store.write(_edits.arrived, ids[first : first + PART])
        return done

    async def adopt(self, previous: str) -> int:
        """
        Hand entries over to this account, after an access key was rotated or a name was given.

        Stop the workers of the former account first.

        Args:
            previous: The fingerprint of the former keys, or the former name.

        Returns:
            The number of entries handed over.

        Raises:
            KeyConflict: both have entries of the same keys; none was handed over.
        """
        done = await self._store.write(_edits.adopt, self._fingerprint, previous)
        self._posted_by = await self._store.read(_edits.fingerprint_of)
        self._news.set()
        return done

    async def prune(self, older_than: timedelta) -> int:
        """Delete entries that finished longer ago than `older_than`, and return their number."""
        if older_than < timedelta(0):
            raise ValueError(f"older_than: found {older_than}, wanted a time of zero or more")
        done = 0
        while part := await self._store.write(_edits.prune, older_than.total_seconds()):
            done += part
        return done

    # Whose entries.

    def _check_keys(self) -> None:
        if self._fingerprint and self._posted_by not in {None, self._fingerprint}:
            raise OutboxError(
                f"the entries of {self.account} were put with other keys. If its keys have changed:"
                f" leadpost outbox adopt {self._posted_by}"
            )

    async def _check_poster(self, poster: AsyncActivityPoster) -> None:
        """See that the poster is the account's, and note with which keys it posts."""
        if poster.account.id != self.account:
            raise ValueError(
                f"the outbox has the entries of {self.account}, the poster posts for"
                f" {poster.account.id}"
            )
        if self._fingerprint not in {None, poster.account.fingerprint}:
            raise ValueError(
                f"the poster of {self.account} posts with other keys than the outbox has"
            )
        self._fingerprint = poster.account.fingerprint
        if self._posted_by is None:
            await self._store.write(_edits.register, self._fingerprint)
            self._posted_by = await self._store.read(_edits.fingerprint_of)
        self._check_keys()


def put_sync(
    connection: AnySync,
    activity: Item,
    *,
    account: Account | str,
    key: str | None = None,
    priority: int = 0,
) -> int:
    """
    Put an activity within a synchronous transaction of SQLAlchemy's, as in Flask or Celery.

    The tables have to be there: an `Outbox` creates them, or `leadpost outbox schema` prints them.

    Args:
        connection: A connection or session to the outbox's database; nothing is committed here.
        activity: An `Activity`, or a mapping in LeadSquared's JSON shape.
        account: Whose entry, as for `Outbox`.
        key: As for `Outbox.put`.
        priority: As for `Outbox.put`.

    Returns:
        The entry's id.

    Raises:
        InvalidActivity: it cannot be posted as it is.
        KeyConflict: the entry of this key has another activity.
        sqlalchemy.exc.SQLAlchemyError: the database failed.
    """
    own = connection if isinstance(connection, sa.Connection) else connection.connection()
    return _entries.put_one(own, _id(account), New(_json(activity), _checked(key), priority))


def _id(account: Account | str) -> str:
    found = account.id if isinstance(account, Account) else account
    if not found:
        raise ValueError("account: found an empty text, wanted an Account, or its name")
    return found


async def _connection(given: AnyAsync) -> AsyncConnection:
    return given if isinstance(given, AsyncConnection) else await given.connection()


async def _put_one(connection: AsyncConnection, account: str, new: New) -> int:
    return await connection.run_sync(_entries.put_one, account, new)


def _put_many_within(connection: sa.Connection, account: str, news: Sequence[New]) -> int:
    """Put within the caller's transaction: what raises has changed nothing of it."""
    if connection.dialect.name == "sqlite":
        # sqlite3 begins a transaction only before an INSERT. A savepoint before it would be the
        # transaction, and its release the COMMIT.
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN")
    with connection.begin_nested():
        return _entries.put_many(connection, account, news)


async def _drawn(activities: Source, keys: Iterable[str] | None, priority: int) -> list[New]:
    if isinstance(activities, AsyncIterable):
        texts = [_json(activity) async for activity in activities]
    else:
        texts = [_json(activity) for activity in activities]
    if keys is None:
        return [New(text, None, priority) for text in texts]
    names = list(islice(keys, len(texts) + 1))
    if len(names) != len(texts):
        raise ValueError(f"keys: wanted {len(texts)}, one for each activity")
    return [New(text, _checked(key), priority) for text, key in zip(texts, names, strict=True)]


def _checked(key: str | None) -> str | None:
    if key is not None and re.search("[\0\ud800-\udfff]", key):
        raise ValueError("key: found NUL or half a surrogate pair, wanted text")
    return key


def _json(activity: Item) -> str:
    if not isinstance(activity, Activity):
        activity = Activity.from_payload(activity)
    return json.dumps(activity.to_payload(), ensure_ascii=False)
