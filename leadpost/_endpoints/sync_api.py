"""The calls of the synchronous host: posts, activity types, leads, the user, activities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from attrs import frozen

from leadpost._answers import ActivityField, ActivityType, LeadActivity, User
from leadpost._endpoints.async_api import read_activity, read_posted, written
from leadpost._endpoints.call import Call
from leadpost._endpoints.values import (
    code_in,
    host_in,
    mapping,
    moment,
    number,
    text,
    texts_in,
    unexpected,
)
from leadpost._models import Item, Lead, lead_key
from leadpost._responses import ApiResponse, get
from leadpost._validation import is_list, is_mapping, leadsquared_datetime
from leadpost.errors import AmbiguousLead, InvalidActivity, Problem

_ROWS = 25
"""Rows of a page of a lead's activities: LeadSquared's own default."""
LONG_PAGE = 1000
"""Rows of a page of the activities in a span of time: LeadSquared's maximum."""
_ACTIVITIES = "/v2/ProspectActivity.svc"
_LEADS = "/v2/LeadManagement.svc"


def post_sync(item: Item) -> Call[str]:
    """Post an activity synchronously; the result is the activity's id."""
    activity = read_activity(item)
    if isinstance(activity.lead, Lead):
        wanted = "a lead's id: use post, or find_lead first"
        raise InvalidActivity.of([Problem("RelatedProspectId", "a lead to find or create", wanted)])
    path = f"{_ACTIVITIES}/Create"
    return Call("post_sync", path, read_activity_id, content=written(activity))


def read_activity_id(response: ApiResponse) -> str:
    """Return the activity's id after a synchronous post, from `{"Message": {"Id": …}, …}`."""
    return read_posted(response, get(get(response.json, "Message"), "Id"))


# The account's activity types.


def activity_types() -> Call[list[ActivityType]]:
    """List the activity types, without their fields."""
    return Call("activity_types", f"{_ACTIVITIES}/ActivityTypes.Get", read_activity_types)


def read_activity_types(response: ApiResponse) -> list[ActivityType]:
    """Read the list of activity types: an array, or an object that contains one."""
    found = response.json
    if is_mapping(found):
        lists = [value for value in found.values() if is_list(value)]
        found = lists[0] if len(lists) == 1 else None
    if not is_list(found) or response.says_error:
        unexpected(response, "list of activity types")
    return [_activity_type(kind) for kind in found if is_mapping(kind)]


def activity_type(code: int) -> Call[ActivityType]:
    """Read one activity type with its fields, without the options of dropdowns."""
    path = f"{_ACTIVITIES}/CustomActivity/GetActivitySetting"
    read = partial(read_activity_type, code=code)
    return Call("activity_type", path, read, {"code": str(code)})


def read_activity_type(response: ApiResponse, code: int) -> ActivityType:
    """Read one activity type with its fields."""
    found = response.json
    if not is_mapping(found) or response.says_error:
        unexpected(response, "activity type")
    return _activity_type(found, code)


def _activity_type(raw: Mapping[str, Any], code: int | None = None) -> ActivityType:
    for name in ("ActivityEvent", "EventCode", "ActivityEventCode", "Code"):
        if code is None:
            code = code_in(get(raw, name))
    fields = get(raw, "Fields")
    items = fields if is_list(fields) else ()
    return ActivityType(
        code=code,
        name=text(get(raw, "DisplayName"))
        or text(get(raw, "ActivityEventName"))
        or text(get(raw, "Name")),
        fields=tuple(_activity_field(item) for item in items if get(item, "SchemaName")),
        raw=raw,
    )


