"""The bucket of a command."""

from collections.abc import Iterable

from leadpost.bucket import LIMIT
from leadpost.hooks import Hook
from leadpost.outbox import SharedTokenBucket


def bucket_of(url: str, limit: int = LIMIT, hooks: Iterable[Hook] = ()) -> SharedTokenBucket:
    """Return the bucket that all of the user's runs share. The poster opens and closes it."""
    return SharedTokenBucket(url, limit=limit, hooks=hooks)
