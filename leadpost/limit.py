"""The vendor's limit."""

from leadpost._shapes import check_type

LIMIT = 25
"""Calls in `PERIOD` that the vendor allows: "API calls exceeded the limit of 25 in 5 second(s)"."""
PERIOD = 5.0
"""Seconds."""


def check_limit(limit: int) -> None:
    """
    See that a bucket's limit is within the vendor's.

    Raises:
        TypeError: it is no integer.
        ValueError: it is not.
    """
    check_type("limit", limit, int)
    if not 1 <= limit <= LIMIT:
        raise ValueError(f"limit: found {limit}, wanted 1 to {LIMIT}, the vendor's limit")


def limit_in(period: float, calls: int, seconds: int) -> int:
    """
    Give how many calls each `period` keep within a limit of so many calls in so many seconds.

    A span of n periods, the last one begun, holds at most n times as many. 0 means that the limit
    is no rate at all but a quota, such as one for the day.
    """
    periods = max(-(-seconds // period), 1)
    return int(calls // periods)
