"""Leads without a known id: looked up, found or created, through the sandbox."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from support import LEAD, LeadSquared, accepted, account, activity, always, answers, run_virtual

from leadpost import (
    Activity,
    AsyncActivityPoster,
    BadRequest,
    DeliveryUncertain,
    InvalidActivity,
    Lead,
    NotFound,
    OpenBucket,
    RetryPolicy,
    ServerError,
    TokenBucket,
    Unauthorized,
)
from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox, request_id_of

ADA = Lead.find_or_create("EmailAddress", "ada@example.com", attributes={"FirstName": "Ada"})
# The body on LeadSquared's page "Create Lead and Activity (Async)", with one field.
CUSTOM: dict[str, Any] = {
    "LeadDetails": [
        {"Attribute": "EmailAddress", "Value": "a@b.example"},
        {"Attribute": "FirstName", "Value": "Ada"},
        {"Attribute": "SearchBy", "Value": "EmailAddress"},
    ],
    "Activity": {
        "ActivityEvent": 201,
        "ActivityNote": "Called back",
        "ActivityDateTime": "2025-03-04 09:15:00",
        "Fields": [{"SchemaName": "mx_Custom_1", "Value": "connected"}],
    },
}


def poster_to(sandbox: Sandbox) -> AsyncActivityPoster:
    return AsyncActivityPoster(
        sandbox.account(), bucket=OpenBucket(), retry=RetryPolicy(initial_wait=0.01, jitter=0)
    )


def mixed(number: int) -> list[Activity]:
    """Return activities on a lead's id and on a lead by its address, in turn."""
    return [Activity(LEAD if n % 2 else ADA, 201, f"note {n}") for n in range(number)]


# The activity.


def test_an_activity_has_an_id_or_a_lead() -> None:
    by_address = Activity(ADA, 201, "Called back")
    assert by_address.lead == ADA
    assert by_address.related_prospect_id is None
    by_id = activity()
    assert by_id.lead == by_id.related_prospect_id == LEAD
    number = uuid4()
    assert Activity(number, 201).related_prospect_id == str(number)
    assert Activity(None, 201, extra={"EmailAddress": "a@b.example"}).lead is None


def test_the_repr_shows_schema_names_only() -> None:
    shown = repr(Activity(ADA, 201, "Called back", fields={"mx_Custom_1": "blue"}))
    assert shown == "<Activity 201 on <Lead by EmailAddress, FirstName>, 1 fields>"


def test_the_payload_has_leadsquareds_createcustom_shape() -> None:
    made = Activity(
        Lead.find_or_create("EmailAddress", "a@b.example", {"FirstName": "Ada"}),
        201,
        "Called back",
        datetime(2025, 3, 4, 9, 15, tzinfo=UTC),
        fields={"mx_Custom_1": "connected"},
    )
    assert made.to_payload() == CUSTOM
    assert Activity.from_payload(CUSTOM) == made
    assert Activity.from_json(json.dumps(CUSTOM)) == made


def test_further_parameters_belong_to_the_activity() -> None:
    made = Activity(ADA, 201, extra={"ProcessFilesAsync": True})
    assert made.to_payload()["Activity"] == {"ActivityEvent": 201, "ProcessFilesAsync": True}
    assert Activity.from_payload(made.to_payload()) == made


def test_values_are_written_like_those_of_fields() -> None:
    attributes = {"Score": 7, "Since": datetime(2025, 3, 4, 9, 15, tzinfo=UTC), "Vip": True}
    made = Activity(Lead.find_or_create("Phone", "+91-9812345678", attributes), 201)
    assert made.to_payload()["LeadDetails"] == [
        {"Attribute": "Phone", "Value": "+91-9812345678"},
        {"Attribute": "Score", "Value": 7},
        {"Attribute": "Since", "Value": "2025-03-04 09:15:00"},
        {"Attribute": "Vip", "Value": True},
        {"Attribute": "SearchBy", "Value": "Phone"},
    ]


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_attribute_is_invalid_as_it_would_erase_the_leads(empty: Any) -> None:
    with pytest.raises(InvalidActivity, match=r"Lead\.FirstName: .* would erase the lead's"):
        Lead.find_or_create("EmailAddress", "ada@example.com", {"FirstName": empty})


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("EmailAddress", "ada", "Lead.EmailAddress"),
        ("EmailAddress", " ada@example.com", "Lead.EmailAddress"),
        ("EmailAddress", "", "Lead.EmailAddress"),
        ("EmailAddress", None, "Lead.EmailAddress"),
        ("Phone", "call me", "Lead.Phone"),
        ("Phone", 919812345678, "Lead.Phone"),
        ("ProspectID", "7", "Lead.ProspectID"),
        ("mx_Number", " 7", "Lead.mx_Number"),
        ("mx_Number", "7\ud800", "Lead.mx_Number"),
        ("", "7", "Lead"),
        (7, "7", "Lead"),
    ],
)
def test_a_value_that_finds_a_lead_must_have_its_form(name: Any, value: Any, field: str) -> None:
    with pytest.raises(InvalidActivity) as caught:
        Lead.find_or_create(name, value)
    (problem,) = caught.value.problems
    assert problem.field == field
    assert "ada" not in str(caught.value)


