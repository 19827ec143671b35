"""A clock that runs on while the machine is suspended."""

from __future__ import annotations

import time


def boot_time() -> float:
    """
    Return seconds since some moment before, the time in suspend included.

    Linux stops CLOCK_MONOTONIC during suspend; other systems do not have CLOCK_BOOTTIME, and go on.
    """
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
