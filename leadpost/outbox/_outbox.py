"""`Outbox`: activities stored in a database before they are posted, and the state of each."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from math import inf
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost._account import Account
from leadpost._batch import Source
from leadpost._models import Item
from leadpost._poster import OUTAGE_TIMEOUT, AsyncActivityPoster
from leadpost.errors import LeadpostError, described
from leadpost.outbox._entry import EntryState
from leadpost.outbox._keys import Keys
from leadpost.outbox._new_entries import AnyAsync, drawn, new_entry
from leadpost.outbox._reconciler import SETTLE, Reconciler
from leadpost.outbox._stored_entries import StoredEntries
from leadpost.outbox._verifier import Verifier
from leadpost.outbox._worker import Worker
from leadpost.outbox.database import Database, Store, _calls, _putting
from leadpost.outbox.database._sql import LONGEST_WAIT, Transaction

RECONCILE_EVERY = timedelta(hours=1)

T = TypeVar("T")

_log = logging.getLogger("leadpost")


class Outbox(StoredEntries):
    """
    Activities stored in a database before they are posted, and the state of each.

    An entry is marked `sending`, durably, before its call. If its worker dies during the call, the
    entry becomes `uncertain`. It is sent again only if its lead does not have it after 12 hours, or
    by `retry`. Up to 30 workers, on any number of hosts, may post from one outbox. They post
    entries in order of priority, then in the order in which they were put.

    Every entry belongs to an account, and only workers of this account post it, so several accounts
    may use one database. No key of an account is stored.

    Use it as an async context manager, and close it after the poster: it records the last calls.

    Args:
        url: `sqlite:///FILE` for one machine, or `postgresql://USER:PASSWORD@HOST/DATABASE` for
            many, with the options of libpq, and `pgbouncer=true` for a PgBouncer in transaction
            mode. SQLite's file is created readable only by its owner.
        account: The account that the entries belong to. To put and read entries its id is enough:
            the `name` of the account, or its fingerprint (`leadpost outbox account` prints it).
        connections: The most connections.

    Raises:
        OutboxError: on entering, if the database cannot be used, or has tables of another version.
            By every method, if the database fails: `OutboxUnavailable` if that may be temporary.
            Nothing was changed then, unless the connection was lost during a COMMIT. By putting
            and posting, if the account's entries belong to other keys, see `adopt`.
        ValueError: by methods with a poster, if it belongs to another account.
        RuntimeError: by every method, if the outbox is not open.
    """

    def __init__(self, url: str, account: Account | str, *, connections: int = 4) -> None:
        self._keys = Keys(account)
        super().__init__(Database(url, connections=connections), self._keys.account)

    def __repr__(self) -> str:
        return f"<Outbox of {self.account} in {self._database.name}>"

    async def __aenter__(self) -> Self:
        await self._database.open()
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
        """
        Close the connections to the database.

        Other calls have 0.75 s to end; then they are cancelled, and raise `OutboxUnavailable`.
        """
        await self._database.aclose()

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
        Put an activity. It is on disk when this returns.

        Args:
            activity: An `Activity`, or a mapping in LeadSquared's JSON shape.
            key: Your name for it, such as the number of a phone call. Putting the same key again is
                idempotent.
            priority: Entries with a higher priority are sent sooner.
            connection: An SQLAlchemy connection or session to the same database: the entry becomes
                part of its transaction.

        Returns:
            The entry's id.

        Raises:
            InvalidActivity: it is invalid.
            KeyConflict: the entry of this key has another activity.
            ValueError: the key is empty or contains a character that no database stores, or the
                priority is not an integer of 32 bits.
        """
        new = new_entry(activity, key, priority)
        return await self._put(_putting.put_one, new, connection)

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

        They are all drawn before the transaction begins, so that a slow source blocks nobody. Put
        millions in parts of about 10,000.

        Args:
            activities: An iterable or async iterable of activities, as for `put`.
            keys: A key for each, in the same order.
            priority: As for `put`.
            connection: As for `put`. If this raises, your transaction is unchanged and can still be
                committed.

        Returns:
            The number of new entries.

        Raises:
            InvalidActivity: one is invalid.
            KeyConflict: the entry of one of the keys has another activity.
            ValueError: the number of keys is not that of the activities, or as for `put`.
        """
        news = await drawn(activities, keys, priority)
        # A savepoint only within the caller's transaction: SQLite loses it when the disk is full.
        put = _putting.put_many if connection is None else _putting.put_many_within
        return await self._put(put, news, connection, within=None)

    async def _put(
        self,
        put: Callable[[Connection, str, T], int],
        what: T,
        connection: AnyAsync | None,
        within: float | None = LONGEST_WAIT,
    ) -> int:
        if connection is None:
            await self._keys.check(self._store)
            done = await self._database.write(lambda own: put(own, self.account, what), within)
            self._news.set()
            return done
        own = connection
        if not isinstance(own, AsyncConnection):
            own = await own.connection()
        return await own.run_sync(self._put_within, put, what)

    def put_within(
        self, connection: Connection, activities: Iterable[Item], keys: Iterable[str]
    ) -> int:
        """
        Put activities in a transaction of leadpost's command, and return the number of new entries.

        Args:
            connection: A connection within `database`.
            activities: As for `put_many`.
            keys: A key for each.
        """
        news = [new_entry(*pair, priority=0) for pair in zip(activities, keys, strict=True)]
        return self._put_within(connection, _putting.put_many, news)

    def _put_within(
        self, connection: Connection, put: Callable[[Connection, str, T], int], what: T
    ) -> int:
        self._keys.check_within(Transaction(connection, {"account": self.account}))
        return put(connection, self.account, what)

    # Posting and verifying.

    async def drain(
        self,
        poster: AsyncActivityPoster,
        *,
        batch: str | None = None,
        outage_timeout: float = OUTAGE_TIMEOUT,
    ) -> Counter[EntryState]:
        """
        Post until nothing is pending, including retries.

        When it is cancelled, it makes no new calls, waits up to 8 s for calls in flight, and
        records them.

        Args:
            poster: The poster; its bucket is the limit, its `RetryPolicy` decides about retries.
            batch: Post only the entries of this batch, in the order in which they were put. An
                entry with the key `2026-11-28/call-8812` is of the batch `2026-11-28`.
            outage_timeout: Seconds to wait for the end of an outage.

        Returns:
            The number of entries that reached each state.

        Raises:
            Unauthorized, NotFound, ConfigurationError: the keys are rejected, the URL is wrong, or
                the poster's client cannot be used; entries that were not sent remain pending.
            ConnectionFailed: no call of this drain was answered, and connections failed for 5 s:
                the host may be wrong. Or those for its last entry failed for `outage_timeout`.
            OutageTimeout: an outage lasted longer.
            ValueError: `outage_timeout` is negative.
        """
        if not outage_timeout >= 0:
            raise ValueError(f"outage_timeout: found {outage_timeout}, wanted zero or more")
        store = Store(self._database, poster.retry.max_time, account=self.account)
        await self._keys.check_poster(poster, store)
        worker = Worker(
            store, poster, self._news, drains=True, batch=batch, outage_timeout=outage_timeout
        )
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
        Run a worker until cancelled; this is all that a service needs.

        It waits for the end of every outage of LeadSquared and of the database. It gives an entry
        up after the policy's `max_attempts`, but only if others succeed while it fails. When it is
        cancelled, it makes no new calls, waits up to 8 s for calls in flight, and records them;
        when it is cancelled again, it cuts them off. (anyio's scopes cancel again at once, so that
        calls in flight become `uncertain`, unless this runs in its own asyncio task.)

        Args:
            poster: As for `drain`.
            verify: Whether to verify accepted entries, as `verify` does. While entries are pending,
                posts have four fifths of the tokens.
            reconcile_every: How often to look for uncertain entries on their leads, as `reconcile`
                does: once for all workers of the account; None for never.
            keep: Delete entries this long after they have finished, as `prune` does; None to keep
                them all.

        Raises:
            Unauthorized, NotFound, ConfigurationError: as `drain`.
            OutboxError: the database cannot be used.
            ValueError: a time is not above zero.
        """
        for name, time in (("reconcile_every", reconcile_every), ("keep", keep)):
            if time is not None and time <= timedelta(0):
                raise ValueError(f"{name}: found {time}, wanted a time above zero")
        store = Store(self._database, inf, account=self.account)
        try:
            await self._keys.check_poster(poster, store)
            worker = Worker(store, poster, self._news)
            await worker.run(verifies=verify, reconcile_every=reconcile_every, keep=keep)
        except LeadpostError as error:
            _log.error("outbox: the worker stopped; nothing is posted: %s", described(error))
            raise

    async def verify(
        self, poster: AsyncActivityPoster, *, batch: str | None = None
    ) -> Counter[EntryState]:
        """
        Ask the Status API about accepted entries until all are `succeeded` or `failed`.

        It makes one query at a time, at the pace of the limit, or at a fifth of it while entries
        are pending. LeadSquared may retry a request for hours.

        Args:
            poster: The poster for the queries.
            batch: Ask only about the entries of this batch, as for `drain`.

        Returns:
            The number of entries that reached each state.

        Raises:
            Unauthorized, NotFound: the keys are rejected, or the path of the Status API is wrong.
            UnexpectedAnswer: an answer cannot be read.
        """
        await self._keys.check_poster(poster, self._store)
        return await Verifier(self._store, poster, batch=batch).verify()

    async def reconcile(
        self,
        poster: AsyncActivityPoster,
        *,
        settle: timedelta = SETTLE,
        on_progress: Callable[[int, int], None] = lambda _, __: None,
    ) -> Counter[EntryState]:
        """
        Look once for each `uncertain` entry among the activities of its lead.

        If one has the same type, note and date-time, shows no other value in a posted field, was
        created since the call and belongs to no other entry, the entry becomes `succeeded`, with
        the activity's id. If there is none after `settle`, the entry becomes `pending` again.
        Otherwise it stays `uncertain`, with the reason in its message.

        The leads are read by windows of time where that takes fewer calls and the account allows
        it. An activity on a `Lead` that is not found by its id stays uncertain.

        Args:
            poster: The poster for the queries; its account must have a `sync_host`.
            settle: How long after its call an activity may still arrive. LeadSquared retries a
                request for up to 9 h 20 min.
            on_progress: Called with the number of entries that were looked for, and of all.

        Returns:
            The number of entries in each state afterwards.

        Raises:
            LeadpostError: as `AsyncActivityPoster.lead_activities`.
            ValueError: `settle` is negative.
        """
        if settle < timedelta(0):
            raise ValueError(f"settle: found {settle}, wanted a time of zero or more")
        await self._keys.check_poster(poster, self._store)
        await self._store.write(_calls.expire)
        return await Reconciler(self._store, poster, settle).reconcile(on_progress)

    async def adopt(self, previous: str) -> int:
        """
        Transfer entries to this account, after its access key or its name has changed.

        Stop the workers of the previous account first. A million entries take a minute or two;
        meanwhile nobody else can write to a SQLite file.

        Args:
            previous: The fingerprint of the previous keys, or the previous name.

        Returns:
            The number of transferred entries.

        Raises:
            KeyConflict: both accounts have entries of the same keys; none was transferred.
        """
        done = await self._keys.adopt(self._store, previous)
        self._news.set()
        return done