def _activity_field(raw: Mapping[str, Any]) -> ActivityField:
    data_type = text(get(raw, "DataType"))
    is_multiple = get(raw, "IsMultiSelectDropdown") is True
    max_length = get(raw, "MaxFieldLength")
    return ActivityField(
        schema_name=str(get(raw, "SchemaName")),
        display_name=text(get(raw, "DisplayName")),
        data_type=data_type,
        is_mandatory=get(raw, "IsMandatory") is True,
        is_read_only=get(raw, "IsReadOnly") is True,
        max_length=code_in(max_length) or None,
        is_dropdown=is_multiple or "dropdown" in (data_type or "").lower(),
        is_multiple=is_multiple,
        allows_others=get(raw, "IncludeOthersOption") is True,
        options=None,
        raw=raw,
    )


def dropdown_options(code: int, schema_name: str) -> Call[tuple[str, ...]]:
    """Read the options of a dropdown. A POST, but it changes nothing."""
    query = {"Parameter": {"SchemaName": schema_name, "ActivityEventCode": code}}
    path = f"{_ACTIVITIES}/ActivityField/Dropdown/Options/Get"
    return Call("activity_type", path, read_dropdown_options, content=json.dumps(query).encode())


def read_dropdown_options(response: ApiResponse) -> tuple[str, ...]:
    """Read the options of a dropdown: `{"Options": […]}`, of texts or of objects with a `Value`."""
    found = get(response.json, "Options")
    if not is_list(found) or response.says_error:
        unexpected(response, "Options")
    options = [text(get(option, "Value") if is_mapping(option) else option) for option in found]
    if None in options:
        unexpected(response, "Value of an option")
    return tuple(option for option in options if option)


# Leads, and the user.

_LOOK_UPS = {
    "EmailAddress": (f"{_LEADS}/Leads.GetByEmailaddress", "emailaddress", ["EmailAddress"]),
    "Phone": (f"{_LEADS}/RetrieveLeadByPhoneNumber", "phone", ["Phone", "Mobile"]),
    "ProspectID": (f"{_LEADS}/Leads.GetById", "id", ["ProspectID"]),
}
"""SchemaName to path and parameter, and the fields among which LeadSquared looks."""


def find_lead(schema_name: str, value: str) -> Call[str | None]:
    """
    Look up a lead; the result is its id, None if there is no such lead.

    LeadSquared's page "Get a Lead by Phone Number" wants nothing but the digits of a number.
    """
    lead = Lead(schema_name, value)  # checks both
    if schema_name not in _LOOK_UPS:
        *names, last = _LOOK_UPS
        wanted = f"{', '.join(names)} or {last}"
        raise ValueError(f"schema_name: found {schema_name!r}, wanted {wanted}")
    path, parameter, _ = _LOOK_UPS[schema_name]
    sent = lead.key[1] if schema_name == "Phone" else lead.value
    read = partial(read_lead, schema_name=schema_name, value=lead.value)
    return Call("find_lead", path, read, {parameter: sent})


def read_lead(response: ApiResponse, schema_name: str, value: str) -> str | None:
    """
    Read an array of at most one lead, and return its `ProspectID`.

    Raises:
        LeadpostError: `AmbiguousLead` if there are several; `UnexpectedAnswer` if it is another
            lead: an activity on that one would show it to the wrong people.
    """
    if not is_list(response.json):
        unexpected(response, "list of leads")
    ids = {text(get(lead, "ProspectID")) for lead in response.json}
    if None in ids:
        unexpected(response, "ProspectID of a lead")
    if len(ids) > 1:
        found = f"{len(ids)} leads have this {schema_name}"
        raise AmbiguousLead(f"{found}: post with the id of one of them")
    if not all(_is_found_by(lead, schema_name, value) for lead in response.json):
        unexpected(response, f"lead with this {schema_name}")
    return ids.pop() if ids else None


def _is_found_by(lead: Mapping[str, Any], schema_name: str, value: str) -> bool:
    """Whether a lead has the value, as far as it shows that; a number may lack its country."""
    *_, fields = _LOOK_UPS[schema_name]
    shown = [found for name in fields if (found := text(get(lead, name)))]
    keys = [key for found in shown if (key := lead_key(schema_name, found)[1])]
    wanted = lead_key(schema_name, value)[1]
    if schema_name == "Phone":
        return not shown or any(k.endswith(wanted) or wanted.endswith(k) for k in keys)
    return not shown or wanted in keys


