"""
Each endpoint with the example of its answer: leadpost reads it, and the sandbox answers like it.

The examples have the shapes of LeadSquared's pages and of public integrations; values are made up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support import LEAD, LeadSquared, account, always, answers, run_virtual

from leadpost import (
    Activity,
    AsyncActivityPoster,
    Lead,
    OpenBucket,
)
from leadpost._validation import is_list, is_mapping
from leadpost.sandbox import Sandbox

REQUEST_ID = "b7a1c0de-1111-4222-8333-944455556666"
ACTIVITY_ID = "c2d4e6f8-0a1b-4c3d-8e5f-60718293a4b5"
BY_ADDRESS = Lead.find_or_create("EmailAddress", "ada@example.com")
SUBMIT: dict[str, Any] = {
    "RelatedProspectId": "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11",
    "ActivityEvent": 207,
    "ActivityNote": "Demo call finished",
    "ActivityDateTime": "2025-03-04 09:15:00",
    "Fields": [
        {"SchemaName": "mx_Custom_1", "Value": "connected"},
        {"SchemaName": "mx_Custom_2", "Value": "184"},
    ],
}
EXTRAS: dict[str, Any] = {
    **SUBMIT,
    "Fields": [
        *SUBMIT["Fields"],
        {
            "SchemaName": "mx_Custom_3",
            "Value": "",
            "Fields": [
                {"SchemaName": "Status", "Value": "Pending"},
                {"SchemaName": "mx_CustomObject_1", "Value": "A-17"},
            ],
        },
    ],
    "ProcessFilesAsync": True,
    "ValidateDropDownOptions": True,
}
ACCEPTED = {
    "Status": "Request accepted. Please use below request id to check the status",
    "RequestID": REQUEST_ID,
}
METRICS = {"PendingMessages": 12, "MaxDelayInSeconds": 3, "ProcessingRatePerMinute": 31.5}
CREATED = {"Status": "Success", "Message": {"Id": ACTIVITY_ID}}


def status_of(kind: str, status: str, reason: str | None, message: str | None) -> dict[str, Any]:
    is_queued = status == "In-Queue"
    return {
        "RequestId": REQUEST_ID,
        "TaskStatus": {
            "TaskType": kind,
            "Status": status,
            "StatusReason": reason,
            "TaskCurrentStep": "In-Process-Queue" if is_queued else None,
            "TaskLastStep": None if is_queued else "In-Process-Queue",
            "RequestBody": json.dumps(SUBMIT),
            "Message": message,
        },
    }


SUCCESS = status_of(
    "Activity Create", "Success", "Request was successfully completed", json.dumps(CREATED)
)
TYPE: dict[str, Any] = {
    "ID": "11112222-3333-4444-5555-666677778888",
    "Name": "Demo Call",
    "DisplayName": "Demo Call",
    "Fields": [
        {
            "SchemaName": "mx_Custom_1",
            "DisplayName": "Outcome",
            "Value": None,
            "DataType": "String",
            "IsMandatory": True,
            "ShowInForm": True,
            "Sequence": 1,
            "OptionSet": "",
        }
    ],
}
TYPES = [
    {
        "ActivityEvent": 207,
        "ActivityEventName": "Demo Call",
        "DisplayName": "Demo Call",
        "EventType": 2,
    }
]
OF_A_LEAD = {
    "RecordCount": 1,
    "ProspectActivities": [
        {
            "Id": ACTIVITY_ID,
            "EventCode": 201,
            "EventName": "Document Upload",
            "CreatedOn": "2025-03-04 09:15:00",
            "Data": [{"Key": "NotableEventDescription", "Value": "Called back"}],
        }
    ],
}
BETWEEN = {
    "RecordCount": 1,
    "List": [
        {
            "ProspectActivityId": ACTIVITY_ID,
            "RelatedProspectId": LEAD,
            "ActivityEvent_Note": "Called back",
            "mx_Custom_1": "yes",
        }
    ],
}
LEADS = [{"ProspectID": LEAD, "EmailAddress": "ada@example.com", "Phone": "+91-9812345678"}]
USER = {
    "LSQCommonServiceURLs": {"api": "api-in21.leadsquared.com", "app": "in21.leadsquared.com"},
    "TimeZone": "Asia/Kolkata",
    "Role": "Administrator",
    "OrgId": "10001",
}

Ask = Callable[[AsyncActivityPoster], Coroutine[Any, Any, Any]]


def _between(poster: AsyncActivityPoster) -> Coroutine[Any, Any, Any]:
    now = datetime.now(UTC)
    return poster.activities_between(201, now - timedelta(hours=1), now)


ENDPOINTS: dict[str, tuple[Ask, Any, str]] = {
    "activity/create": (
        lambda poster: poster.post(Activity(LEAD, 201, "Called back")),
        *(ACCEPTED, "POST /activity/create"),
    ),
    "activity/createcustom": (
        lambda poster: poster.post(Activity(BY_ADDRESS, 201, "Called back")),
        *(ACCEPTED, "POST /activity/createcustom"),
    ),
    "status": (
        lambda poster: poster.status(REQUEST_ID),
        *(SUCCESS, "GET /activity/create/status"),
    ),
    "metrics": (lambda poster: poster.metrics(), METRICS, "GET /activity/create/metrics"),
    "metrics of createcustom": (
        lambda poster: poster.metrics("createcustom"),
        *(METRICS, "GET /activity/createcustom/metrics"),
    ),
    "Create": (
        lambda poster: poster.post_sync(Activity(LEAD, 201, "Called back")),
        *(CREATED, "POST /v2/ProspectActivity.svc/Create"),
    ),
    "ActivityTypes.Get": (
        lambda poster: poster.activity_types(),
        *(TYPES, "GET /v2/ProspectActivity.svc/ActivityTypes.Get"),
    ),
    "GetActivitySetting": (
        lambda poster: poster.activity_type(207),
        *(TYPE, "GET /v2/ProspectActivity.svc/CustomActivity/GetActivitySetting"),
    ),
    "Retrieve": (
        lambda poster: poster.lead_activities(LEAD, 201),
        *(OF_A_LEAD, "POST /v2/ProspectActivity.svc/Retrieve"),
    ),
    "RetrieveByActivityEvent": (
        _between,
        *(BETWEEN, "POST /v2/ProspectActivity.svc/CustomActivity/RetrieveByActivityEvent"),
    ),
    "Leads.GetByEmailaddress": (
        lambda poster: poster.find_lead("EmailAddress", "ada@example.com"),
        *(LEADS, "GET /v2/LeadManagement.svc/Leads.GetByEmailaddress"),
    ),
    "RetrieveLeadByPhoneNumber": (
        lambda poster: poster.find_lead("Phone", "+91-9812345678"),
        *(LEADS, "GET /v2/LeadManagement.svc/RetrieveLeadByPhoneNumber"),
    ),
    "Leads.GetById": (
        lambda poster: poster.find_lead("ProspectID", LEAD),
        *(LEADS, "GET /v2/LeadManagement.svc/Leads.GetById"),
    ),
    "UserByAccessKey.Get": (
        lambda poster: poster.user(),
        *(USER, "GET /v2/Authentication.svc/UserByAccessKey.Get"),
    ),
}
"""The call of each endpoint, the example of its answer, and its method and path."""


@pytest.mark.parametrize("name", ENDPOINTS)
def test_the_example_of_each_endpoint_is_read(name: str) -> None:
    ask, example, where = ENDPOINTS[name]
    leadsquared = LeadSquared(always(httpx.Response(200, json=example)))
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=OpenBucket())
    assert run_virtual(ask(poster))
    (request,) = leadsquared.requests
    assert f"{request.method} {request.url.path}" == where


@pytest.mark.parametrize("name", ENDPOINTS)
async def test_the_sandbox_answers_like_the_example(sandbox: Sandbox, name: str) -> None:
    """The same path, with at least the names of the example, each with a value of its kind."""
    ask, example, where = ENDPOINTS[name]
    sandbox.add_lead(ProspectID=LEAD, EmailAddress="ada@example.com", Phone="+91-9812345678")
    bodies: list[Any] = []

    async def forward(request: httpx.Request) -> httpx.Response:
        async with httpx.AsyncHTTPTransport() as transport:
            response = await transport.handle_async_request(request)
            bodies.append(json.loads(await response.aread()))
        return httpx.Response(response.status_code, json=bodies[-1])

    leadsquared = LeadSquared(forward)
    options: dict[str, Any] = {"client": leadsquared.client(), "bucket": OpenBucket()}
    async with AsyncActivityPoster(sandbox.account(), **options) as poster:
        posted = Activity(LEAD, 201, "Called back", fields={"mx_Custom_1": "yes"})
        await poster.post_sync(posted)
        if name == "status":
            await poster.wait(await poster.post(posted))
        else:
            await ask(poster)
    assert f"{leadsquared.requests[-1].method} {leadsquared.requests[-1].url.path}" == where
    assert_like(bodies[-1], example)


def assert_like(found: Any, example: Any) -> None:
    if is_mapping(example):
        for name, value in example.items():
            assert name in found
            assert_like(found[name], value)
    elif is_list(example):
        assert found
        assert_like(found[0], example[0])
    else:
        assert type(found) is type(example)


async def test_the_example_of_a_post_goes_out_as_it_is_and_the_sandbox_accepts_it(
    sandbox: Sandbox,
) -> None:
    assert Activity.from_payload(EXTRAS).to_payload() == EXTRAS
    async with AsyncActivityPoster(sandbox.account(), bucket=OpenBucket()) as poster:
        await poster.post(EXTRAS)
    assert sandbox.posted() == [EXTRAS]


async def test_the_example_of_the_options_of_a_dropdown(sandbox: Sandbox) -> None:
    field = {**TYPE["Fields"][0], "DataType": "Dropdown"}
    example = {"Options": [{"Text": "Busy", "Value": "Busy"}]}
    script = [httpx.Response(200, json=body) for body in ({**TYPE, "Fields": [field]}, example)]
    leadsquared = LeadSquared(answers(*script))
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=OpenBucket())
    (read,) = (await poster.activity_type(207, options=True)).fields
    assert read.options == ("Busy",)
    request = leadsquared.requests[-1]
    path = "/v2/ProspectActivity.svc/ActivityField/Dropdown/Options/Get"
    assert (request.method, request.url.path) == ("POST", path)
    query: dict[str, Any] = {"Parameter": {"SchemaName": "mx_Custom_1", "ActivityEventCode": 207}}
    assert json.loads(request.content) == query
    query["Parameter"]["ActivityEventCode"] = 210  # the sandbox's type that has dropdowns
    keys = {"accessKey": sandbox.access_key, "secretKey": sandbox.secret_key}
    async with httpx.AsyncClient(base_url=sandbox.url, params=keys, trust_env=False) as client:
        assert_like((await client.post(path, json=query)).json(), example)
