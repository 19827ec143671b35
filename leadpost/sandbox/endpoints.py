"""The answer of each path, once a call has passed the limit and the check of its keys."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from attrs import frozen

from leadpost.sandbox import activity_types
from leadpost.sandbox.answers import (
    Answer,
    RejectedError,
    invalid,
    json_answer,
    missing,
    unknown_activity,
)
from leadpost.sandbox.checks import (
    read_activity,
    read_dropdown,
    read_lead_and_activity,
    read_question,
    read_span,
)
from leadpost.sandbox.leads import Leads
from leadpost.sandbox.ledger import Accepted, Ledger, created

_ACTIVITIES = "ProspectActivity.svc"
ACCEPTED = "Request accepted. Please use below request id to check the status"


@frozen
class Call:
    """
    One HTTP request.

    Args:
        query: Parameters of the query string, decoded.
        headers: Header fields; names are case-insensitive.
        body: The body.
    """

    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


Handler = Callable[[Call, float], Answer]


@frozen
class Endpoint:
    """
    One path of LeadSquared's API.

    Args:
        method: HTTP method.
        path: Path of the URL.
        gated: Whether it needs the `x-api-key`, like all paths of the async host's gateway.
        keyed: Whether it needs AccessKey and SecretKey.
        handle: Answers a call, given its time of arrival, or raises RejectedError.
    """

    method: str
    path: str
    gated: bool
    keyed: bool
    handle: Handler


def endpoints(
    ledger: Ledger, leads: Leads, status_path: str, metrics_path: str, *, keys_for_status: bool
) -> list[Endpoint]:
    """
    Return LeadSquared's paths, which read and write the ledger and the leads.

    Args:
        ledger: The accepted activities and their queue.
        leads: The account's leads.
        status_path: Path of the Status API, not documented.
        metrics_path: Path of the Metrics API, not documented.
        keys_for_status: Whether status and metrics need AccessKey and SecretKey.
    """
    return [
        *_queue_endpoints(
            ledger, leads, status_path, metrics_path, keys_for_status=keys_for_status
        ),
        *_activity_endpoints(ledger),
        *_lead_endpoints(leads),
        _sync("GET", f"{_ACTIVITIES}/ActivityTypes.Get", _types),
        _sync("GET", f"{_ACTIVITIES}/CustomActivity/GetActivitySetting", _type_details),
        _sync("POST", f"{_ACTIVITIES}/ActivityField/Dropdown/Options/Get", _options),
        _sync("GET", "Authentication.svc/UserByAccessKey.Get", _user),
    ]


def _sync(method: str, path: str, handle: Handler) -> Endpoint:
    return Endpoint(method, f"/v2/{path}", gated=False, keyed=True, handle=handle)


def _queue_endpoints(
    ledger: Ledger, leads: Leads, status_path: str, metrics_path: str, *, keys_for_status: bool
) -> list[Endpoint]:
    def submit(call: Call, now: float) -> Answer:
        return accept(ledger.enqueue(_activity(call), call.body.decode(), now))

    def submit_custom(call: Call, now: float) -> Answer:
        attributes, search_by = read_lead_and_activity(_content_type(call), call.body)
        lead = leads.find_or_create(attributes, search_by)
        return accept(ledger.enqueue(json.loads(call.body), call.body.decode(), now, lead))

    def accept(accepted: Accepted) -> Answer:
        return json_answer(200, {"Status": ACCEPTED, "RequestID": accepted.request_id})

    def status(call: Call, now: float, *, custom: bool = False) -> Answer:
        try:
            found = ledger.status(_parameter(call, "RequestID"), now, custom=custom)
        except KeyError:
            raise RejectedError(invalid("RequestID is unknown")) from None
        return json_answer(200, found)

    def metrics(call: Call, now: float) -> Answer:
        del call
        return json_answer(200, ledger.metrics(now))

    custom = "/activity/createcustom"
    posts = {"/activity/create": submit, custom: submit_custom}
    questions: dict[str, Handler] = {
        status_path: status,
        metrics_path: metrics,
        f"{custom}/status": partial(status, custom=True),
        f"{custom}/metrics": metrics,
    }
    return [
        *(Endpoint("POST", path, gated=True, keyed=True, handle=h) for path, h in posts.items()),
        *(
            Endpoint("GET", path, gated=True, keyed=keys_for_status, handle=h)
            for path, h in questions.items()
        ),
    ]


def _activity_endpoints(ledger: Ledger) -> list[Endpoint]:
    def create(call: Call, now: float) -> Answer:
        activity = _activity(call)
        if activity["ActivityEvent"] not in activity_types.NAMES:
            raise RejectedError(unknown_activity())
        return json_answer(200, created(ledger.accept(activity, call.body.decode(), now)))

    def retrieve(call: Call, now: float) -> Answer:
        lead = _parameter(call, "leadId")
        question = read_question(lead, _content_type(call), call.body)
        return json_answer(200, ledger.lead_activities(question, now))

    def retrieve_by_event(call: Call, now: float) -> Answer:
        span = read_span(_content_type(call), call.body)
        return json_answer(200, ledger.activities_between(span, now))

    return [
        _sync("POST", f"{_ACTIVITIES}/Create", create),
        _sync("POST", f"{_ACTIVITIES}/Retrieve", retrieve),
        _sync("POST", f"{_ACTIVITIES}/CustomActivity/RetrieveByActivityEvent", retrieve_by_event),
    ]


def _lead_endpoints(leads: Leads) -> list[Endpoint]:
    def find(call: Call, now: float, *, field: str, parameter: str) -> Answer:
        del now
        return json_answer(200, leads.find(field, _parameter(call, parameter)))

    by_email = partial(find, field="EmailAddress", parameter="emailaddress")
    by_phone = partial(find, field="Phone", parameter="phone")
    return [
        _sync("GET", "LeadManagement.svc/Leads.GetByEmailaddress", by_email),
        _sync("GET", "LeadManagement.svc/RetrieveLeadByPhoneNumber", by_phone),
    ]


def _types(call: Call, now: float) -> Answer:
    del call, now
    return json_answer(200, activity_types.listed())


def _type_details(call: Call, now: float) -> Answer:
    del now
    try:
        return json_answer(200, activity_types.details(int(_parameter(call, "code"))))
    except (KeyError, ValueError):
        raise RejectedError(unknown_activity()) from None


def _options(call: Call, now: float) -> Answer:
    del now
    code, name = read_dropdown(_content_type(call), call.body)
    try:
        return json_answer(200, {"Options": activity_types.options(code, name)})
    except KeyError:
        raise RejectedError(invalid("there is no such dropdown")) from None


def _user(call: Call, now: float) -> Answer:
    del now
    host = call.headers.get("host", "")
    return json_answer(
        200,
        {
            "Id": "9a8b7c6d-5e4f-4321-8765-0fedcba98765",
            "FirstName": "Sandbox",
            "EmailAddress": "sandbox@example.com",
            "LSQCommonServiceURLs": {"api": host, "app": host},
            "TimeZone": "Asia/Kolkata",
            "Role": "Administrator",
            "OrgId": "10001",
        },
    )


def _activity(call: Call) -> dict[str, Any]:
    return read_activity(_content_type(call), call.body)


def _content_type(call: Call) -> str:
    return call.headers.get("content-type", "")


def _parameter(call: Call, name: str) -> str:
    if name not in call.query:
        raise RejectedError(missing(name))
    return call.query[name]
