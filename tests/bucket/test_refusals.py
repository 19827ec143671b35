"""The rule after a 429: its decisions, and what it reaches."""

from __future__ import annotations

import asyncio
import logging
import random
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusal_trial import CASES, Case, Server, call, run
from support import virtual

from leadpost import TokenBucket
from leadpost._refusals import Refusals, tokens_within

LIMITS = st.tuples(st.integers(1, 200), st.integers(1, 60))


def rule() -> Refusals:
    return Refusals(25, 5.0)


def answer(rule: Refusals, refused: int, accepted: int = 0, at: float = 1.0) -> None:
    """Record calls that were sent and answered at one moment, the refused ones first."""
    for number in range(refused + accepted):
        rule.record(at, at, refused=number < refused)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_reaches_its_goals_within_20_minutes(case: Case) -> None:
    result = run(case, TokenBucket(), seed=1, seconds=1200)
    assert result.share >= case.share
    assert result.refused <= case.refused


@pytest.mark.parametrize("seconds_before", [0, 300], ids=["fresh", "in use"])
@virtual
async def test_a_foreign_burst_on_a_full_bucket_is_logged_and_forgotten_within_two_minutes(
    seconds_before: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leadpost")
    bucket = TokenBucket()
    burst = iter([float(seconds_before)] * 25)
    server = Server(random.Random(1), others=burst, counts_refused=True)
    callers = [asyncio.create_task(call(bucket, server)) for _ in range(60)]
    await asyncio.sleep(seconds_before + 120)
    assert bucket.statistics().limit >= 20
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    assert server.calls - server.accepted >= 5
    shrunk, *grown = (r for r in caplog.records if " tokens, was " in r.message)
    assert shrunk.levelno == logging.WARNING
    assert "calls were refused" in shrunk.message
    assert {record.levelno for record in grown} == {logging.INFO}
    assert all(record.message.endswith(": more are tried again") for record in grown)


def test_fifteen_of_a_hundred_are_noise_and_one_more_is_not() -> None:
    noisy = rule()
    answer(noisy, 0, 85)
    answer(noisy, 15)
    assert noisy.tokens == 25
    change = noisy.record(1.0, 1.0, refused=True)
    assert change is not None
    assert (change.before, change.tokens, change.pause) == (25, 20, 5.0)
    assert change.reason == "16 of the last 100 calls were refused"
    assert noisy.tokens == 20


def test_fewer_than_twenty_calls_prove_nothing() -> None:
    refused = rule()
    answer(refused, 19)
    assert refused.tokens == 25


def test_one_refused_burst_cuts_the_bucket_by_about_half() -> None:
    refused = rule()
    for _ in range(25):
        refused.record(1.0, 0.0, refused=True)
    assert refused.tokens == 11


def test_calls_sent_before_a_cut_do_not_count_in_the_next() -> None:
    refused = rule()
    answer(refused, 20, at=1.0)
    assert refused.tokens == 11
    for _ in range(100):
        refused.record(2.0, 0.5, refused=True)
    assert refused.tokens == 11


def test_a_bucket_of_one_token_stays_one() -> None:
    refused = rule()
    for moment in range(1, 20):
        answer(refused, 20, at=float(moment))
    assert refused.tokens == 1


def test_it_grows_back_by_a_quarter_every_six_periods() -> None:
    cut = rule()
    answer(cut, 20, at=0.0)
    sizes = {second: cut.tokens for second in range(1, 200) if cut.tick(float(second))}
    assert sizes == {35: 13, 65: 16, 95: 20, 125: 25}


def test_growth_keeps_the_results_by_which_the_next_cut_is_judged() -> None:
    cut = rule()
    answer(cut, 20, at=0.0)
    answer(cut, 0, 30, at=1.0)
    assert cut.tick(40.0)
    answer(cut, 5, at=41.0)
    assert cut.tokens == 13
    answer(cut, 1, at=41.0)
    assert cut.tokens < 13


@given(limits=st.lists(LIMITS, min_size=1, max_size=2), uses=st.lists(st.floats(0, 30)))
def test_the_tokens_of_several_limits_keep_each_of_them(
    limits: list[tuple[int, int]], uses: list[float]
) -> None:
    """Each token is used as soon as it may be, or later."""
    tokens, rest = tokens_within((25, 5), *limits)
    assert tokens >= 1
    back = [0.0] * tokens
    arrivals: list[float] = []
    for use in sorted(uses):
        token = min(range(tokens), key=back.__getitem__)
        arrivals.append(max(use, back[token]))
        back[token] = arrivals[-1] + rest
    for calls, seconds in [(25, 5), *limits]:
        assert tokens * ceil(seconds / rest - 1e-9) <= calls
        for start in arrivals:
            assert sum(start <= other < start + seconds - 1e-6 for other in arrivals) <= calls


@pytest.mark.parametrize(
    ("named", "tokens", "rest"),
    [
        ((10, 5), 10, 5.0),
        ((10, 1), 5, 1.0),  # 10 a second are more than 25 in 5 s, so those are kept
        ((2, 1), 2, 1.0),
        ((20, 10), 20, 10.0),
        ((1, 30), 1, 30.0),
        ((25, 5), 25, 5.0),
        ((72, 5), 25, 5.0),
        ((1000, 86_400), 25, 5.0),  # a quota, no rate
        ((5, 0), 25, 5.0),
        ((0, 5), 25, 5.0),
    ],
)
def test_a_named_limit_sets_tokens_and_rest(
    named: tuple[int, int], tokens: int, rest: float
) -> None:
    refused = rule()
    refused.record(1.0, 1.0, refused=True, named=named)
    assert refused.tokens == tokens
    assert refused.rest == pytest.approx(rest)


def test_a_named_limit_is_tried_again_after_an_hour_and_holds_if_it_is_named_again() -> None:
    named = rule()
    first = named.record(1.0, 1.0, refused=True, named=(10, 5))
    assert first is not None
    assert first.reason == "LeadSquared names a limit of 10 calls in 5 s"
    assert named.record(1.0, 0.9, refused=True, named=(10, 5)) is None
    assert named.tick(3600.0) is None
    again = named.tick(3601.0)
    assert again is not None
    assert (again.before, again.tokens) == (10, 25)
    assert again.reason == "the limit named an hour ago is tried again"
    named.record(3602.0, 3602.0, refused=True, named=(10, 5))
    assert named.tokens == 10


def test_a_refusal_that_names_a_limit_above_the_size_does_not_enlarge_it() -> None:
    cut = rule()
    for at in range(10):
        answer(cut, 20, at=10.0 * at)
    before = cut.tokens
    assert before < 10
    cut.record(100.0, 100.0, refused=True, named=(10, 5))
    assert cut.tokens == before
    for second in range(101, 1000):
        cut.tick(float(second))
    assert cut.tokens == 10


def test_refusals_below_a_named_limit_shrink_it_further_and_it_grows_back_to_it() -> None:
    named = rule()
    named.record(1.0, 1.0, refused=True, named=(10, 5))
    answer(named, 20, at=2.0)
    assert named.tokens == 4
    for second in range(3, 400):
        named.tick(float(second))
    assert named.tokens == 10


def test_the_size_set_by_another_process_is_adopted() -> None:
    cut, other = rule(), rule()
    answer(cut, 20, at=0.0)
    change = other.adopt(100.0, cut.size(1.0))  # its clock is another one
    assert change is not None
    assert (change.before, change.tokens, change.pause) == (25, 11, 0.0)
    assert change.reason == "as another process decided"
    assert other.tick(133.9) is None
    assert other.tick(134.0) is not None  # grows when the other one would
    assert other.tokens == 13
    assert other.adopt(134.0, other.size(134.0)) is None


def test_a_cut_forgets_earlier_results_and_growth_keeps_them() -> None:
    cut, other = rule(), rule()
    answer(cut, 20, at=0.0)
    answer(other, 19, at=0.0)
    other.adopt(1.0, cut.size(1.0))
    answer(other, 19, at=2.0)
    assert other.tokens == 11
    cut.tick(40.0)
    other.adopt(40.0, cut.size(40.0))
    assert other.tokens == 13
    answer(other, 1, at=41.0)
    assert other.tokens < 13


def test_a_named_limit_is_adopted_with_its_end_and_not_exceeded() -> None:
    named, other = rule(), rule()
    named.record(0.0, 0.0, refused=True, named=(10, 1))
    other.adopt(1000.0, named.size(600.0))
    assert (other.tokens, other.rest) == (5, 1.0)
    assert other.tick(1000.0) is None
    assert other.tick(3999.0) is None
    assert other.tick(4000.0) is not None
    assert (other.tokens, other.rest) == (25, 5.0)


def test_an_adopted_size_is_capped_at_the_buckets_own_limit() -> None:
    small = Refusals(10, 5.0)
    assert small.adopt(0.0, rule().size(0.0)) is None
    assert small.tokens == 10
