"""Something that cannot be reached for now: told once when it goes, and once when it is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from leadpost.errors import LeadpostError, OutboxError

_log = logging.getLogger(__name__)


class Away:
    """
    What is known of the absence of one thing.

    Args:
        name: What it is called in the log.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tries = 0
        self._since = 0.0
        self._until = 0.0

    def is_away(self, error: Exception, wait: Callable[[int], float] = lambda _: 0.0) -> int:
        """
        Take in a failure.

        Args:
            error: What was raised.
            wait: Gives the seconds to leave it alone after so many rounds of tries.

        Returns:
            How many rounds have failed; calls that were under way together fail in one.
        """
        moment = time.monotonic()
        if moment >= self._until:
            if not self._tries:
                self._since = moment
                _log.warning("%s is away: %s", self._name, described(error))
            self._tries += 1
            self._until = moment + wait(self._tries)
        return self._tries

    def is_back(self) -> None:
        """Take in a success."""
        if self._tries:
            _log.warning("%s is back after %.0f s", self._name, self.away_for())
        self._tries = 0
        self._until = 0.0

    def hold(self) -> float:
        """Give the seconds until the next try, 0 or less if it may be now."""
        return self._until - time.monotonic()

    def away_for(self) -> float:
        """Give the seconds since the first failure, 0 where it is not away."""
        return time.monotonic() - self._since if self._tries else 0.0


def described(error: Exception) -> str:
    """Describe an error for the log: without its text, if that may hold LeadSquared's words."""
    if isinstance(error, OutboxError):
        return str(error)
    status = error.status if isinstance(error, LeadpostError) else None
    return type(error).__name__ + (f", HTTP {status}" if status else "")
