"""
Activities that outlive the process, and one limit for many processes and hosts.

    async with (
        Outbox("sqlite:///leadpost.db") as outbox,
        SharedTokenBucket("sqlite:///leadpost.db", account) as bucket,
        AsyncActivityPoster(account, bucket=bucket) as poster,
    ):
        await outbox.put(activity, key="call-8812")  # on disk when it returns
        await outbox.drain(poster)

Needs the extra: pip install 'leadpost[outbox]'.
"""

from importlib.util import find_spec

if any(find_spec(name) is None for name in ("sqlalchemy", "aiosqlite", "asyncpg")):
    raise ImportError(
        "leadpost.outbox needs SQLAlchemy, aiosqlite and asyncpg: pip install 'leadpost[outbox]'"
    )

from leadpost.outbox.bucket import SharedTokenBucket
from leadpost.outbox.entries import STATES, Change, Entry, EntryState
from leadpost.outbox.outbox import Outbox
from leadpost.outbox.store import DEFAULT_URL

__all__ = ["DEFAULT_URL", "STATES", "Change", "Entry", "EntryState", "Outbox", "SharedTokenBucket"]

for _name in __all__:
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
