"""When a call is made again, and after how long: on a virtual clock, without sockets."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from support import Vendor, accepted, account, activity, answers, now, run_virtual

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
    Unauthorized,
)

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


def post(vendor: Vendor, **options: Any) -> tuple[str | LeadpostError, float]:
    """Post one activity on a virtual clock; give what came of it and the seconds it took."""

    async def main() -> tuple[str | LeadpostError, float]:
        settings: dict[str, Any] = {"retry": STEADY} | options
        poster = AsyncActivityPoster(account(), client=vendor.client(), **settings)
        async with poster:
            try:
                result: str | LeadpostError = await poster.post(activity())
            except LeadpostError as error:
                result = error
        return result, now()

    return run_virtual(main())


def test_back_off_doubles() -> None:
    vendor = Vendor(answers(*[httpx.Response(500)] * 4))
    result, took = post(vendor)
    assert result == "r201"
    assert took == pytest.approx(0.5 + 1 + 2 + 4, abs=0.01)


def test_jitter_spreads_the_waits() -> None:
    times = set[float]()
    for _ in range(5):
        _, took = post(Vendor(answers(httpx.Response(500))), retry=RetryPolicy(jitter=2.0))
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
def test_what_may_pass_is_tried_again_up_to_the_cap(again: Any, error: type[LeadpostError]) -> None:
    vendor = Vendor(answers(again))
    assert post(vendor)[0] == "r201"
    assert len(vendor.requests) == 2
    vendor = Vendor(answers(*[again] * 9))
    result, _ = post(vendor, retry=RetryPolicy(max_attempts=3))
    assert isinstance(result, error)
    assert result.attempts == len(vendor.requests) == 3


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
def test_what_would_fail_again_or_double_is_not_tried_again(
    final: Any, error: type[LeadpostError]
) -> None:
    vendor = Vendor(answers(final))
    result, _ = post(vendor)
    assert type(result) is error
    assert len(vendor.requests) == 1


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: str(r.status_code))
def test_a_refusal_waits_for_the_vendors_window_and_counts_as_no_attempt(
    refusal: httpx.Response,
) -> None:
    vendor = Vendor(answers(*[refusal] * 8))
    result, took = post(vendor, retry=RetryPolicy(max_attempts=1, jitter=0))
    assert result == "r201"
    assert len(vendor.requests) == 9
    assert all(b - a > 4.99 for a, b in zip(vendor.arrivals, vendor.arrivals[1:], strict=False))
    assert took >= 40


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda r: str(r.status_code))
def test_a_refusal_slows_every_caller_of_the_bucket(refusal: httpx.Response) -> None:
    async def main() -> None:
        vendor = Vendor(answers(refusal), there=0.1)
        async with AsyncActivityPoster(account(), client=vendor.client(), retry=STEADY) as poster:
            await poster.post_many(activity(n + 1) for n in range(60))
        first, *others = vendor.arrivals
        # The 24 under way cannot be called back; nobody else leaves before the window has passed.
        assert sum(time < first + 5 for time in others) == 24

    run_virtual(main())


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int) -> None:
    vendor = Vendor(answers(httpx.Response(status, headers={"Retry-After": "17"})))
    result, took = post(vendor)
    assert result == "r201"
    assert took == pytest.approx(17, abs=0.01)


def test_retry_after_is_honoured_with_a_bucket_that_knows_no_pause() -> None:
    vendor = Vendor(answers(httpx.Response(429, headers={"Retry-After": "17"})))
    result, took = post(vendor, bucket=OpenBucket())
    assert result == "r201"
    assert took == pytest.approx(17, abs=0.01)


def test_a_retry_after_past_the_cap_is_raised_not_slept_through() -> None:
    vendor = Vendor(answers(httpx.Response(429, headers={"Retry-After": "7200"})))
    result, took = post(vendor)
    assert isinstance(result, RateLimited)
    assert (result.retry_after, result.attempts) == (7200, 1)
    assert took < 1


def test_refusals_end_with_the_time() -> None:
    vendor = Vendor(answers(*[httpx.Response(429)] * 99))
    result, took = post(vendor, retry=RetryPolicy(max_time=60, jitter=0))
    assert isinstance(result, RateLimited)
    assert result.attempts == len(vendor.requests)
    assert 40 < took <= 60


def test_the_time_counts_from_the_first_call_not_from_the_wait_for_its_token() -> None:
    async def main() -> None:
        bucket = TokenBucket(1)
        vendor = Vendor(answers(None, httpx.Response(500)))
        policy = RetryPolicy(max_time=6, jitter=0)
        async with AsyncActivityPoster(
            account(), client=vendor.client(), bucket=bucket, retry=policy
        ) as poster:
            await poster.post(activity())
            assert await poster.post(activity()) == "r201"
        assert now() == pytest.approx(10, abs=0.1)

    run_virtual(main())


def test_a_post_waits_for_its_token_no_longer_than_it_is_told() -> None:
    async def main() -> None:
        vendor, bucket = Vendor(), TokenBucket(1)
        async with AsyncActivityPoster(account(), client=vendor.client(), bucket=bucket) as poster:
            await poster.post(activity(1), token_timeout=0)  # there is one
            with pytest.raises(NotSent, match="the wait for a token ended") as caught:
                await poster.post(activity(2), token_timeout=4.5)
            assert caught.value.state == "not_sent"
            assert now() == pytest.approx(4.5, abs=0.01)
            await poster.post(activity(3), token_timeout=1)  # what was waited for in vain is free
            assert now() == pytest.approx(5, abs=0.1)
            assert vendor.numbers == [1, 3]

    run_virtual(main())


def test_the_time_for_the_token_is_that_for_the_first_call_alone() -> None:
    async def main() -> None:
        vendor = Vendor(answers(*[httpx.Response(500)] * 4), there=1.0)
        poster = AsyncActivityPoster(account(), client=vendor.client(), retry=STEADY)
        async with poster:
            assert await poster.post(activity(), token_timeout=0.1) == "r201"
        assert now() == pytest.approx(5 * 1.0 + 0.5 + 1 + 2 + 4, abs=0.1)

    run_virtual(main())


def test_a_retry_that_gets_no_token_in_time_gives_the_last_error() -> None:
    vendor = Vendor(answers(httpx.Response(500)))
    policy = RetryPolicy(max_time=3, jitter=0)
    result, took = post(vendor, bucket=TokenBucket(1), retry=policy)
    assert isinstance(result, ServerError)
    assert result.attempts == 1
    assert took == pytest.approx(3, abs=0.1)


def test_on_request_doubt_is_tried_again() -> None:
    vendor = Vendor(answers(httpx.ReadTimeout("no"), httpx.Response(504)))
    assert post(vendor, on_uncertain="retry")[0] == "r201"


@pytest.mark.parametrize("last", [httpx.Response(400), httpx.Response(401)])
def test_doubt_stays_doubt_whatever_a_later_attempt_comes_to(last: httpx.Response) -> None:
    vendor = Vendor(answers(httpx.ReadTimeout("no"), last))
    result, _ = post(vendor, on_uncertain="retry")
    assert isinstance(result, DeliveryUncertain)
    assert "an earlier attempt may have arrived" in str(result)
    assert (result.attempts, result.status) == (2, last.status_code)


def test_doubt_upon_doubt_ends_at_the_cap() -> None:
    vendor = Vendor(answers(*[httpx.ReadTimeout("no")] * 9))
    result, _ = post(vendor, on_uncertain="retry", retry=RetryPolicy(max_attempts=2))
    assert isinstance(result, DeliveryUncertain)
    assert result.attempts == len(vendor.requests) == 2


def test_a_time_out_of_the_buckets_own_passes_through() -> None:
    class Broken(OpenBucket):
        def token(self) -> Any:
            raise TimeoutError("the database of this bucket is away")

    with pytest.raises(TimeoutError, match="database"):
        post(Vendor(), bucket=Broken())


def test_wait_passes_on_a_time_out_that_is_not_its_own() -> None:
    class Broken(OpenBucket):
        def token(self) -> Any:
            raise TimeoutError("the database of this bucket is away")

    async def main() -> None:
        poster = AsyncActivityPoster(account(), client=Vendor().client(), bucket=Broken())
        with pytest.raises(TimeoutError, match="database"):
            await poster.wait("r1")

    run_virtual(main())


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 0}, {"max_time": 0}, {"initial_wait": -1}, {"jitter": -1}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


def test_accepted_is_what_the_vendor_says() -> None:
    assert post(Vendor(answers(accepted(7))))[0] == "r7"
