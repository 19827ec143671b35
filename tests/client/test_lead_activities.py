"""The activities of a lead: read from the sandbox over a real socket, and from odd answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support import LEAD, LeadSquared, account, activity, always, run_virtual

from leadpost import (
    Activity,
    ApplicationError,
    AsyncActivityPoster,
    ConnectionFailed,
    LeadActivity,
    OpenBucket,
    Rejected,
    RetryPolicy,
    ServerError,
    TokenBucket,
    UnexpectedAnswer,
)
from leadpost._endpoints.sync_api import read_page
from leadpost._responses import ApiResponse, raise_for_error
from leadpost.sandbox import Faults, Sandbox

RETRIEVE = "/v2/ProspectActivity.svc/Retrieve"
OTHER_LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"
NOTE = "Frau Özdemir asked to be called back"
QUICK = RetryPolicy(initial_wait=0.01, jitter=0)
QUERY: dict[str, Any] = {
    "Parameter": {"ActivityEvent": 201},
    "Paging": {"Offset": "0", "RowCount": "25"},
}


def poster_to(sandbox: Sandbox, **options: Any) -> AsyncActivityPoster:
    return AsyncActivityPoster(sandbox.account(), bucket=OpenBucket(), retry=QUICK, **options)


# The sandbox's activities, through the poster.


async def test_a_posted_activity_is_found_with_its_id_its_time_and_its_texts(
    sandbox: Sandbox,
) -> None:
    posted = Activity(
        LEAD,
        201,
        NOTE,
        datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
        fields={
            "mx_Custom_1": "yes",
            "mx_Custom_2": "",
            "mx_Custom_3": [{"SchemaName": "mx_CustomObject_1", "Value": "A-17"}],
        },
    )
    before = datetime.now(UTC) - timedelta(seconds=2)
    async with poster_to(sandbox) as poster:
        status = await poster.wait(await poster.post(posted))
        (found,) = await poster.lead_activities(LEAD.upper(), 201)
    assert (found.activity_id, found.event) == (status.activity_id, 201)
    assert found.lead_id == LEAD.upper()
    assert found.created_on == posted.activity_datetime  # the activity's own time
    assert found.modified_on is not None
    assert before <= found.modified_on <= datetime.now(UTC)
    assert {NOTE, "2024-05-06 07:08:09", "yes", "A-17"} <= found.texts
    assert found.raw["EventName"] == "Document Upload"
    assert "mx_Custom_2" not in found.texts  # LeadSquared returns non-empty values only
    assert found.activity_id in repr(found)
    assert NOTE not in repr(found)
    assert "A-17" not in repr(found)


async def test_only_activities_of_this_lead_and_type_are_returned(sandbox: Sandbox) -> None:
    async with poster_to(sandbox) as poster:
        wanted = await poster.post_sync(activity(201))
        await poster.post_sync(activity(207))
        await poster.post_sync(Activity(OTHER_LEAD, 201))
        await poster.post_sync(Activity(None, 201, extra={"EmailAddress": "jo@example.com"}))
        assert [a.activity_id for a in await poster.lead_activities(LEAD, 201)] == [wanted]
        assert await poster.lead_activities(OTHER_LEAD, 207) == []


async def test_a_queued_activity_appears_when_processed_and_a_synchronous_one_at_once() -> None:
    with Sandbox(pace=0.001) as sandbox:
        async with poster_to(sandbox) as poster:
            await poster.post(activity(201))
            assert await poster.lead_activities(LEAD, 201) == []
            made = await poster.post_sync(activity(201, activity_note="at once"))
            assert [a.activity_id for a in await poster.lead_activities(LEAD, 201)] == [made]


@pytest.mark.parametrize("end", ["ERROR", "FAILURE"])
async def test_an_activity_that_failed_in_the_queue_never_appears(end: str) -> None:
    with Sandbox(pace=1e9, ends={201: end}) as sandbox:
        async with poster_to(sandbox) as poster:
            await poster.wait(await poster.post(activity(207)))
            await poster.post(activity(201))
            assert await poster.lead_activities(LEAD, 201) == []
            assert len(await poster.lead_activities(LEAD, 207)) == 1


@pytest.mark.parametrize(("posts", "calls"), [(0, 1), (25, 1), (26, 2), (60, 3)])
async def test_all_pages_are_read_newest_first_each_with_a_token(
    sandbox: Sandbox, posts: int, calls: int
) -> None:
    async with poster_to(sandbox) as poster:
        made = [
            await poster.post_sync(activity(201, activity_note=f"note {n}")) for n in range(posts)
        ]
    bucket = TokenBucket()
    async with AsyncActivityPoster(sandbox.account(), bucket=bucket) as poster:
        found = await poster.lead_activities(LEAD, 201)
    assert [a.activity_id for a in found] == made[::-1]
    assert bucket.statistics().resting == calls == sandbox.report().arrivals - posts


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("cut-after", ConnectionFailed), ("502-after", ServerError), ("504-before", ServerError)],
)
async def test_a_query_is_never_uncertain(fault: str, kind: type[Exception]) -> None:
    with Sandbox(faults=Faults({fault: 1.0})) as sandbox:
        async with poster_to(sandbox) as poster:
            with pytest.raises(kind) as caught:
                await poster.lead_activities(LEAD, 201)
        assert type(caught.value) is kind


# Other ways of paging.


def item(number: int) -> dict[str, Any]:
    return {"Id": f"a{number}", "EventCode": 201, "CreatedOn": "2024-01-02 03:04:05", "Data": []}


def read_from(leadsquared: LeadSquared) -> list[LeadActivity]:
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=OpenBucket())
    return run_virtual(poster.lead_activities(LEAD, 201))


@pytest.mark.parametrize(("first", "least"), [(0, 0), (1, -1), (1, 0)])
def test_where_the_offset_is_a_page_number_all_pages_are_read(first: int, least: int) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        page = max(int(json.loads(request.content)["Paging"]["Offset"]) - first, least)
        rows = range(60)[page * 25 : page * 25 + 25] if page >= 0 else ()
        body = {"RecordCount": 60, "ProspectActivities": [item(n) for n in rows]}
        return httpx.Response(200, json=body)

    found = read_from(LeadSquared(answer))
    assert [a.activity_id for a in found] == [f"a{n}" for n in range(60)]


@pytest.mark.parametrize(
    ("counted", "returned", "asked_for"),
    [(999, 25, ["0", "1", "2"]), (3, 0, ["0", "1", "2"])],
    ids=["the same page endlessly", "an empty page"],
)
def test_fewer_activities_than_counted_is_an_error(
    counted: int, returned: int, asked_for: list[str]
) -> None:
    rows = [item(n) for n in range(returned)]
    body = {"RecordCount": counted, "ProspectActivities": rows}
    leadsquared = LeadSquared(always(httpx.Response(200, json=body)))
    message = f"counts {counted} activities but returned {returned};"
    with pytest.raises(UnexpectedAnswer, match=message):
        read_from(leadsquared)
    assert [json.loads(r.content)["Paging"]["Offset"] for r in leadsquared.requests] == asked_for


# Answers of other shapes.


def read(body: object, status: int = 200) -> Any:
    response = ApiResponse(status, json.dumps(body).encode())
    raise_for_error(response, changes=False)
    return read_page(response, "ProspectActivities")


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        ([{"Key": "NotableEventDescription", "Value": "n"}], {"n", "NotableEventDescription"}),
        ({"ActivityNote": "n"}, {"n"}),
        ({"ActivityFields": {"ActivityEvent_Note": "n", "Other": [None, 7, ["m"]]}}, {"n", "m"}),
        ("n", {"n"}),
        (None, set[str]()),
    ],
)
def test_texts_are_found_in_any_shape_of_data(data: object, texts: set[str]) -> None:
    page = read({"recordcount": "1", "PROSPECTACTIVITIES": [{"ID": "x", "Data": data}]})
    assert page.record_count == 1
    (found,) = page.activities
    assert found.texts == {"x", *texts}
    assert found.raw == {"ID": "x", "Data": data}


def test_texts_are_found_at_any_depth() -> None:
    deep = '{"a":' * 900 + '"n"' + "}" * 900
    body = f'{{"RecordCount": 1, "ProspectActivities": [{{"Id": "x", "Data": {deep}}}]}}'
    (found,) = read_page(ApiResponse(200, body.encode()), "ProspectActivities").activities
    assert found.texts == {"x", "n"}


@pytest.mark.parametrize(
    ("created_on", "moment"),
    [
        ("2024-01-02 03:04:05", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2024-01-02T08:34:05+05:30", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("0001-01-01 00:00:00+05:30", None),
        ("yesterday", None),
        (None, None),
        (1704164645, None),
    ],
)
def test_the_time_is_in_utc_or_none(created_on: object, moment: datetime | None) -> None:
    page = read({"RecordCount": 1, "ProspectActivities": [{"Id": "x", "CreatedOn": created_on}]})
    assert page.activities[0].created_on == moment


@pytest.mark.parametrize(("event", "code"), [(201, 201), ("201", 201), ("x", None), (True, None)])
def test_the_code_is_a_number_or_none(event: object, code: int | None) -> None:
    page = read({"RecordCount": 1, "ProspectActivities": [{"Id": "x", "EventCode": event}]})
    assert page.activities[0].event == code


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        (None, "ProspectActivities"),
        ([], "ProspectActivities"),
        ({"RecordCount": 0}, "ProspectActivities"),
        ({"RecordCount": 1, "ProspectActivities": {"Id": "x"}}, "ProspectActivities"),
        ({"ProspectActivities": []}, "RecordCount"),
        ({"RecordCount": "many", "ProspectActivities": []}, "RecordCount"),
        ({"RecordCount": 1, "ProspectActivities": ["x"]}, "Id of an activity"),
        ({"RecordCount": 1, "ProspectActivities": [{"Id": 7}]}, "Id of an activity"),
    ],
)
def test_an_answer_that_cannot_be_read_is_unexpected(body: object, missing: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=f"no {missing} in the answer"):
        read(body)


def test_it_raises_the_same_errors_as_other_queries() -> None:
    with pytest.raises(ApplicationError):
        read({"Status": "Error", "ExceptionType": "MXInvalidLeadException"}, 500)
    with pytest.raises(Rejected):  # an empty list would look like a lead that has none
        read({"Status": "Failed", "RecordCount": 0, "ProspectActivities": []})


# The sandbox's own strictness.


def connect(sandbox: Sandbox) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=sandbox.url,
        params={"accessKey": sandbox.access_key, "secretKey": sandbox.secret_key},
        trust_env=False,
    )


@pytest.mark.parametrize(
    ("lead", "changes", "message"),
    [
        (None, {}, "'leadId' is required"),
        ("jo", {}, "leadId must be a GUID"),
        (LEAD, {"Parameter": None}, "Parameter must be an object"),
        (LEAD, {"Parameter": {}}, "'ActivityEvent' is required"),
        (LEAD, {"Parameter": {"ActivityEvent": "201"}}, "ActivityEvent must be a positive integer"),
        (LEAD, {"Paging": []}, "Paging must be an object"),
        (LEAD, {"Paging": {"Offset": "0"}}, "'RowCount' is required"),
        (LEAD, {"Paging": {"RowCount": "1"}}, "'Offset' is required"),
        (LEAD, {"Paging": {"Offset": "-1", "RowCount": "1"}}, "Offset must be a whole number"),
        (LEAD, {"Paging": {"Offset": -1, "RowCount": "1"}}, "Offset must be a whole number"),
        (LEAD, {"Paging": {"Offset": True, "RowCount": "1"}}, "Offset must be a whole number"),
        (LEAD, {"Paging": {"Offset": "0", "RowCount": "26"}}, "RowCount must be from 1 to 25"),
        (LEAD, {"Paging": {"Offset": "0", "RowCount": 0}}, "RowCount must be from 1 to 25"),
    ],
)
async def test_the_sandbox_rejects_a_query_that_breaks_the_specification(
    sandbox: Sandbox, lead: str | None, changes: dict[str, Any], message: str
) -> None:
    async with connect(sandbox) as client:
        params = {} if lead is None else {"leadId": lead}
        response = await client.post(RETRIEVE, params=params, json={**QUERY, **changes})
    assert response.status_code == 400
    assert message in response.json()["ExceptionMessage"]


async def test_the_sandbox_rejects_a_query_that_is_not_json(sandbox: Sandbox) -> None:
    async with connect(sandbox) as client:
        response = await client.post(RETRIEVE, params={"leadId": LEAD}, content=b"x")
    assert response.status_code == 400
    assert "Content-Type" in response.json()["ExceptionMessage"]
