"""
What the vendor's answers to questions say: status, metrics, activity types, a lead's activities.

Pure functions, as in `leadpost.answers`; keys are looked up without case there.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, cast

from attrs import field, frozen

from leadpost._names import show_in
from leadpost._shapes import is_list, is_mapping
from leadpost.activity import personal_texts
from leadpost.answers import Answer, error_of, get, raise_for_error, redacted
from leadpost.errors import Rejected, UnexpectedAnswer


@frozen
class RequestStatus:
    """
    What became of an accepted request, as the Status API tells.

    Attributes:
        request_id: The RequestID it is about.
        state: `pending`, `succeeded` or `failed`.
        final: Whether it can still change.
        status: The vendor's word: `In-Queue`, `Success`, `FAILURE`, `ERROR`, …
        status_reason: The vendor's reason, None where there is none; without the keys, and without
            the posted texts as far as `request_body` shows them.
        activity_id: The created activity's id, where the vendor tells it.
        message: The vendor's `Message` as it came, usually JSON in a string.
        request_body: What was posted, as it came. It holds personal data; the repr does not.
        raw: The whole answer as it came.
    """

    request_id: str
    state: Literal["pending", "succeeded", "failed"]
    final: bool
    status: str
    status_reason: str | None
    activity_id: str | None
    message: object = field(repr=False)
    request_body: object = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)


def read_status(answer: Answer, request_id: str, *, failure_is_final: bool) -> RequestStatus:
    """
    Read an answer of the Status API.

    Args:
        answer: The answer.
        request_id: The RequestID that was asked for.
        failure_is_final: Whether `FAILURE` stays; with an `MX…` reason it does in any case, as the
            vendor never tries those again.
    """
    raise_for_error(answer, changes=False)
    task = get(answer.json, "TaskStatus")
    status = get(task, "Status")
    if not isinstance(status, str):
        _unexpected(answer, "TaskStatus.Status")
    reason = get(task, "StatusReason")
    message = get(task, "Message")
    word = status.strip().lower()
    state: Literal["pending", "succeeded", "failed"] = "pending"
    final = False
    if word == "success":
        state, final = "succeeded", True
    elif word in {"error", "failure"}:
        state = "failed"
        final = word == "error" or failure_is_final or _tells_mx(reason) or _tells_mx(message)
    return RequestStatus(
        request_id=_text(get(answer.json, "RequestId")) or request_id,
        state=state,
        final=final,
        status=answer.redact(status),
        status_reason=_shown_reason(answer, reason, get(task, "RequestBody")),
        activity_id=_text(get(get(_unpacked(message), "Message"), "Id")),
        message=message,
        request_body=get(task, "RequestBody"),
        raw=_mapping(answer.json),
    )


@frozen
class QueueMetrics:
    """
    How far behind the vendor's queue is.

    Attributes:
        pending_messages: Requests waiting.
        max_delay_in_seconds: The longest wait, seconds.
        processing_rate_per_minute: Requests worked off a minute, over the last 10 minutes.
        raw: The whole answer as it came.
    """

    pending_messages: int
    max_delay_in_seconds: float
    processing_rate_per_minute: float
    raw: Mapping[str, Any] = field(repr=False)


def read_metrics(answer: Answer) -> QueueMetrics:
    """Read an answer of the Metrics API, whose keys are spelled in more than one way."""
    raise_for_error(answer, changes=False)
    return QueueMetrics(
        pending_messages=int(_number(answer, "PendingMessages")),
        max_delay_in_seconds=_number(answer, "MaxDelayInSeconds"),
        processing_rate_per_minute=_number(answer, "ProcessingRatePerMinute"),
        raw=_mapping(answer.json),
    )


@frozen
class ActivityField:
    """
    A field of an activity type.

    Attributes:
        schema_name: The key to use in `Activity.fields`.
        display_name: What people see.
        data_type: The vendor's word, such as `String`.
        is_mandatory: Whether a post without it is refused.
        raw: The whole field as it came.
    """

    schema_name: str
    display_name: str | None
    data_type: str | None
    is_mandatory: bool
    raw: Mapping[str, Any] = field(repr=False)


@frozen
class ActivityType:
    """
    An activity type.

    Attributes:
        code: The event code for `Activity.activity_event`, None where the vendor's answer does not
            tell it under a known name.
        name: What people see, None where the answer does not tell.
        fields: Its fields; empty in a list of types, which has none.
        raw: The whole type as it came.
    """

    code: int | None
    name: str | None
    fields: tuple[ActivityField, ...]
    raw: Mapping[str, Any] = field(repr=False)


def read_activity_types(answer: Answer) -> list[ActivityType]:
    """Read the list of activity types: an array, or an object that holds one."""
    raise_for_error(answer, changes=False)
    found = answer.json
    if is_mapping(found):
        lists = [value for value in found.values() if is_list(value)]
        found = lists[0] if len(lists) == 1 else None
    if not is_list(found) or answer.says_error:
        _unexpected(answer, "list of activity types")
    return [_activity_type(kind) for kind in found if is_mapping(kind)]


def read_activity_type(answer: Answer, code: int) -> ActivityType:
    """Read one activity type with its fields."""
    raise_for_error(answer, changes=False)
    found = answer.json
    if not is_mapping(found) or answer.says_error:
        _unexpected(answer, "activity type")
    return _activity_type(found, code)


@frozen
class LeadActivity:
    """
    An activity that a lead has.

    Attributes:
        activity_id: The activity's id.
        event: The activity type's code, None where the answer does not tell.
        created_on: When the vendor made it, aware, UTC; None where the answer does not tell.
        texts: Every text that stands anywhere in `raw` as a value. Where note and date-time stand
            is not known, so a posted one is to be looked for among them all. The repr shows none.
        raw: The whole activity as it came. The repr does not show it.
    """

    activity_id: str
    event: int | None
    created_on: datetime | None
    texts: frozenset[str] = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)


@frozen
class LeadActivities:
    """
    One page of a lead's activities.

    Attributes:
        record_count: How many there are on all pages.
        activities: Those of this page.
    """

    record_count: int
    activities: tuple[LeadActivity, ...]


def read_lead_activities(answer: Answer) -> LeadActivities:
    """
    Read one page of a lead's activities, in the shape of the vendor's page "Get Activities of a
    Lead": `{"RecordCount": n, "ProspectActivities": [{"Id", "EventCode", "CreatedOn", "Data"}]}`.

    Raises:
        LeadpostError: `UnexpectedAnswer` where anything of it cannot be read: an activity left out
            would look like one that never arrived.
    """
    raise_for_error(answer, changes=False)
    found = get(answer.json, "ProspectActivities")
    if not is_list(found) or answer.says_error:
        _unexpected(answer, "ProspectActivities")
    return LeadActivities(
        record_count=int(_number(answer, "RecordCount")),
        activities=tuple(_lead_activity(answer, item) for item in found),
    )


def _lead_activity(answer: Answer, raw: object) -> LeadActivity:
    activity_id = _text(get(raw, "Id"))
    if activity_id is None:
        _unexpected(answer, "Id of an activity")
    return LeadActivity(
        activity_id=activity_id,
        event=_code(get(raw, "EventCode")),
        created_on=_moment(get(raw, "CreatedOn")),
        texts=frozenset(texts_in(raw)),
        raw=_mapping(raw),
    )


def texts_in(value: object) -> Iterator[str]:
    """Yield every text of a JSON value, save names."""
    left = [value]  # not recursion: the answer may be nested as deep as its reader allowed
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif is_mapping(value):
            left += value.values()
        elif is_list(value):
            left += value


def _moment(value: object) -> datetime | None:
    """The vendor's date-times are in UTC, without saying so."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


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


