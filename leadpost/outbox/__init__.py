"""
Activities that outlive the process, and one limit for many processes and hosts.

    async with (
        Outbox("sqlite:///leadpost.db", account) as outbox,
        AsyncActivityPoster(account, bucket=SharedTokenBucket("sqlite:///leadpost.db")) as poster,
    ):
        await outbox.put(activity, key="call-8812")  # on disk when it returns
        await outbox.run(poster)

Needs the extra: pip install 'leadpost[outbox]'.
"""

from importlib.util import find_spec
from types import FunctionType

if any(find_spec(name) is None for name in ("sqlalchemy", "asyncpg")):
    raise ImportError(
        "leadpost.outbox needs SQLAlchemy and asyncpg: pip install 'leadpost[outbox]'"
    )

from leadpost.outbox._entry import STATES, Change, Entry, EntryState, Health
from leadpost.outbox._new_entries import put_sync
from leadpost.outbox._outbox import Outbox
from leadpost.outbox._shared_bucket import SharedTokenBucket

__all__ = [
    "STATES",
    "Change",
    "Entry",
    "EntryState",
    "Health",
    "Outbox",
    "SharedTokenBucket",
    "put_sync",
]

for _name in __all__:
    if isinstance(globals()[_name], type | FunctionType):
        globals()[_name].__module__ = __name__
