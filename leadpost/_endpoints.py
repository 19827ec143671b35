"""
Every call of LeadSquared's API: its path, parameters and body, and how its answer is read.

Pure functions: each takes the account and returns a `Call`. Keys are not part of it; they are added
below the HTTP client. Readers look keys up without case, as the API varies their spelling.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, Literal, NoReturn, TypeVar, cast

import httpx
from attrs import field, frozen

from leadpost._account import Account
from leadpost._models import (
    Activity,
    ActivityField,
    ActivityType,
    LeadActivity,
    QueueMetrics,
    RequestStatus,
    vendor_datetime,
)
from leadpost._responses import ApiResponse, error_of, get, raise_for_error
from leadpost._validation import is_list, is_mapping
from leadpost.errors import ApplicationError, DeliveryUncertain, Rejected, UnexpectedAnswer

T = TypeVar("T")

ROWS = 25
"""Rows of a page of a lead's activities: LeadSquared's own default."""
LONG_PAGE = 1000
"""Rows of a page of the activities in a span of time: the most there are."""


@frozen
class Call(Generic[T]):
    """
    One call of the API.

    Attributes:
        name: The poster's method, as hooks hear it.
        url: Where to; without keys.
        read: Turns the answer into the result, or raises.
        setting: The path and where it is set, for the error after a 404.
        params: Parameters of the query string.
        content: The body, JSON; None for a GET.
        changes: Whether the call changes something: without an answer it is in doubt then.
    """

    name: str
    url: httpx.URL
    read: Callable[[ApiResponse], T]
    setting: str
    params: Mapping[str, str] | None = None
    content: bytes | None = field(default=None, repr=False)
    changes: bool = False

    @property
    def method(self) -> Literal["GET", "POST"]:
        return "GET" if self.content is None else "POST"


def _build(
    account: Account, name: str, path: str, read: Callable[[ApiResponse], T], **details: Any
) -> Call[T]:
    """Build a call of the path that this attribute of the account holds."""
    url = account.url(path)
    return Call(
        name, url, read, f"no such path at {url}: see {account.settings_of(path)}", **details
    )


# Post an activity: asynchronously, into LeadSquared's queue, or synchronously.


def post(account: Account, activity: Activity | Mapping[str, Any]) -> Call[str]:
    """Post an activity; the result is its RequestID."""
    body = _activity_json(activity)
    return _build(account, "post", "submit_path", read_request_id, content=body, changes=True)


def post_sync(account: Account, activity: Activity | Mapping[str, Any]) -> Call[str]:
    """Post an activity synchronously; the result is the activity's id."""
    body = _activity_json(activity)
    read = read_activity_id
    return _build(account, "post_sync", "sync_post_path", read, content=body, changes=True)


def _activity_json(activity: Activity | Mapping[str, Any]) -> bytes:
    if not isinstance(activity, Activity):
        activity = Activity.from_payload(activity)
    return json.dumps(activity.to_payload(), ensure_ascii=False).encode()


def read_request_id(response: ApiResponse) -> str:
    """
    Return the RequestID of an accepted post.

    Success is a 2xx with a RequestID, nothing less: a 200 can carry `"Status": "Error"`.

    Raises:
        LeadpostError: `DeliveryUncertain` if the answer does not say.
    """
    return _read_posted(response, get(response.json, "RequestID"))


def read_activity_id(response: ApiResponse) -> str:
    """
    Return the activity's id of a synchronous post: `{"Status": "Success", "Message": {"Id": …}}`.

    Raises:
        LeadpostError: `DeliveryUncertain` if the answer does not say.
    """
    return _read_posted(response, get(get(response.json, "Message"), "Id"))


def _read_posted(response: ApiResponse, identifier: object) -> str:
    found = isinstance(identifier, str) and identifier
    if response.succeeded and found and not response.says_error:
        return found
    raise_for_error(response, changes=True)
    if response.says_error and identifier is None:
        known = (response.exception_type or "").startswith("MX")
        raise error_of(ApplicationError if known else Rejected, response)
    raise error_of(DeliveryUncertain, response, "the answer cannot be read")


# What became of a request, and how far behind the queue is.


def status(account: Account, request_id: str) -> Call[RequestStatus]:
    """Ask the Status API about one request."""
    final = account.failure_is_final
    read = partial(read_status, request_id=request_id, failure_is_final=final)
    params = {"RequestID": request_id}
    return _build(account, "status", "status_path", read, params=params)