def _unexpected(answer: Answer, wanted: str) -> NoReturn:
    if answer.says_error:
        raise error_of(Rejected, answer)
    raise error_of(UnexpectedAnswer, answer, f"no {wanted} in the answer")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if is_mapping(value) else {}


def _code(value: object) -> int | None:
    if isinstance(value, int | str) and str(value).isdecimal():
        return int(str(value)[:18])
    return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(answer: Answer, name: str) -> float:
    value = get(answer.json, name)
    try:
        number = float(cast("float", value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        _unexpected(answer, name)
    return number


def _unpacked(message: object) -> object:
    """The vendor's `Message` and `RequestBody` are objects, or JSON in a string."""
    if not isinstance(message, str):
        return message
    try:
        return json.loads(message)
    except (ValueError, RecursionError):
        return None


def _shown_reason(answer: Answer, reason: object, request_body: object) -> str | None:
    text = _text(reason)
    if text is None:
        return None
    body = _unpacked(_unpacked(request_body))  # it may be JSON in a string in a string
    posts = filter(is_mapping, body if is_list(body) else [body])
    try:
        posted = [text for post in posts for text in personal_texts(post)]
    except RecursionError:  # nested without end
        return None
    return answer.shown(redacted(text, posted))


def _tells_mx(told: object) -> bool:
    return any(re.search(r"\bMX[A-Z]\w+Exception\b", text) for text in texts_in(told))


show_in("leadpost", globals())
