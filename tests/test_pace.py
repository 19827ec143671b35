"""The arithmetic of the bucket: trust in round trips, and our share of a limit."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from leadpost.pace import ENOUGH, LONGEST_HEAD_START, RoundTrips, Share


def trips(seconds: list[float]) -> RoundTrips:
    seen = RoundTrips()
    for one in seconds:
        seen.saw(one)
    return seen


@given(st.lists(st.floats(0, 60), max_size=200))
def test_the_head_start_is_below_the_least_seen_and_bounded(seconds: list[float]) -> None:
    head_start = trips(seconds).head_start
    assert 0 <= head_start <= LONGEST_HEAD_START
    if seconds:
        assert head_start <= min(seconds)


@given(st.lists(st.floats(0, 60), max_size=ENOUGH - 1))
def test_few_round_trips_give_no_head_start(seconds: list[float]) -> None:
    assert trips(seconds).head_start == 0


def test_equal_round_trips_are_trusted_and_wide_ones_less() -> None:
    assert trips([0.2] * 1000).head_start == 0.2
    assert trips([0.2, 0.4] * 500).head_start < 0.17
    assert trips([0.2, 2.0] * 500).head_start == 0


def test_the_head_start_stays_below_the_least_possible_for_evenly_spread_delays() -> None:
    chance = random.Random(5)
    for low, high in [(0.02, 0.15), (0.1, 0.15), (0.3, 0.5), (0.1, 1.0), (0.0, 0.01)]:
        for _ in range(100):
            seen = RoundTrips()
            for _ in range(300):
                seen.saw(chance.uniform(low, high) + chance.uniform(low, high))
                assert seen.head_start <= 2 * low


def raised(share: Share, start: float, end: float) -> list[int]:
    """Give the tokens after each raise between two times, asked for ten times a second."""
    times = (tenth / 10 for tenth in range(round(start * 10), round(end * 10)))
    return [share.tokens for time in times if share.may_raise(time)]


def test_a_refusal_leaves_what_was_let_through_and_raises_double_while_they_hold() -> None:
    share = Share(25, 5, 25)
    share.refused(0, 15)
    assert share.tokens == 15
    assert raised(share, 0, 60) == [16, 18, 22, 25]


def waits_between_failing_raises(share: Share, count: int) -> list[float]:
    now, waits = 0.0, list[float]()
    share.refused(now, 15)
    for _ in range(count):
        begun = now
        while not share.may_raise(now):
            now += 0.5
        waits.append(now - begun)
        assert share.tokens == 16
        share.refused(now, 15)
    return waits


def test_a_raise_that_fails_makes_the_next_one_wait_twice_as_long_up_to_an_end() -> None:
    waits = waits_between_failing_raises(Share(25, 5, 25), 9)
    assert waits == [5, 10, 20, 40, 80, 80, 80, 80, 80]


def test_patience_comes_back_when_raises_hold() -> None:
    share = Share(25, 5, 25)
    waits_between_failing_raises(share, 9)
    assert raised(share, 2000, 4000)[-1] == 25


def test_one_refusal_takes_at_most_the_half_and_never_the_last_token() -> None:
    share = Share(25, 5, 25)
    found: list[int] = []
    for _ in range(6):
        share.refused(0, 0)
        found.append(share.tokens)
    assert found == [12, 6, 3, 1, 1, 1]


def test_a_named_limit_is_for_good() -> None:
    share = Share(25, 5, 25)
    share.lowered(10)
    assert share.tokens == 10
    assert raised(share, 0, 1000) == []
    share.refused(1000, 4)
    assert raised(share, 1000, 2000)[-1] == 10
