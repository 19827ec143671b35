"""The calls of the async host: posts, statuses and metrics."""

from __future__ import annotations

import json
from functools import partial
from typing import Literal

from leadpost._answers import QueueMetrics, RequestStatus
from leadpost._endpoints.call import Call
from leadpost._endpoints.values import mapping, names_mx, number, text, unexpected
from leadpost._models import Activity, Item, Lead
from leadpost._responses import ApiResponse, error_of, get, json_in
from leadpost.errors import ApplicationError, DeliveryUncertain, Rejected


def post(item: Item) -> Call[str]:
    """Build the call that posts an activity; its result is the RequestID."""
    activity = read_activity(item)
    path = "createcustom_path" if isinstance(activity.lead, Lead) else "submit_path"
    return Call("post", path, read_request_id, content=written(activity))


def read_activity(item: Item) -> Activity:
    """Return the activity, which may be given in LeadSquared's JSON shape."""
    return item if isinstance(item, Activity) else Activity.from_payload(item)


def written(activity: Activity) -> bytes:
    """Return LeadSquared's JSON of an activity."""
    return json.dumps(activity.to_payload(), ensure_ascii=False).encode()


def read_request_id(response: ApiResponse) -> str:
    """
    Return the RequestID of an accepted post.

    Success is a 2xx with a RequestID, nothing less: a 200 can carry `"Status": "Error"`. An answer
    that does not say is `DeliveryUncertain`.
    """
    return read_posted(response, get(response.json, "RequestID"))


def read_posted(response: ApiResponse, identifier: object) -> str:
    """Return the identifier in a 2xx answer to a post, or raise the error that the answer means."""
    if isinstance(identifier, str) and not identifier.strip():
        identifier = None
    found = text(identifier)
    if found and not response.says_error:
        return response.displayed(found) or found  # a server that echoes the request shows keys
    if response.says_error and identifier is None:
        known = (response.exception_type or "").startswith("MX")
        raise error_of(ApplicationError if known else Rejected, response)
    raise error_of(DeliveryUncertain, response, "the answer cannot be read")


def status(
    request_id: str, *, failure_is_final: bool, path: str = "status_path"
) -> Call[RequestStatus]:
    """Read the status of a request, at the path of the endpoint that accepted it."""
    read = partial(read_status, request_id=request_id, failure_is_final=failure_is_final)
    return Call("status", path, read, {"RequestID": request_id})


def read_status(response: ApiResponse, request_id: str, *, failure_is_final: bool) -> RequestStatus:
    """
    Read an answer of the Status API.

    `failure_is_final` is the account's. With an `MX…` reason a failure always is, because
    LeadSquared never retries such a request.
    """
    task = get(response.json, "TaskStatus")
    word = get(task, "Status")
    if not isinstance(word, str):
        unexpected(response, "TaskStatus.Status")
    reason, message = get(task, "StatusReason"), get(task, "Message")
    unpacked = json_in(message) if isinstance(message, str) else message
    state: Literal["pending", "succeeded", "failed"] = "pending"  # an unknown word means this too
    is_final = False
    match word.strip().lower():
        case "success":
            state, is_final = "succeeded", True
        case "error":
            state, is_final = "failed", True
        case "failure":
            state = "failed"
            is_final = failure_is_final or names_mx(reason) or names_mx(message)
        case _:
            pass
    return RequestStatus(
        request_id=response.displayed(text(get(response.json, "RequestId"))) or request_id,
        state=state,
        is_final=is_final,
        status=response.displayed(word) or word,
        status_reason=response.displayed(text(reason)),
        activity_id=response.displayed(text(get(get(unpacked, "Message"), "Id"))),
        message=message,
        request_body=get(task, "RequestBody"),
        raw=mapping(response.json),
    )


def metrics(path: str = "metrics_path") -> Call[QueueMetrics]:
    """Read the length and delay of an endpoint's queue."""
    return Call("metrics", path, read_metrics)


def read_metrics(response: ApiResponse) -> QueueMetrics:
    """Read an answer of the Metrics API."""
    return QueueMetrics(
        pending_messages=int(number(response, "PendingMessages")),
        max_delay_in_seconds=number(response, "MaxDelayInSeconds"),
        processing_rate_per_minute=number(response, "ProcessingRatePerMinute"),
        raw=mapping(response.json),
    )
