"""
Logs when something cannot be reached, once a minute while that lasts, and when it can be again.

This is about one connection, to a host or a database. Whether LeadSquared is *away*, in an outage,
is concluded from several posts: see `leadpost._availability`.
"""

from __future__ import annotations

import logging

from leadpost.errors import described
from leadpost.outbox._clock import boot_time

_LOG_EVERY = 60.0

_log = logging.getLogger("leadpost")


class Reachability:
    """
    Whether something can be reached.

    Args:
        name: Its name in the log.

    Attributes:
        was_reached: Whether it was reached at any time.
    """

    def __init__(self, name: str) -> None:
        self.was_reached = False
        self._name = name
        self._since: float | None = None
        self._logged_at = 0.0

    @property
    def unreachable_for(self) -> float:
        """Seconds since it was first not reached, 0 if it can be reached."""
        since = self._since  # another thread may ask
        return 0.0 if since is None else boot_time() - since

    def failed(self, error: Exception) -> None:
        """Record that it cannot be reached, and log that, but not more than once a minute."""
        now = boot_time()
        if self._since is None:
            self._since = self._logged_at = now
            _log.warning("%s cannot be reached: %s", self._name, described(error))
        elif now - self._logged_at >= _LOG_EVERY:
            self._logged_at = now
            what = "%s has not been reached for %.0f s: %s"
            _log.warning(what, self._name, now - self._since, described(error))

    def answered(self) -> None:
        """Record that it can be reached, and log that it can again."""
        self.was_reached = True
        if self._since is not None:
            _log.warning("%s can be reached again, after %.0f s", self._name, self.unreachable_for)
            self._since = None