def read_status(response: ApiResponse, request_id: str, *, failure_is_final: bool) -> RequestStatus:
    """
    Read an answer of the Status API.

    Args:
        response: The answer.
        request_id: The RequestID that was asked for.
        failure_is_final: Whether `FAILURE` is final. With an `MX…` reason it always is, because
            LeadSquared never retries those.
    """
    raise_for_error(response, changes=False)
    task = get(response.json, "TaskStatus")
    word = get(task, "Status")
    if not isinstance(word, str):
        _unexpected(response, "TaskStatus.Status")
    reason, message = get(task, "StatusReason"), get(task, "Message")
    state: Literal["pending", "succeeded", "failed"] = "pending"  # an unknown word means this too
    final = False
    match word.strip().lower():
        case "success":
            state, final = "succeeded", True
        case "error":
            state, final = "failed", True
        case "failure":
            state = "failed"
            final = failure_is_final or _names_mx(reason) or _names_mx(message)
        case _:
            pass
    return RequestStatus(
        request_id=_text(get(response.json, "RequestId")) or request_id,
        state=state,
        final=final,
        status=response.displayed(word) or word,
        status_reason=response.displayed(_text(reason)),
        activity_id=_text(get(get(_unpacked(message), "Message"), "Id")),
        message=message,
        request_body=get(task, "RequestBody"),
        raw=_mapping(response.json),
    )


def metrics(account: Account) -> Call[QueueMetrics]:
    """Ask the Metrics API how far behind the queue is."""
    return _build(account, "metrics", "metrics_path", read_metrics)


def read_metrics(response: ApiResponse) -> QueueMetrics:
    """Read an answer of the Metrics API."""
    raise_for_error(response, changes=False)
    return QueueMetrics(
        pending_messages=int(_number(response, "PendingMessages")),
        max_delay_in_seconds=_number(response, "MaxDelayInSeconds"),
        processing_rate_per_minute=_number(response, "ProcessingRatePerMinute"),
        raw=_mapping(response.json),
    )


# The account's activity types.


def activity_types(account: Account) -> Call[list[ActivityType]]:
    """List the activity types, without their fields."""
    read = read_activity_types
    return _build(account, "activity_types", "activity_types_path", read)


def read_activity_types(response: ApiResponse) -> list[ActivityType]:
    """Read the list of activity types: an array, or an object that holds one."""
    raise_for_error(response, changes=False)
    found = response.json
    if is_mapping(found):
        lists = [value for value in found.values() if is_list(value)]
        found = lists[0] if len(lists) == 1 else None
    if not is_list(found) or response.says_error:
        _unexpected(response, "list of activity types")
    return [_activity_type(kind) for kind in found if is_mapping(kind)]


def activity_type(account: Account, code: int) -> Call[ActivityType]:
    """Read one activity type with its fields."""
    read = partial(read_activity_type, code=code)
    params = {"code": str(code)}
    return _build(account, "activity_type", "activity_type_path", read, params=params)


def read_activity_type(response: ApiResponse, code: int) -> ActivityType:
    """Read one activity type with its fields."""
    raise_for_error(response, changes=False)
    found = response.json
    if not is_mapping(found) or response.says_error:
        _unexpected(response, "activity type")
    return _activity_type(found, code)


def _activity_type(raw: Mapping[str, Any], code: int | None = None) -> ActivityType:
    for name in ("ActivityEvent", "EventCode", "ActivityEventCode", "Code"):
        if code is None:
            code = _code(get(raw, name))
    fields = get(raw, "Fields")
    items = fields if is_list(fields) else ()
    return ActivityType(
        code=code,
        name=_text(get(raw, "DisplayName")) or _text(get(raw, "Name")),
        fields=tuple(_activity_field(item) for item in items if get(item, "SchemaName")),
        raw=raw,
    )


def _activity_field(raw: Mapping[str, Any]) -> ActivityField:
    return ActivityField(
        schema_name=str(get(raw, "SchemaName")),
        display_name=_text(get(raw, "DisplayName")),
        data_type=_text(get(raw, "DataType")),
        is_mandatory=get(raw, "IsMandatory") is True,
        raw=raw,
    )


# The activities that leads have.


@frozen
class Page:
    """
    One page of activities.

    Attributes:
        record_count: LeadSquared's `RecordCount`: the number on all pages.
        activities: Those of this page.
    """

    record_count: int
    activities: tuple[LeadActivity, ...]


