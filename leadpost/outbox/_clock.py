"""A clock that continues while the machine is suspended."""

from __future__ import annotations

import time


def boot_time() -> float:
    """
    Return seconds since some fixed moment, including suspended time.

    Linux stops CLOCK_MONOTONIC during suspend. Other systems have no CLOCK_BOOTTIME, but their
    monotonic clock continues.
    """
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