def user() -> Call[User]:
    """Read the user that the keys belong to."""
    return Call("user", "/v2/Authentication.svc/UserByAccessKey.Get", read_user)


def read_user(response: ApiResponse) -> User:
    """Read the user: `{"LSQCommonServiceURLs": {"api", "app"}, "TimeZone", "Role", "OrgId"}`."""
    urls = get(response.json, "LSQCommonServiceURLs")
    sync_host = host_in(get(urls, "api"))
    if sync_host is None:
        unexpected(response, "LSQCommonServiceURLs.api")
    return User(sync_host, text(get(response.json, "TimeZone")), raw=mapping(response.json))


# The activities of leads.


@frozen
class Page:
    """One page of activities, and LeadSquared's `RecordCount`: their number on all pages."""

    record_count: int
    activities: tuple[LeadActivity, ...]


def lead_activities(lead_id: str, code: int, page: int) -> Call[Page]:
    """Read one page of a lead's activities of one type. A POST, but it changes nothing."""
    query = {
        "Parameter": {"ActivityEvent": code},
        "Paging": {"Offset": str(page), "RowCount": str(_ROWS)},  # LeadSquared's name of a page
    }
    read = partial(read_page, name="ProspectActivities", lead_id=lead_id)
    content = json.dumps(query).encode()
    return Call("lead_activities", f"{_ACTIVITIES}/Retrieve", read, {"leadId": lead_id}, content)


def activities_between(code: int, start: datetime, end: datetime, page: int) -> Call[Page]:
    """
    Read one page of the activities of one type that were modified in a span of time.

    Sorted by id, because rows with the same `CreatedOn` move between pages.
    """
    query = {
        "Parameter": {
            "ActivityEvent": code,
            "FromDate": leadsquared_datetime(start),
            "ToDate": leadsquared_datetime(end),
        },
        "Paging": {"PageIndex": page, "PageSize": LONG_PAGE},
        "Sorting": {"ColumnName": "ProspectActivityId", "Direction": 0},
    }
    path = f"{_ACTIVITIES}/CustomActivity/RetrieveByActivityEvent"
    read = partial(read_page, name="List", code=code)
    return Call("activities_between", path, read, content=json.dumps(query).encode())


def read_page(
    response: ApiResponse, name: str, *, lead_id: str | None = None, code: int | None = None
) -> Page:
    """
    Read a page of activities: `{"RecordCount": n, name: [{"Id", "EventCode", "CreatedOn", …}]}`.

    The activities in a span of time have `ProspectActivityId`, `RelatedProspectId` and
    `ActivityEvent`. Rows without a lead or a type get those of the query.

    Raises:
        LeadpostError: `UnexpectedAnswer` if any part of it cannot be read: an omitted activity
            would look like one that never arrived.
    """
    found = get(response.json, name)
    if not is_list(found) or response.says_error:
        unexpected(response, name)
    return Page(
        record_count=int(number(response, "RecordCount")),
        activities=tuple(_lead_activity(response, row, lead_id, code) for row in found),
    )


def _lead_activity(
    response: ApiResponse, raw: object, lead_id: str | None, code: int | None
) -> LeadActivity:
    activity_id = text(get(raw, "Id")) or text(get(raw, "ProspectActivityId"))
    if activity_id is None:
        unexpected(response, "Id of an activity")
    return LeadActivity(
        activity_id=activity_id,
        lead_id=text(get(raw, "RelatedProspectId")) or lead_id,
        event=code_in(get(raw, "EventCode")) or code_in(get(raw, "ActivityEvent")) or code,
        created_on=moment(get(raw, "CreatedOn")),
        modified_on=moment(get(raw, "ModifiedOn")),
        texts=frozenset(texts_in(raw)),
        raw=mapping(raw),
    )