@pytest.mark.parametrize(
    ("attributes", "field"),
    [
        ({"EmailAddress": "b@example.com"}, "Lead.EmailAddress"),
        ({"SearchBy": "Phone"}, "Lead.SearchBy"),
        ({"": "x"}, "Lead"),
        ({"Tags": ["a"]}, "Lead.Tags"),
        ({"Since": datetime(2025, 3, 4)}, "Lead.Since"),  # noqa: DTZ001  that is the point
        ({"Score": float("nan")}, "Lead.Score"),
        ("x", "Lead"),
    ],
)
def test_attributes_that_cannot_be_sent_are_invalid(attributes: Any, field: str) -> None:
    with pytest.raises(InvalidActivity) as caught:
        Lead.find_or_create("EmailAddress", "ada@example.com", attributes)
    assert [problem.field for problem in caught.value.problems] == [field]


DETAILS: list[Any] = CUSTOM["LeadDetails"]
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"LeadDetails": None}, "LeadDetails"),
    ({"LeadDetails": {}}, "LeadDetails"),
    ({"LeadDetails": []}, "LeadDetails"),
    ({"LeadDetails": [3]}, "LeadDetails[0]"),
    ({"LeadDetails": DETAILS[:2]}, "LeadDetails"),
    ({"LeadDetails": DETAILS[1:]}, "LeadDetails"),
    ({"LeadDetails": [{"Attribute": "SearchBy", "Value": []}]}, "LeadDetails"),
    ({"LeadDetails": [*DETAILS, {"Attribute": "Phone"}]}, "Lead.Phone"),
    ({"LeadDetails": DETAILS * 2}, "LeadDetails[3]"),
    (
        {"LeadDetails": [*DETAILS, {"Attribute": "mx_KYC", "Value": "x", "Fields": []}]},
        "Lead.mx_KYC",
    ),
    ({"Activity": None}, "Activity"),
    ({"Activity": {"ActivityEvent": 0}}, "ActivityEvent"),
    ({"Activity": {"ActivityEvent": 201, "RelatedProspectId": LEAD}}, "LeadDetails"),
    ({"ActivityNote": "outside"}, "LeadDetails"),
]


@pytest.mark.parametrize(("changes", "field"), BROKEN)
def test_a_payload_of_that_shape_with_a_mistake_is_invalid(changes: Any, field: str) -> None:
    with pytest.raises(InvalidActivity) as caught:
        Activity.from_payload(CUSTOM | changes)
    assert caught.value.problems[0].field == field


# Posting.


async def test_no_match_creates_the_lead_and_a_match_is_updated(sandbox: Sandbox) -> None:
    async with poster_to(sandbox) as poster:
        await poster.post(Activity(ADA, 201, "Called back"))
        (created,) = sandbox.leads
        assert created == {
            "ProspectID": created["ProspectID"],
            "EmailAddress": "ada@example.com",
            "FirstName": "Ada",
        }
        again = Lead.find_or_create("EmailAddress", "ADA@example.com", {"LastName": "King"})
        status = await poster.wait(await poster.post(Activity(again, 201, "Again")))
        assert status.activity_id is not None
        (updated,) = sandbox.leads
        assert updated["ProspectID"] == created["ProspectID"]
        assert (updated["FirstName"], updated["LastName"]) == ("Ada", "King")
        has = await poster.lead_activities(created["ProspectID"], 201)
        assert {"Called back", "Again"} <= {text for one in has for text in one.texts}
    report = sandbox.report()
    assert (report.leads_created, report.leads_updated) == (1, 1)


async def test_a_mixed_batch_keeps_its_order(sandbox: Sandbox) -> None:
    posts = mixed(40)
    async with poster_to(sandbox) as poster:
        assert await poster.post_many(posts) == [request_id_of(post.to_payload()) for post in posts]
        outcomes = [outcome async for outcome in poster.post_stream(posts)]
        assert {outcome.state for outcome in outcomes} == {"accepted"}
    assert len(sandbox.posted("ada@example.com")) == 40
    assert len(sandbox.posted(sandbox.leads[0]["ProspectID"])) == 40


async def test_an_outbox_posts_and_verifies_them_like_any_other(
    sandbox: Sandbox, tmp_path: Path, quick_queries: None
) -> None:
    del quick_queries
    posts = mixed(6)
    async with Outbox(f"sqlite+aiosqlite:///{tmp_path}/store.db", sandbox.account()) as outbox:
        await outbox.put_many(posts)
        async with poster_to(sandbox) as poster:
            await outbox.drain(poster)
            await outbox.verify(poster)
        entries = [entry async for entry in outbox.entries()]
    assert [entry.state for entry in entries] == ["succeeded"] * 6
    assert [Activity.from_payload(entry.activity) for entry in entries] == posts
    assert sorted(map(json.dumps, sandbox.posted())) == sorted(
        json.dumps(post.to_payload()) for post in posts
    )


