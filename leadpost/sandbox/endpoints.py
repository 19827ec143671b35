"""What each path of the vendor's two hosts answers to a call that has passed keys and limit."""

from collections.abc import Callable, Mapping
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
from leadpost.sandbox.checks import read_activity, read_question, read_span
from leadpost.sandbox.ledger import Ledger, created

ACCEPTED = "Request accepted. Please use below request id to check the status"


@frozen
class Call:
    """
    One HTTP request to the vendor.

    Args:
        query: Parameters of the query string, decoded.
        headers: Header fields; names are looked up without case.
        body: The body.
    """

    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@frozen
class Endpoint:
    """
    One path of the vendor's.

    Args:
        method: HTTP method.
        path: Path of the URL.
        gated: Whether it needs the `x-api-key`: on the async host, behind the gateway.
        handle: Answers a call at a time in seconds, or raises RejectedError.
    """

    method: str
    path: str
    gated: bool
    handle: Callable[[Call, float], Answer]


def endpoints(ledger: Ledger, status_path: str, metrics_path: str) -> list[Endpoint]:
    """
    The vendor's paths, over what has been taken.

    Args:
        ledger: Where activities go and their status comes from.
        status_path: Path of the Status API, not documented.
        metrics_path: Path of the Metrics API, not documented.
    """

    def submit(call: Call, now: float) -> Answer:
        taken = ledger.enqueue(_activity(call), call.body.decode(), now)
        return json_answer(200, {"Status": ACCEPTED, "RequestID": taken.request_id})

    def status(call: Call, now: float) -> Answer:
        request_id = _parameter(call, "RequestID")
        try:
            return json_answer(200, ledger.status(request_id, now))
        except KeyError:
            raise RejectedError(invalid("RequestID is not known")) from None

    def metrics(call: Call, now: float) -> Answer:
        del call
        return json_answer(200, ledger.metrics(now))

    def create(call: Call, now: float) -> Answer:
        activity = _activity(call)
        if activity["ActivityEvent"] not in activity_types.NAMES:
            raise RejectedError(unknown_activity())
        return json_answer(200, created(ledger.take(activity, call.body.decode(), now)))

    def retrieve(call: Call, now: float) -> Answer:
        lead = _parameter(call, "leadId")
        question = read_question(lead, call.headers.get("content-type", ""), call.body)
        return json_answer(200, ledger.lead_activities(question, now))

    def retrieve_by_event(call: Call, now: float) -> Answer:
        span = read_span(call.headers.get("content-type", ""), call.body)
        return json_answer(200, ledger.activities_between(span, now))

    service = "/v2/ProspectActivity.svc"
    return [
        Endpoint("POST", "/activity/create", gated=True, handle=submit),
        Endpoint("GET", status_path, gated=True, handle=status),
        Endpoint("GET", metrics_path, gated=True, handle=metrics),
        Endpoint("GET", f"{service}/ActivityTypes.Get", gated=False, handle=_types),
        Endpoint(
            "GET",
            f"{service}/CustomActivity/GetActivitySetting",
            gated=False,
            handle=_type_details,
        ),
        Endpoint("POST", f"{service}/Create", gated=False, handle=create),
        Endpoint("POST", f"{service}/Retrieve", gated=False, handle=retrieve),
        Endpoint(
            "POST",
            f"{service}/CustomActivity/RetrieveByActivityEvent",
            gated=False,
            handle=retrieve_by_event,
        ),
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


def _activity(call: Call) -> dict[str, Any]:
    return read_activity(call.headers.get("content-type", ""), call.body)


def _parameter(call: Call, name: str) -> str:
    if name not in call.query:
        raise RejectedError(missing(name))
    return call.query[name]
