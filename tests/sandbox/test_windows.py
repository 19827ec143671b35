"""The sandbox's ways of counting calls, compared with counting by brute force."""

from hypothesis import given
from hypothesis import strategies as st

from leadpost.sandbox.windows import FixedWindow, RefilledBucket, SlidingWindow, fullest_window

# Quarters are exact in binary, so "exactly a period apart" does occur.
times = st.lists(st.integers(0, 400).map(lambda quarters: quarters / 4), max_size=60)
periods = st.integers(1, 24).map(lambda quarters: quarters / 4)
limits = st.integers(1, 6)


def most_within(arrivals: list[float], period: float) -> int:
    counts = [sum(start <= time < start + period for time in arrivals) for start in arrivals]
    return max(counts, default=0)


@given(times, periods)
def test_the_fullest_window_is_the_fullest_by_brute_force(
    arrivals: list[float], period: float
) -> None:
    assert fullest_window(arrivals, period) == most_within(arrivals, period)


@given(times, periods, limits)
def test_sliding_allows_an_arrival_exactly_when_fewer_than_the_limit_are_in_the_last_period(
    arrivals: list[float], period: float, limit: int
) -> None:
    window = SlidingWindow(limit, period)
    taken: list[float] = []
    for time in sorted(arrivals):
        expected = sum(time - earlier < period for earlier in taken) < limit
        assert window.take(time) is expected
        if expected:
            taken.append(time)
    assert fullest_window(taken, period) <= limit


@given(times, periods, limits)
def test_fixed_allows_the_first_arrivals_of_each_window(
    arrivals: list[float], period: float, limit: int
) -> None:
    window = FixedWindow(limit, period)
    counts: dict[int, int] = {}
    for time in sorted(arrivals):
        stretch = int(time / period)
        counts[stretch] = counts.get(stretch, 0) + 1
        assert window.take(time) is (counts[stretch] <= limit)


@given(times, periods, limits)
def test_bucket_allows_exactly_its_size_and_refill(
    arrivals: list[float], period: float, limit: int
) -> None:
    bucket = RefilledBucket(limit, period)
    taken: list[float] = []

    def fits(time: float) -> bool:
        """Whether no span that ends at `time` would contain more than burst and refill."""
        starts = [earlier for earlier in taken if earlier <= time]
        return all(
            sum(start <= earlier for earlier in taken) + 1
            <= limit + (time - start) * limit / period + 1e-6
            for start in [*starts, time]
        )

    for time in sorted(arrivals):
        expected = fits(time)
        assert bucket.take(time) is expected
        if expected:
            taken.append(time)


def test_a_bucket_refilled_in_many_small_steps_is_full_on_time() -> None:
    bucket = RefilledBucket(1, 1.0)
    assert bucket.take(0.0)
    assert not any(bucket.take(step / 10) for step in range(1, 10))
    assert bucket.take(1.0)
