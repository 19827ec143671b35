"""Code of callers of the poster: for type checkers only, never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, assert_type
from uuid import UUID

import httpx

from leadpost import (
    Account,
    Activity,
    ActivityType,
    AsyncActivityPoster,
    BucketStatistics,
    Checked,
    Finding,
    Lead,
    LeadActivity,
    LeadpostError,
    OpenBucket,
    Outcome,
    QueueMetrics,
    RequestStatus,
    RetryPolicy,
    TokenBucket,
    User,
)


def accounts() -> None:
    assert_type(Account.from_env(), Account)
    Account.from_env({"LEADPOST_REGION": "india"})
    Account(region="india", access_key="a", secret_key="s", api_key="k")
    Account(host="h", access_key="a", secret_key="s", api_key="k", keys_in="headers")
    Account(host="h", keys_in="body")  # type: ignore[arg-type]  # no such place


def activities(lead: str, form: Mapping[str, Any]) -> None:
    Activity(lead, 201)
    Activity(UUID(lead), 201, "Called back", datetime.now(UTC))
    Activity(lead, 201, activity_datetime="2026-01-31 12:00:00", fields={"mx_Custom_1": True})
    Activity(None, 201, extra={"EmailAddress": "someone@example.com"})
    Activity(Lead.find_or_create("Phone", "+91-9812345678", attributes={"FirstName": "Ada"}), 201)
    Lead.find_or_create("Phone", 9812345678)  # type: ignore[arg-type]  # a number is text
    Activity(lead, "201")  # type: ignore[arg-type]  # a code is a number
    activity = Activity.from_payload(form)
    assert_type(activity, Activity)
    assert_type(Activity.from_json(b"{}"), Activity)
    assert_type(activity.to_payload(), dict[str, Any])
    assert_type(activity.activity_datetime, datetime | None)
    assert_type(activity.lead, str | Lead | None)
    assert_type(activity.related_prospect_id, str | None)


async def one(poster: AsyncActivityPoster, activity: Activity) -> None:
    request_id = await poster.post(activity)
    assert_type(request_id, str)
    assert_type(await poster.post({"RelatedProspectId": "…", "ActivityEvent": 201}), str)
    assert_type(await poster.post(activity, token_timeout=10), str)
    assert_type(await poster.post_sync(activity), str)
    await poster.post("an activity")  # type: ignore[arg-type]  # a text is no activity


async def before(poster: AsyncActivityPoster, batch: list[Activity]) -> None:
    assert_type(await poster.find_lead("Phone", "+91-9812345678"), str | None)
    assert_type(await poster.user(), User)
    async for checked in poster.check(batch, options=True):
        assert_type(checked, Checked)
        assert_type(checked.findings, tuple[Finding, ...])
    now = datetime.now(UTC)
    assert_type(await poster.activities_between(201, now, now), list[LeadActivity] | None)


async def many(poster: AsyncActivityPoster, batch: list[Activity]) -> None:
    assert_type(await poster.post_many(batch), list[str])
    assert_type(await poster.post_many(batch, outage_timeout=60), list[str])
    assert_type(await poster.post_many(batch, return_exceptions=False), list[str])
    for result in await poster.post_many(batch, return_exceptions=True):
        if isinstance(result, LeadpostError):
            assert_type(result.attempts, int)
        else:
            assert_type(result, str)


async def streams(poster: AsyncActivityPoster) -> None:
    def from_memory() -> Iterator[Activity | dict[str, Any]]:
        yield {"RelatedProspectId": "…", "ActivityEvent": 201}

    async def from_elsewhere() -> AsyncIterator[Activity]:
        yield Activity("…", 201)

    stop = asyncio.Event()
    async for outcome in poster.post_stream(from_memory(), stop=stop, outage_timeout=60):
        assert_type(outcome, Outcome)
        assert_type(outcome.index, int)
        assert_type(outcome.activity, Activity | Mapping[str, Any])
        if outcome.state == "accepted":
            assert_type(outcome.request_id, str | None)
    stream = poster.post_stream(from_elsewhere())
    assert_type(await anext(stream), Outcome)
    await stream.aclose()


async def queries(poster: AsyncActivityPoster) -> None:
    status = await poster.status("…")
    assert_type(status, RequestStatus)
    assert_type(await poster.wait("…", timeout=None), RequestStatus)
    assert_type(status.activity_id, str | None)
    assert_type(status.is_final, bool)
    assert_type(await poster.metrics(), QueueMetrics)
    assert_type(await poster.activity_types(), list[ActivityType])
    kind = await poster.activity_type(201)
    assert_type([field.schema_name for field in kind.fields], list[str])
    assert_type(await poster.lead_activities("…", 201), list[LeadActivity])


async def posters(account: Account, client: httpx.AsyncClient) -> None:
    async with AsyncActivityPoster(account, client=client) as poster:
        assert_type(poster, AsyncActivityPoster)
    bucket = TokenBucket(limit=10)
    assert_type(bucket.statistics(), BucketStatistics)
    assert_type(bucket.statistics().waiting, int)
    late = AsyncActivityPoster(account, call_timeout=10)
    assert_type(late.is_away, bool)
    await late.aclose(grace=2)
    AsyncActivityPoster(account, bucket=bucket, retry=RetryPolicy(max_attempts=3))
    AsyncActivityPoster(account, bucket=OpenBucket(), on_uncertain="retry")
    AsyncActivityPoster(account, on_uncertain="ask")  # type: ignore[arg-type]  # raise or retry
