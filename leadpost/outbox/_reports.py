"""What a worker reports: the log has counts of entries, and `health` the last call."""

from __future__ import annotations

import logging
from collections import Counter

from attrs import define, field

from leadpost.outbox._clock import boot_time
from leadpost.outbox._entry import EntryState

_log = logging.getLogger("leadpost")


@define
class Reports:
    """
    What happened since a worker began.

    Args:
        is_drain: Whether the caller gets the counts in the end, so that the log need not warn.

    Attributes:
        reached: The number of entries that reached each state.
        called_at: When the last call for an entry ended, in `boot_time`; None before the first.
    """

    _is_drain: bool
    reached: Counter[EntryState] = field(factory=Counter[EntryState])
    called_at: float | None = None
    _logged: Counter[EntryState] = field(factory=Counter[EntryState])

    @property
    def called_ago(self) -> float | None:
        """Seconds since the last call for an entry ended."""
        return None if self.called_at is None else boot_time() - self.called_at

    def log(self) -> None:
        """Log how many entries reached each state since this was last done."""
        now = self.reached - self._logged
        self._logged = self.reached.copy()
        if not now:
            return
        is_bad = any(now[state] for state in ("failed", "rejected", "uncertain"))
        counts = ", ".join(f"{count} {state}" for state, count in now.items())
        is_news = is_bad and not self._is_drain
        _log.log(logging.WARNING if is_news else logging.INFO, "outbox: %s", counts)
