"""The activities in a span of time: from the sandbox over a real socket, and from odd answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support import LEAD, LeadSquared, account, activity, always, run_virtual

from leadpost import (
    Activity,
    AsyncActivityPoster,
    LeadActivity,
    OpenBucket,
    UnexpectedAnswer,
)
from leadpost.sandbox import Sandbox

OTHER_LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"
NOTE = "Frau Özdemir asked to be called back"
START = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
SECOND = timedelta(seconds=1)
# The shape that public integrations show; the values are made up.
ANSWER = {
    "RecordCount": 1,
    "List": [
        {
            "ProspectActivityId": "c2d4e6f8-0a1b-4c3d-8e5f-60718293a4b5",
            "RelatedProspectId": OTHER_LEAD,
            "ActivityEvent": "206",
            "ActivityEvent_Note": "Booked",
            "Status": "Active",
            "CreatedOn": "2024-01-02 03:04:05",
            "ModifiedOn": "2024-01-02 03:04:07",
            "mx_Custom_1": "A-17",
            "mx_Custom_2": None,
        }
    ],
}


def poster_to(sandbox: Sandbox) -> AsyncActivityPoster:
    return AsyncActivityPoster(sandbox.account(), bucket=OpenBucket())


async def test_activities_of_all_leads_are_found_with_their_lead(sandbox: Sandbox) -> None:
    posted = Activity(LEAD, 201, NOTE, START, fields={"mx_Custom_1": "yes"})
    before = datetime.now(UTC)
    async with poster_to(sandbox) as poster:
        mine = (await poster.wait(await poster.post(posted))).activity_id
        other = await poster.post_sync(Activity(OTHER_LEAD, 201))
        await poster.post_sync(activity(207))
        found = await poster.activities_between(201, before - SECOND, datetime.now(UTC))
    assert found is not None
    assert {(a.activity_id, a.lead_id, a.event) for a in found} == {
        (mine, LEAD, 201),
        (other, OTHER_LEAD, 201),
    }
    (note,) = [a for a in found if a.activity_id == mine]
    assert {NOTE, "yes"} <= note.texts
    assert note.created_on == START  # the activity's own time, not that of the post
    assert note.modified_on is not None
    assert before - SECOND <= note.modified_on <= datetime.now(UTC)
    assert NOTE not in repr(note)


async def test_both_ends_of_the_span_are_included_and_nothing_outside(
    sandbox: Sandbox,
) -> None:
    async with poster_to(sandbox) as poster:
        made = await poster.post_sync(activity(201))
        (found,) = await poster.lead_activities(LEAD, 201)
        moment = found.modified_on
        assert moment is not None

        async def ids(start: datetime, end: datetime) -> list[str]:
            found = await poster.activities_between(201, start, end)
            return [a.activity_id for a in found or ()]

        assert await ids(moment - 9 * SECOND, moment) == [made]
        assert await ids(moment, moment + 9 * SECOND) == [made]
        assert await ids(moment - 9 * SECOND, moment - SECOND) == []
        assert await ids(moment - 9 * SECOND, moment - SECOND / 2) == [made]  # rounded up
        assert await ids(moment + SECOND, moment + 9 * SECOND) == []


# Pages.


def row(number: int) -> dict[str, Any]:
    return {"ProspectActivityId": f"a{number:05}", "RelatedProspectId": LEAD}


def pages_of(rows: int, *, counts_pages: bool = False) -> LeadSquared:
    """Answer with as many rows, in pages that begin with 1."""

    async def answer(request: httpx.Request) -> httpx.Response:
        place = json.loads(request.content)["Paging"]["PageIndex"] - 1
        page = [row(n) for n in range(rows)[place * 1000 : place * 1000 + 1000]]
        number = len(page) if counts_pages else rows
        return httpx.Response(200, json={"RecordCount": number, "List": page})

    return LeadSquared(answer)


def read(leadsquared: LeadSquared, **options: Any) -> list[LeadActivity] | None:
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=OpenBucket())
    return run_virtual(poster.activities_between(206, START, START, **options))


def test_the_query_and_the_answer_have_the_shape_of_public_integrations() -> None:
    leadsquared = LeadSquared(always(httpx.Response(200, json=ANSWER)))
    (found,) = read(leadsquared) or []
    (request,) = leadsquared.requests
    assert request.url.path == "/v2/ProspectActivity.svc/CustomActivity/RetrieveByActivityEvent"
    assert json.loads(request.content) == {
        "Parameter": {
            "ActivityEvent": 206,
            "FromDate": "2024-01-02 03:04:05",
            "ToDate": "2024-01-02 03:04:05",
        },
        "Paging": {"PageIndex": 1, "PageSize": 1000},
        "Sorting": {"ColumnName": "ProspectActivityId", "Direction": 0},
    }
    assert (found.activity_id, found.lead_id) == (
        "c2d4e6f8-0a1b-4c3d-8e5f-60718293a4b5",
        OTHER_LEAD,
    )
    assert (found.event, found.created_on) == (206, START)
    assert found.modified_on == START + 2 * SECOND
    assert {"Booked", "A-17"} <= found.texts


@pytest.mark.parametrize(("rows", "calls"), [(0, 1), (999, 1), (1000, 2), (2500, 3)])
@pytest.mark.parametrize("counts_pages", [False, True])
def test_all_pages_are_read(rows: int, calls: int, *, counts_pages: bool) -> None:
    leadsquared = pages_of(rows, counts_pages=counts_pages)
    found = read(leadsquared) or []
    assert [a.activity_id for a in found] == [f"a{n:05}" for n in range(rows)]
    assert len(leadsquared.requests) == calls


@pytest.mark.parametrize(("counts_pages", "calls"), [(False, 1), (True, 2)])
def test_most_calls_ends_the_reading_after_the_first_page_that_exceeds_it(
    *, counts_pages: bool, calls: int
) -> None:
    leadsquared = pages_of(2500, counts_pages=counts_pages)
    assert read(leadsquared, most_calls=2) is None
    assert len(leadsquared.requests) == calls
    assert len(read(pages_of(2500), most_calls=3) or ()) == 2500


@pytest.mark.parametrize(
    ("counted", "returned", "calls"),
    [(3, 2, 1), (5000, 1000, 2)],
    ids=["a short page", "the same full page endlessly"],
)
def test_fewer_activities_than_counted_is_an_error(counted: int, returned: int, calls: int) -> None:
    body = {"RecordCount": counted, "List": [row(n) for n in range(returned)]}
    leadsquared = LeadSquared(always(httpx.Response(200, json=body)))
    message = f"LeadSquared counts {counted} activities but returned {returned};"
    with pytest.raises(UnexpectedAnswer, match=message):
        read(leadsquared)
    assert len(leadsquared.requests) == calls


def test_a_moment_without_a_time_zone_raises() -> None:
    poster = AsyncActivityPoster(account(), bucket=OpenBucket())
    naive = START.replace(tzinfo=None)
    with pytest.raises(ValueError, match="aware"):
        run_virtual(poster.activities_between(201, naive, START))


# The sandbox's own strictness.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Parameter": []}, "Parameter must be an object"),
        ({"Parameter": {"FromDate": "2024-01-02 03:04:05"}}, "'ToDate' is required"),
        ({"Paging": {"PageIndex": 0, "PageSize": 9}}, "PageIndex must be 1 or more"),
        ({"Paging": {"PageIndex": 1, "PageSize": 1001}}, "PageSize must be from 1 to 1000"),
        (
            {"Sorting": {"ColumnName": "CreatedOn", "Direction": 1}},
            "sorts only by ProspectActivityId",
        ),
    ],
)
async def test_the_sandbox_rejects_a_query_that_breaks_the_specification(
    sandbox: Sandbox, changes: dict[str, Any], message: str
) -> None:
    query: dict[str, Any] = {
        "Parameter": {
            "ActivityEvent": 201,
            "FromDate": "2024-01-02 03:04:05",
            "ToDate": "2024-01-02 03:04:05",
        },
        "Paging": {"PageIndex": 1, "PageSize": 1000},
        "Sorting": {"ColumnName": "ProspectActivityId", "Direction": 0},
    }
    keys = {"accessKey": sandbox.access_key, "secretKey": sandbox.secret_key}
    path = "/v2/ProspectActivity.svc/CustomActivity/RetrieveByActivityEvent"
    async with httpx.AsyncClient(base_url=sandbox.url, params=keys, trust_env=False) as client:
        assert (await client.post(path, json=query)).json() == {"RecordCount": 0, "List": []}
        response = await client.post(path, json=query | changes)
    assert response.status_code == 400
    assert message in response.json()["ExceptionMessage"]
