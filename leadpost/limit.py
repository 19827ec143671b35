"""The vendor's limit."""

LIMIT = 25
"""Calls in `PERIOD` that the vendor allows: "API calls exceeded the limit of 25 in 5 second(s)"."""
PERIOD = 5.0
"""Seconds."""


def limit_in(period: float, calls: int, seconds: int) -> int:
    """
    Give how many calls each `period` keep within a limit of so many calls in so many seconds.

    A span of n periods, the last one begun, holds at most n times as many. 0 means that the limit
    is no rate at all but a quota, such as one for the day.
    """
    periods = max(-(-seconds // period), 1)
    return int(calls // periods)
