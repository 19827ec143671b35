"""
Strict checks of bodies against LeadSquared's documentation.

Sources: LeadSquared's page "Post an Activity on a Lead (Async)"; for `EmailAddress` in place of
`RelatedProspectId` and for fields within a field, its pages on the synchronous API; for queries,
"Get Activities of a Lead". A violation raises RejectedError, with status 400 and its name.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

from attrs import frozen

from leadpost.sandbox.answers import RejectedError, invalid, missing

_GUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EMAIL_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
_DATE_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_DIGITS = re.compile(r"[0-9]{1,9}")
_ANYTHING = re.compile(r"(?s:.+)")
_MOST_ROWS = 25
_LONGEST_PAGE = 1000


@frozen
class OfLead:
    """A query for the activities of a lead."""

    lead: str
    code: int
    page: int  # from 0: LeadSquared's `Offset`
    size: int


@frozen
class Span:
    """A query for the activities of all leads; both its start and its end are included."""

    code: int
    start: datetime
    end: datetime
    page: int  # from 1
    size: int


def read_object(content_type: str, body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body: UTF-8, of the type application/json."""
    _must(
        content_type.partition(";")[0].strip().lower() == "application/json",
        "Content-Type must be application/json",
    )
    try:
        content: Any = json.loads(body.decode(), parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise RejectedError(invalid("The body is not valid JSON")) from None
    _must(isinstance(content, dict), "The body must be a JSON object")
    return cast("dict[str, Any]", content)


def check_activity(activity: dict[str, Any]) -> None:
    """Check a post of an activity on a lead."""
    if "RelatedProspectId" in activity or "EmailAddress" not in activity:
        lead = _needed(activity, "RelatedProspectId")
        _must(_is_text(lead, _GUID), "RelatedProspectId must be a GUID")
    else:
        address = activity["EmailAddress"]
        _must(_is_text(address, _EMAIL_ADDRESS), "EmailAddress must be an email address")
    _check_content(activity)


def read_lead_and_activity(content: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the lead's attributes in a post to createcustom, and the name of the search field."""
    attributes = dict[str, Any]()
    for index, item in enumerate(_objects(_needed(content, "LeadDetails"), "LeadDetails")):
        at = f"LeadDetails[{index}]"
        name, value = _needed(item, "Attribute"), _needed(item, "Value")
        _must(isinstance(name, str) and bool(name), f"{at}.Attribute must be a name")
        _must(not isinstance(value, list | dict), f"{at}.Value must be a single value")
        _must(name not in attributes, f"{at}.Attribute is a duplicate")
        attributes[name] = value
    search_by = _needed(attributes, "SearchBy")
    del attributes["SearchBy"]
    _must(search_by in attributes, "SearchBy must name an attribute of LeadDetails")
    _must(attributes[search_by] not in ("", None), f"{search_by} must not be empty")
    _check_content(_object(content, "Activity"))
    return attributes, search_by


def read_dropdown(content: dict[str, Any]) -> tuple[int, str]:
    """Return the event code and the SchemaName in a query for the options of a dropdown."""
    parameter = _object(content, "Parameter")
    code, name = (_needed(parameter, key) for key in ("ActivityEventCode", "SchemaName"))
    _must(type(code) is int, "ActivityEventCode must be an integer")
    _must(isinstance(name, str), "SchemaName must be a string")
    return code, name


def read_of_lead(lead: str, content: dict[str, Any]) -> OfLead:
    """Return the query for the activities of a lead, the `leadId` of the URL."""
    _must(_is_text(lead, _GUID), "leadId must be a GUID")
    parameter, paging = (_object(content, name) for name in ("Parameter", "Paging"))
    size = _whole(paging, "RowCount")
    _must(1 <= size <= _MOST_ROWS, f"RowCount must be from 1 to {_MOST_ROWS}")
    return OfLead(lead, _event(parameter), _whole(paging, "Offset"), size)


def read_span(content: dict[str, Any]) -> Span:
    """Return the query for the activities of all leads that were modified in a span of time."""
    parameter, paging = (_object(content, name) for name in ("Parameter", "Paging"))
    start, end = (_moment(_needed(parameter, name), name) for name in ("FromDate", "ToDate"))
    page, size = _whole(paging, "PageIndex"), _whole(paging, "PageSize")
    _must(page >= 1, "PageIndex must be 1 or more")
    _must(1 <= size <= _LONGEST_PAGE, f"PageSize must be from 1 to {_LONGEST_PAGE}")
    _must(
        _object(content, "Sorting") == {"ColumnName": "ProspectActivityId", "Direction": 0},
        "the sandbox sorts only by ProspectActivityId in Direction 0: other orders lose rows",
    )
    return Span(_event(parameter), start, end, page, size)


def _check_content(activity: dict[str, Any]) -> None:
    _event(activity)
    _must(isinstance(activity.get("ActivityNote", ""), str), "ActivityNote must be a string")
    if "ActivityDateTime" in activity:
        _moment(activity["ActivityDateTime"], "ActivityDateTime")
    # A stack instead of recursion, as a client may nest without limit.
    left = [("Fields", activity.get("Fields", []))]
    while left:
        path, items = left.pop()
        for index, item in enumerate(_objects(items, path)):
            at = f"{path}[{index}]"
            if not _is_text(item.get("SchemaName", item.get("Attribute")), _ANYTHING):
                raise RejectedError(missing(f"{at}.SchemaName"))
            if "Value" not in item and "Fields" not in item:
                raise RejectedError(missing(f"{at}.Value"))
            is_single = not isinstance(item.get("Value"), list | dict)
            _must(is_single, f"{at}.Value must be a single value")
            if "Fields" in item:
                left.append((f"{at}.Fields", item["Fields"]))


def _event(content: dict[str, Any]) -> int:
    event = _needed(content, "ActivityEvent")
    # A bool is an int in Python; in JSON it is not.
    _must(type(event) is int and event > 0, "ActivityEvent must be a positive integer")
    return cast("int", event)


def _moment(value: Any, name: str) -> datetime:
    wanted = f"{name} must be a date and time as YYYY-MM-DD HH:MM:SS"
    _must(_is_text(value, _DATE_TIME), wanted)
    try:
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    except ValueError:
        raise RejectedError(invalid(wanted)) from None


def _whole(paging: dict[str, Any], name: str) -> int:
    value = _needed(paging, name)
    whole = _is_text(value, _DIGITS) or (type(value) is int and value >= 0)
    _must(whole, f"{name} must be a whole number, 0 or more")
    return int(value)


def _object(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = _needed(content, name)
    _must(isinstance(value, dict), f"{name} must be an object")
    return cast("dict[str, Any]", value)


def _objects(items: Any, path: str) -> list[dict[str, Any]]:
    _must(isinstance(items, list), f"{path} must be a list")
    for index, item in enumerate(items):
        _must(isinstance(item, dict), f"{path}[{index}] must be an object")
    return cast("list[dict[str, Any]]", items)


def _needed(content: dict[str, Any], name: str) -> Any:
    if name not in content:
        raise RejectedError(missing(name))
    return content[name]


def _must(holds: bool, message: str) -> None:  # noqa: FBT001  it is what is asserted
    if not holds:
        raise RejectedError(invalid(message))


def _is_text(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
