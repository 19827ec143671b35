"""When a call is retried, and after how long: on a virtual clock, without sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from support import LeadSquared, account, activity, answers, now, run_virtual, virtual

from leadpost import (
    ApplicationError,
    AsyncActivityPoster,
    BadRequest,
    ConnectionFailed,
    DeliveryUncertain,
    LeadpostError,
    NotSent,
    OpenBucket,
    RateLimited,
    RetryPolicy,
    ServerError,
    TokenBucket,
    TokenLost,
    Unauthorized,
)
from leadpost.bucket import Priority

REFUSAL = {
    "Status": "Error",
    "ExceptionType": "MXAPIRateLimitExceededException",
    "ExceptionMessage": "API calls exceeded the limit of 25 in 5 second(s)",
}
REFUSALS = [
    httpx.Response(429, json=REFUSAL),
    httpx.Response(429, json={"message": "Too Many Requests"}),
    httpx.Response(403, json=REFUSAL),
    httpx.Response(200, json=REFUSAL),
]
STEADY = RetryPolicy(jitter=0)


def post(leadsquared: LeadSquared, **options: Any) -> tuple[str | LeadpostError, float]:
    """Post one activity on a virtual clock; return the result and the seconds it took."""

    async def main() -> tuple[str | LeadpostError, float]:
        settings: dict[str, Any] = {"retry": STEADY} | options
        poster = AsyncActivityPoster(account(), client=leadsquared.client(), **settings)
        async with poster:
            try:
                result: str | LeadpostError = await poster.post(activity())
            except LeadpostError as error:
                result = error
        return result, now()

    return run_virtual(main())


def test_the_wait_doubles_with_each_retry() -> None:
    leadsquared = LeadSquared(answers(*[httpx.Response(500)] * 4))
    result, took = post(leadsquared)
    assert result == "r201"
    assert took == pytest.approx(0.5 + 1 + 2 + 4, abs=0.01)


def test_jitter_spreads_the_waits() -> None:
    times = set[float]()
    for _ in range(5):
        _, took = post(LeadSquared(answers(httpx.Response(500))), retry=RetryPolicy(jitter=2.0))
        assert 0.5 <= took <= 2.51
        times.add(round(took, 6))
    assert len(times) > 1


@pytest.mark.parametrize(
    ("again", "error"),
    [
        (httpx.Response(500), ServerError),
        (httpx.Response(503, json={"message": "Service Unavailable"}), ServerError),
        (httpx.ConnectError("no"), ConnectionFailed),
        (httpx.ConnectTimeout("no"), ConnectionFailed),
        (httpx.PoolTimeout("no"), ConnectionFailed),
    ],
)
def test_a_temporary_failure_is_retried_up_to_max_attempts(
    again: Any, error: type[LeadpostError]
) -> None:
    leadsquared = LeadSquared(answers(again))
    assert post(leadsquared)[0] == "r201"
    assert len(leadsquared.requests) == 2
    leadsquared = LeadSquared(answers(*[again] * 9))
    result, _ = post(leadsquared, retry=RetryPolicy(max_attempts=3))
    assert isinstance(result, error)
    assert result.attempts == len(leadsquared.requests) == 3


@pytest.mark.parametrize(
    ("final", "error"),
    [
        (httpx.Response(400), BadRequest),
        (httpx.Response(401), Unauthorized),
        (httpx.Response(500, json={"ExceptionType": "MXInvalidLeadException"}), ApplicationError),
        (httpx.ReadTimeout("no"), DeliveryUncertain),
        (httpx.ReadError("no"), DeliveryUncertain),
        (httpx.WriteError("no"), DeliveryUncertain),
        (httpx.RemoteProtocolError("no"), DeliveryUncertain),
        (httpx.DecodingError("no"), DeliveryUncertain),
        (httpx.Response(502), DeliveryUncertain),
    ],
)
def test_a_failure_that_would_recur_or_duplicate_is_not_retried(
    final: Any, error: type[LeadpostError]
) -> None:
    leadsquared = LeadSquared(answers(final))
    result, _ = post(leadsquared)
    assert type(result) is error
    assert len(leadsquared.requests) == 1


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: str(r.status_code))
def test_a_refusal_is_retried_with_a_growing_wait_and_does_not_count(
    refusal: httpx.Response,
) -> None:
    leadsquared = LeadSquared(answers(*[refusal] * 4))
    result, took = post(
        leadsquared, retry=RetryPolicy(max_attempts=1, jitter=0), bucket=OpenBucket()
    )
    assert result == "r201"
    assert len(leadsquared.requests) == 5
    assert took == pytest.approx(0.5 + 1 + 2 + 4, abs=0.01)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: str(r.status_code))
@virtual
async def test_one_refusal_among_many_posts_is_retried_alone(refusal: httpx.Response) -> None:
    leadsquared = LeadSquared(answers(refusal), there=0.1)
    async with AsyncActivityPoster(account(), client=leadsquared.client(), retry=STEADY) as poster:
        await poster.post_many(activity(n + 1) for n in range(60))
    assert sorted(leadsquared.numbers) == sorted([1, *range(1, 61)])
    # As without the refusal: 25 at once, 25 after 5 s, the remaining 11 after 10 s.
    assert now() == pytest.approx(10.3, abs=0.1)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("bucket", [TokenBucket, OpenBucket])  # the latter knows no pause
@pytest.mark.parametrize(("retry_after", "wait"), [("17", 17), ("7200", 60)])
def test_a_retry_after_is_honoured_for_a_minute_then_one_call_is_tried(
    retry_after: str, wait: int, bucket: type[TokenBucket | OpenBucket], status: int
) -> None:
    leadsquared = LeadSquared(answers(httpx.Response(status, headers={"Retry-After": retry_after})))
    result, took = post(leadsquared, bucket=bucket())
    assert result == "r201"
    assert took == pytest.approx(wait, abs=0.01)


@pytest.mark.parametrize("status", [429, 503])
def test_a_long_retry_after_that_stays_is_raised_when_the_time_is_over(status: int) -> None:
    refusal = httpx.Response(status, headers={"Retry-After": "7200"})
    leadsquared = LeadSquared(answers(*[refusal] * 99))
    result, took = post(leadsquared, retry=RetryPolicy(max_time=290, jitter=0))
    assert isinstance(result, RateLimited if status == 429 else ServerError)
    assert result.retry_after == 7200
    assert leadsquared.arrivals == pytest.approx([0, 60, 120, 180, 240], abs=0.01)
    assert took <= 290.01


def test_a_call_that_is_always_refused_raises_when_its_time_is_over() -> None:
    leadsquared = LeadSquared(answers(*[httpx.Response(429)] * 99))
    result, took = post(leadsquared, retry=RetryPolicy(max_time=60, jitter=0), bucket=OpenBucket())
    assert isinstance(result, RateLimited)
    assert result.attempts == len(leadsquared.requests) == 7
    assert took == pytest.approx(0.5 + 1 + 2 + 4 + 8 + 16)  # 30 s more would be too late


@virtual
async def test_max_time_includes_the_wait_for_the_first_token() -> None:
    leadsquared, bucket = LeadSquared(), TokenBucket(1)
    policy = RetryPolicy(max_time=4, jitter=0)
    async with AsyncActivityPoster(
        account(), client=leadsquared.client(), bucket=bucket, retry=policy
    ) as poster:
        await poster.post(activity(1))
        with pytest.raises(NotSent, match="no token became free in time"):
            await poster.post(activity(2))
    assert now() == pytest.approx(4, abs=0.01)
    assert leadsquared.numbers == [1]


@virtual
async def test_in_a_batch_max_time_counts_from_the_first_token() -> None:
    leadsquared, bucket = LeadSquared(answers(None, httpx.Response(500))), TokenBucket(1)
    policy = RetryPolicy(max_time=6, jitter=0)
    async with AsyncActivityPoster(
        account(), client=leadsquared.client(), bucket=bucket, retry=policy
    ) as poster:
        assert await poster.post_many([activity(1), activity(2)]) == ["r1", "r2"]
    assert now() == pytest.approx(10, abs=0.1)


@virtual
async def test_token_timeout_limits_the_wait_for_a_token() -> None:
    leadsquared, bucket = LeadSquared(), TokenBucket(1)
    async with AsyncActivityPoster(account(), client=leadsquared.client(), bucket=bucket) as poster:
        await poster.post(activity(1), token_timeout=0)  # one is free
        with pytest.raises(NotSent, match="no token became free in time") as caught:
            await poster.post(activity(2), token_timeout=4.5)
        assert caught.value.state == "not_sent"
        assert now() == pytest.approx(4.5, abs=0.01)
        await poster.post(activity(3), token_timeout=1)  # the token stayed free
        assert now() == pytest.approx(5, abs=0.1)
        assert leadsquared.numbers == [1, 3]


@virtual
async def test_token_timeout_concerns_only_the_first_call() -> None:
    leadsquared = LeadSquared(answers(*[httpx.Response(500)] * 4), there=1.0)
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), retry=STEADY)
    async with poster:
        assert await poster.post(activity(), token_timeout=0.1) == "r201"
    assert now() == pytest.approx(5 * 1.0 + 0.5 + 1 + 2 + 4, abs=0.1)


def test_a_retry_without_a_token_in_time_raises_the_last_error() -> None:
    leadsquared = LeadSquared(answers(httpx.Response(500)))
    policy = RetryPolicy(max_time=3, jitter=0)
    result, took = post(leadsquared, bucket=TokenBucket(1), retry=policy)
    assert isinstance(result, ServerError)
    assert result.attempts == 1
    assert took == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("last", [httpx.Response(400), httpx.Response(401)])
def test_an_uncertain_post_stays_uncertain_whatever_a_later_attempt_says(
    last: httpx.Response,
) -> None:
    leadsquared = LeadSquared(answers(httpx.ReadTimeout("no"), last))
    result, _ = post(leadsquared, on_uncertain="retry")
    assert isinstance(result, DeliveryUncertain)
    assert "an earlier attempt may have arrived" in str(result)
    assert (result.attempts, result.status) == (2, last.status_code)


def test_a_post_that_is_always_uncertain_ends_after_max_attempts() -> None:
    leadsquared = LeadSquared(answers(*[httpx.ReadTimeout("no")] * 9))
    result, _ = post(leadsquared, on_uncertain="retry", retry=RetryPolicy(max_attempts=2))
    assert isinstance(result, DeliveryUncertain)
    assert result.attempts == len(leadsquared.requests) == 2


class Broken(OpenBucket):
    def token(self, priority: Priority, call_timeout: float) -> Any:
        del priority, call_timeout
        raise TimeoutError("the database of this bucket is down")


def test_a_time_out_of_the_bucket_passes_through() -> None:
    with pytest.raises(TimeoutError, match="database"):
        post(LeadSquared(), bucket=Broken())


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(httpx.Response(400), BadRequest), (httpx.ReadTimeout("no"), DeliveryUncertain)],
)
def test_a_bucket_that_suppresses_an_error_hides_and_repeats_nothing(
    answer: Any, kind: type[LeadpostError]
) -> None:
    class Suppressing(OpenBucket):
        @asynccontextmanager
        async def token(
            self, priority: Priority, call_timeout: float
        ) -> AsyncGenerator[Callable[[], None]]:
            with suppress(LeadpostError):
                async with super().token(priority, call_timeout) as begin:
                    yield begin

    leadsquared = LeadSquared(answers(answer))
    assert type(post(leadsquared, bucket=Suppressing())[0]) is kind
    assert len(leadsquared.requests) == 1


@virtual
async def test_wait_raises_a_time_out_of_the_bucket_as_it_is() -> None:
    poster = AsyncActivityPoster(account(), client=LeadSquared().client(), bucket=Broken())
    with pytest.raises(TimeoutError, match="database"):
        await poster.wait("r1")


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 0}, {"max_time": 0}, {"initial_wait": -1}, {"jitter": -1}]
)
def test_a_policy_out_of_range_raises(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


@virtual
async def test_a_token_lost_before_a_retry_does_not_hide_the_answer_to_the_attempt_before() -> None:
    class Frozen(OpenBucket):
        calls = 0

        def token(self, priority: Priority, call_timeout: float) -> Any:
            self.calls += 1
            if self.calls > 1:
                raise TokenLost("frozen")
            return super().token(priority, call_timeout)

    policy = RetryPolicy(max_time=3, jitter=0)
    leadsquared = LeadSquared(answers(httpx.Response(500)))
    client = leadsquared.client()
    async with AsyncActivityPoster(account(), client=client, bucket=Frozen(), retry=policy) as to:
        with pytest.raises(ServerError) as caught:
            await to.post(activity())
    assert (caught.value.attempts, caught.value.state) == (1, "failed")
