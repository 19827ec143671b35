"""Code of callers that catch errors: for type checkers only, never run."""

from __future__ import annotations

from typing import Literal, assert_type

from leadpost import (
    Activity,
    AsyncActivityPoster,
    BatchError,
    ConnectionFailed,
    DeliveryUncertain,
    InvalidActivity,
    LeadpostError,
    NotSent,
    OutageTimeout,
    Outcome,
    Problem,
    RateLimited,
    RequestStatus,
    StatusTimeout,
    TokenLost,
)

State = Literal["accepted", "rejected", "uncertain", "failed", "not_sent"]


async def of_one(poster: AsyncActivityPoster, activity: Activity) -> str | None:
    try:
        return await poster.post(activity)
    except InvalidActivity as error:
        assert_type(error.problems, tuple[Problem, ...])
    except RateLimited as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.limit, tuple[int, int] | None)
    except ConnectionFailed as error:
        assert_type(error.sent, bool)
    except DeliveryUncertain as error:
        assert_type(error.status, int | None)
    except (OutageTimeout, TokenLost) as error:
        before_sending: NotSent = error
        assert_type(before_sending.attempts, int)
    except LeadpostError as error:
        assert_type(error.exception_type, str | None)
        assert_type(error.exception_message, str | None)
        assert_type(error.state, State)
    return None


async def of_many(poster: AsyncActivityPoster, activities: list[Activity]) -> None:
    try:
        await poster.post_many(activities)
    except BatchError as error:
        assert_type(error.outcomes, tuple[Outcome, ...])
        for outcome in error.outcomes:
            assert_type(outcome.error, LeadpostError | None)
            assert_type(outcome.state, State)
    try:
        await poster.post_many(activities)
    except* RateLimited as group:
        assert_type(group, ExceptionGroup[RateLimited])


async def of_waiting(poster: AsyncActivityPoster, request_id: str) -> None:
    try:
        await poster.wait(request_id)
    except StatusTimeout as error:
        assert_type(error.last, RequestStatus | None)
