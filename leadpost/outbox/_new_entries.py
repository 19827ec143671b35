"""What callers put: activities, keys, and connections of their own."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from leadpost._account import Account
from leadpost._batch import Source, numbered
from leadpost._models import Activity, Item
from leadpost.outbox.database import _putting
from leadpost.outbox.database._putting import New
from leadpost.outbox.database._sql import UNSTORABLE

AnyAsync = AsyncConnection | AsyncSession | async_scoped_session[AsyncSession]
AnySync = sa.Connection | Session | scoped_session[Session]


def put_sync(
    connection: AnySync,
    activity: Item,
    *,
    account: Account | str,
    key: str | None = None,
    priority: int = 0,
) -> int:
    """
    Put an activity as part of a synchronous SQLAlchemy transaction, as in Flask or Celery.

    The tables must exist: an `Outbox` creates them, `leadpost outbox schema` prints them.

    Args:
        connection: A connection or session to the outbox's database; you commit it.
        activity: An `Activity`, or a mapping in LeadSquared's JSON shape.
        account: The account that the entry belongs to, as for `Outbox`.
        key: As for `Outbox.put`.
        priority: As for `Outbox.put`.

    Returns:
        The entry's id.

    Raises:
        InvalidActivity: it is invalid.
        KeyConflict: the entry of this key has another activity.
        sqlalchemy.exc.SQLAlchemyError: the database failed.
    """
    own = connection if isinstance(connection, sa.Connection) else connection.connection()
    return _putting.put_one(own, id_of(account), new_entry(activity, key, priority))


def new_entry(activity: Item, key: object, priority: int) -> New:
    """Return an entry to put, once it is checked."""
    return _new(json_of(activity), key, priority)


def _new(text: str, key: object, priority: object) -> New:
    if not isinstance(priority, int) or not -(2**31) <= priority < 2**31:
        raise ValueError("priority: wanted an integer of 32 bits")
    return New(text, None if key is None else checked_key(key), priority)


def id_of(account: Account | str) -> str:
    """Return the id of an account."""
    found = account.id if isinstance(account, Account) else account
    if not found:
        raise ValueError("account: found empty text, wanted an Account or its name")
    return found


async def drawn(activities: Source, keys: Iterable[str] | None, priority: int) -> list[New]:
    """Draw all activities and keys, and check them."""
    texts = [json_of(activity) async for _, activity in numbered(activities)]
    if keys is None:
        return [_new(text, None, priority) for text in texts]
    names = list(islice(keys, len(texts) + 1))
    if len(names) != len(texts):
        raise ValueError(f"keys: wanted {len(texts)}, one for each activity")
    return [_new(text, key, priority) for text, key in zip(texts, names, strict=True)]


def checked_key(key: object) -> str:
    """Return an entry's key, once it is checked."""
    if not isinstance(key, str):
        raise TypeError(f"key: found {type(key).__name__}, wanted text")
    if not key:  # a name that is missing: all such entries would be the same
        raise ValueError("key: found empty text, wanted a name or None")
    if UNSTORABLE.search(key):
        raise ValueError(
            "key: contains a character that no database stores (NUL or a lone surrogate)"
        )
    return key


def json_of(activity: Item) -> str:
    """Return an activity as JSON, once it is checked."""
    if not isinstance(activity, Activity):
        activity = Activity.from_payload(activity)
    return json.dumps(activity.to_payload(), ensure_ascii=False)
