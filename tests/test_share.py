"""The arithmetic of our share of a limit that others use too."""

from __future__ import annotations

from leadpost.outbox.share import Share


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