def lead_activities(account: Account, lead_id: str, code: int, offset: int) -> Call[Page]:
    """Read one page of a lead's activities of one type. A POST, but it changes nothing."""
    query = {
        "Parameter": {"ActivityEvent": code},
        "Paging": {"Offset": str(offset), "RowCount": str(ROWS)},
    }
    return _build(
        account,
        "lead_activities",
        "lead_activities_path",
        partial(read_lead_activities, lead_id=lead_id),
        params={"leadId": lead_id},
        content=json.dumps(query).encode(),
    )


def read_lead_activities(response: ApiResponse, lead_id: str | None = None) -> Page:
    """
    Read one page of a lead's activities, in the shape of LeadSquared's page "Get Activities of a
    Lead": `{"RecordCount": n, "ProspectActivities": [{"Id", "EventCode", "CreatedOn", "Data"}]}`.

    Raises:
        LeadpostError: `UnexpectedAnswer` if any part of it cannot be read: an activity left out
            would look like one that never arrived.
    """
    return _read_page(response, "ProspectActivities", lead_id=lead_id)


def activities_between(
    account: Account, code: int, start: datetime, end: datetime, page: int
) -> Call[Page]:
    """
    Read one page of the activities of one type that were modified in a span of time.

    Sorted by id: rows of the same `CreatedOn` change their places from page to page.
    """
    query = {
        "Parameter": {
            "ActivityEvent": code,
            "FromDate": vendor_datetime(start),
            "ToDate": vendor_datetime(end),
        },
        "Paging": {"PageIndex": page, "PageSize": LONG_PAGE},
        "Sorting": {"ColumnName": "ProspectActivityId", "Direction": 0},
    }
    path, read = "activities_between_path", partial(read_activities_between, code=code)
    body = json.dumps(query).encode()
    return _build(account, "activities_between", path, read, content=body)


def read_activities_between(response: ApiResponse, code: int) -> Page:
    """
    Read one page of such activities: `{"RecordCount": n, "List": [{"ProspectActivityId",
    "RelatedProspectId", "ActivityEvent_Note", "mx_Custom_1", …}]}`.

    Raises:
        LeadpostError: as `read_lead_activities`.
    """
    return _read_page(response, "List", event=code)


def _read_page(
    response: ApiResponse, name: str, *, lead_id: str | None = None, event: int | None = None
) -> Page:
    """Read a page; the lead or the type that was asked for is that of rows without one."""
    raise_for_error(response, changes=False)
    found = get(response.json, name)
    if not is_list(found) or response.says_error:
        _unexpected(response, name)
    return Page(
        record_count=int(_number(response, "RecordCount")),
        activities=tuple(_lead_activity(response, row, lead_id, event) for row in found),
    )


def _lead_activity(
    response: ApiResponse, raw: object, lead_id: str | None, event: int | None
) -> LeadActivity:
    activity_id = _text(get(raw, "Id")) or _text(get(raw, "ProspectActivityId"))
    if activity_id is None:
        _unexpected(response, "Id of an activity")
    return LeadActivity(
        activity_id=activity_id,
        lead_id=_text(get(raw, "RelatedProspectId")) or lead_id,
        event=_code(get(raw, "EventCode")) or _code(get(raw, "ActivityEvent")) or event,
        created_on=_moment(get(raw, "CreatedOn")),
        modified_on=_moment(get(raw, "ModifiedOn")),
        texts=frozenset(texts_in(raw)),
        raw=_mapping(raw),
    )


# Values.


def texts_in(value: object) -> Iterator[str]:
    """Yield every text of a JSON value except the names in objects."""
    left = [value]  # no recursion: the answer may be nested as deeply as its reader allowed
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif is_mapping(value):
            left += value.values()
        elif is_list(value):
            left += value


def _moment(value: object) -> datetime | None:
    """LeadSquared's date-times are in UTC, without an offset."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _unexpected(response: ApiResponse, wanted: str) -> NoReturn:
    if response.says_error:
        raise error_of(Rejected, response)
    raise error_of(UnexpectedAnswer, response, f"no {wanted} in the answer")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if is_mapping(value) else {}


def _code(value: object) -> int | None:
    if isinstance(value, int | str) and str(value).isdecimal():
        return int(str(value)[:18])
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(response: ApiResponse, name: str) -> float:
    value = get(response.json, name)
    try:
        number = float(cast("float", value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        _unexpected(response, name)
    return number


def _unpacked(message: object) -> object:
    """LeadSquared's `Message` is an object, or JSON in a string."""
    if not isinstance(message, str):
        return message
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        return None


def _names_mx(value: object) -> bool:
    return any(re.search(r"\bMX[A-Z]\w+Exception\b", text) for text in texts_in(value))