@pytest.mark.parametrize("fault", ["503", "429"])
async def test_a_post_on_a_lead_is_retried_like_any_other(sandbox: Sandbox, fault: str) -> None:
    sandbox.fail(fault, "ok")
    async with poster_to(sandbox) as poster:
        request_id = await poster.post(Activity(ADA, 201))
    assert [accepted.request_id for accepted in sandbox.accepted] == [request_id]
    assert len(sandbox.arrival_times) == 2


@pytest.mark.parametrize(("fault", "arrived"), [("cut-after", 1), ("cut-before", 0)])
async def test_a_post_on_a_lead_that_may_have_arrived_is_not_repeated(
    sandbox: Sandbox, fault: str, arrived: int
) -> None:
    sandbox.fail(fault)
    async with poster_to(sandbox) as poster:
        with pytest.raises(DeliveryUncertain):
            await poster.post(Activity(ADA, 201))
    assert (len(sandbox.accepted), len(sandbox.arrival_times)) == (arrived, 1)


async def test_a_post_on_a_lead_takes_a_token(sandbox: Sandbox) -> None:
    bucket = TokenBucket()
    async with AsyncActivityPoster(sandbox.account(), bucket=bucket) as poster:
        await poster.post_many([Activity(ADA, 201)] * 3)
        assert bucket.statistics().resting == 3


def test_the_endpoint_is_chosen_by_the_activity_and_its_path_is_a_setting() -> None:
    leadsquared = LeadSquared(always(accepted(1)))
    made = account(createcustom_path="/elsewhere")
    for changed in (account(), made):
        poster = AsyncActivityPoster(changed, client=leadsquared.client(), bucket=OpenBucket())
        run_virtual(poster.post_many([Activity(ADA, 201), activity()]))
    assert [request.url.path for request in leadsquared.requests] == [
        "/activity/createcustom",
        "/activity/create",
        "/elsewhere",
        "/activity/create",
    ]


async def test_post_sync_does_not_find_or_create_leads(sandbox: Sandbox) -> None:
    async with poster_to(sandbox) as poster:
        with pytest.raises(InvalidActivity, match="use post, or find_lead first"):
            await poster.post_sync(Activity(ADA, 201))
    assert sandbox.report().arrivals == 0


# Statuses, at either path.


@pytest.mark.parametrize("kind", [LEAD, ADA])
async def test_wait_works_for_both_kinds(sandbox: Sandbox, kind: Any) -> None:
    async with poster_to(sandbox) as poster:
        status = await poster.wait(await poster.post(Activity(kind, 201)))
    assert status.state == "succeeded"
    wanted = "Activity Create" if kind == LEAD else "Activity Create Custom"
    assert status.raw["TaskStatus"]["TaskType"] == wanted


def unknown(status: int = 400) -> httpx.Response:
    return httpx.Response(status, json={"Status": "Error", "ExceptionMessage": "not known"})


KNOWN = httpx.Response(200, json={"TaskStatus": {"Status": "Success"}})


def ask(*answers_in_turn: httpx.Response, **settings: Any) -> tuple[LeadSquared, Any]:
    """Ask for a status, of which each path gives one answer."""
    leadsquared = LeadSquared(answers(*answers_in_turn))
    poster = AsyncActivityPoster(
        account(**settings),
        client=leadsquared.client(),
        bucket=OpenBucket(),
        retry=RetryPolicy(max_time=0.01),
    )
    try:
        return leadsquared, run_virtual(poster.status("r1"))
    except Exception as error:  # noqa: BLE001  it is what is looked at
        return leadsquared, error


@pytest.mark.parametrize(
    "first", [unknown(), unknown(404), httpx.Response(200, json={"TaskStatus": None})]
)
def test_a_request_unknown_at_the_first_path_is_looked_up_at_the_other(
    first: httpx.Response,
) -> None:
    leadsquared, status = ask(first, KNOWN, createcustom_status_path="/other")
    assert status.state == "succeeded"
    assert [r.url.path for r in leadsquared.requests] == ["/activity/create/status", "/other"]


def test_a_request_known_at_the_first_path_takes_one_call() -> None:
    leadsquared, status = ask(KNOWN)
    assert status.state == "succeeded"
    assert len(leadsquared.requests) == 1


@pytest.mark.parametrize(
    ("answers_in_turn", "kind"),
    [
        ([unknown(404), unknown()], NotFound),
        ([unknown(), unknown(404)], BadRequest),
        ([unknown(401)], Unauthorized),
        ([unknown(), unknown(503)], ServerError),  # it may be known there later
    ],
)
def test_the_error_is_that_of_the_first_path_unless_the_other_may_know(
    answers_in_turn: list[httpx.Response], kind: type[Exception]
) -> None:
    leadsquared, error = ask(*answers_in_turn)
    assert type(error) is kind
    assert len(leadsquared.requests) == len(answers_in_turn)
