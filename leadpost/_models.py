"""Activities, in Python and in LeadSquared's JSON shape."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Self, cast
from uuid import UUID

from attrs import field, frozen

from leadpost._validation import (
    PARAMETERS,
    activity_problems,
    by_name,
    datetime_problems,
    is_list,
    is_mapping,
    json_text,
    lead_id_problems,
    lead_problems,
    leadsquared_datetime,
    problem,
    python_value,
    to_utc,
)
from leadpost.errors import InvalidActivity, Problem

_VENDOR_DATETIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)

_NONE: Mapping[str, Any] = MappingProxyType({})  # a factory would show as NOTHING in help

Payload = dict[str, Any]


def _event_code(value: int) -> int:
    return cast("int", python_value(value))  # the checks reject anything else


def _utc(value: datetime | str | None) -> datetime | None:
    """Return a valid date-time in UTC, anything else unchanged: the checks reject it."""
    if isinstance(value, str):
        value = _read_datetime(value)
    if isinstance(value, datetime) and not any(datetime_problems("ActivityDateTime", value)):
        return to_utc(value)
    return cast("datetime | None", value)


def _read_datetime(text: str) -> datetime | str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    if _VENDOR_DATETIME.fullmatch(text):
        return moment.replace(tzinfo=UTC)
    return text if moment.tzinfo is None else moment


def _own_dict(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(value) if is_mapping(value) else value


@frozen(repr=False)
class Lead:
    """
    A lead whose id is not known; see `find_or_create`. The repr shows only SchemaNames.

    Attributes:
        schema_name: SchemaName of the field that finds it.
        value: The value of that field.
        attributes: SchemaName to value of further fields to set.
    """

    schema_name: str
    value: str
    attributes: Mapping[str, Any] = field(default=_NONE, converter=_own_dict)

    def __attrs_post_init__(self) -> None:
        if problems := list(lead_problems(self.schema_name, self.value, self.attributes)):
            raise InvalidActivity.of(problems)

    def __repr__(self) -> str:
        names = "".join(f", {name}" for name in self.attributes)
        return f"<Lead by {self.schema_name}{names}>"

    @property
    def key(self) -> tuple[str, str]:
        """A key that is equal for all spellings of the same value."""
        return lead_key(self.schema_name, self.value)

    @classmethod
    def find_or_create(
        cls, schema_name: str, value: str, attributes: Mapping[str, Any] = _NONE
    ) -> Self:
        """
        Return a lead for an `Activity` whose lead's id is not known.

        A post on it **changes** the lead that is found: it sets the attributes. If none is found,
        it **creates** one. `AsyncActivityPoster.find_lead` finds a lead without changing it.

        Args:
            schema_name: SchemaName of the field that finds it: `EmailAddress`, `Phone`,
                `ProspectID`, or a field of your own whose values are unique.
            value: The value of that field.
            attributes: SchemaName to value of further fields to set. A value is text, a number,
                true, false or an aware date-time. An empty value is invalid: it would erase the
                lead's.

        Raises:
            InvalidActivity: with every problem.
        """
        return cls(schema_name, value, attributes)


def lead_key(schema_name: str, value: object) -> tuple[str, str]:
    """
    Return the `key` of a lead.

    >>> lead_key("EmailAddress", "Ada@Example.com "), lead_key("Phone", "+91-98123 45678")
    (('EmailAddress', 'ada@example.com'), ('Phone', '919812345678'))
    """
    text = str(value).strip().casefold()
    return schema_name, re.sub(r"\D", "", text) if schema_name == "Phone" else text


def _lead(value: str | UUID | Lead | None) -> str | Lead | None:
    return str(value) if isinstance(value, UUID) else value


@frozen(repr=False)
class Activity:
    """
    One activity on a lead.

    Args:
        lead: The lead's id (ProspectId): a GUID, as text or as `uuid.UUID`; or a `Lead`, if the id
            is not known. None is valid only with an `EmailAddress` in `extra`, the email form of
            the synchronous API.
        activity_event: The activity type's code, a positive integer.
        activity_note: The text of the note.
        activity_datetime: When it happened: an aware date-time, or text in LeadSquared's form
            (`YYYY-MM-DD HH:MM:SS`, UTC) or in ISO 8601 with an offset. Sent in UTC, to the second.
        fields: SchemaName to value. A value is text, a number, true, false, None or an aware
            date-time. For a nested set, it is a list of items in LeadSquared's shape
            (`[{"SchemaName": "mx_CustomObject_1", "Value": "a"}]`). A mapping is a whole field item
            in LeadSquared's shape, with its `SchemaName`.
        extra: Other parameters, sent unchanged (`ProcessFilesAsync`, …).

    Numbers, booleans and texts may be from numpy, date-times from pandas. Their missing values
    (`NaN`, `NaT`, `NA`) are invalid: use None.

    Raises:
        InvalidActivity: with every problem. Its message shows no text of the activity.

    The parameters and their forms are from LeadSquared's page "Post an Activity on a Lead (Async)".
    The repr shows no note and no field value.
    """

    lead: str | Lead | None = field(converter=_lead)
    activity_event: int = field(converter=_event_code)
    activity_note: str | None = None
    activity_datetime: datetime | None = field(default=None, converter=_utc)
    fields: Mapping[str, Any] = field(default=_NONE, converter=_own_dict)
    extra: Mapping[str, Any] = field(default=_NONE, converter=_own_dict)

    def __attrs_post_init__(self) -> None:
        by_id = not isinstance(self.lead, Lead)
        problems = list(lead_id_problems(self.lead, self.extra)) if by_id else []
        problems += activity_problems(
            event=self.activity_event,
            note=self.activity_note,
            moment=self.activity_datetime,
            fields=self.fields,
            extra=self.extra,
        )
        if problems:
            raise InvalidActivity.of(problems)

    @property
    def related_prospect_id(self) -> str | None:
        """The lead's id, None if it is not known."""
        if isinstance(self.lead, Lead):
            return self.lead.value if self.lead.schema_name == "ProspectID" else None
        return self.lead

    def __repr__(self) -> str:
        when = f", {self.activity_datetime:%Y-%m-%d %H:%M:%S}Z" if self.activity_datetime else ""
        return f"<Activity {self.activity_event} on {self.lead}{when}, {len(self.fields)} fields>"

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """
        Read an activity in LeadSquared's JSON shape, with LeadSquared's spelling of the keys.

        Args:
            payload: `RelatedProspectId`, `ActivityEvent`, `ActivityNote`, `ActivityDateTime`,
                `Fields` (a list of `{"SchemaName": …, "Value": …}`); other keys become `extra`.
                Or, if the lead's id is not known, an object `Activity` that contains these, and
                `LeadDetails` (a list of `{"Attribute": …, "Value": …}`, one of them `SearchBy`).

        Raises:
            InvalidActivity: with every problem.
        """
        if not is_mapping(payload):
            raise InvalidActivity.of([problem("activity", payload, "an Activity or a mapping")])
        lead: str | Lead | None = payload.get("RelatedProspectId")
        if "LeadDetails" in payload:
            lead, payload = _read_lead_and_activity(payload)
        items, problems = by_name("Fields", payload.get("Fields"))
        try:
            activity = cls(
                lead,
                payload.get("ActivityEvent"),  # type: ignore[arg-type]  # checked by the class
                payload.get("ActivityNote"),
                payload.get("ActivityDateTime"),
                {name: _read_item(item) for name, item in items.items()},
                {name: payload[name] for name in payload if name not in PARAMETERS},
            )
        except InvalidActivity as error:
            raise InvalidActivity.of([*error.problems, *problems]) from None
        if problems:
            raise InvalidActivity.of(problems)
        return activity

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """
        Read an activity from JSON text in LeadSquared's shape.

        Raises:
            InvalidActivity: with every problem, or because it is not JSON.
        """
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
            found = f"text that is not JSON{where}"
            raise InvalidActivity.of([Problem("activity", found, "a JSON object")]) from None
        except TypeError:
            raise InvalidActivity.of([problem("activity", text, "JSON text")]) from None
        return cls.from_payload(payload)

    def to_payload(self) -> Payload:
        """Return LeadSquared's JSON shape, without parameters that are None or empty."""
        if isinstance(self.lead, Lead):
            return {"LeadDetails": _lead_details(self.lead), "Activity": self.parameters()}
        lead = {} if self.lead is None else {"RelatedProspectId": self.lead}
        return {**lead, **self.parameters()}

    def parameters(self) -> Payload:
        """Return the same, but nothing of the lead."""
        payload: Payload = {}
        payload["ActivityEvent"] = self.activity_event
        if self.activity_note is not None:
            payload["ActivityNote"] = self.activity_note
        if self.activity_datetime is not None:
            payload["ActivityDateTime"] = leadsquared_datetime(self.activity_datetime)
        if self.fields:
            payload["Fields"] = [_written_item(name, value) for name, value in self.fields.items()]
        for name, value in self.extra.items():
            payload[name] = _jsonable(value)
        return payload


Item = Activity | Mapping[str, Any]
"""An activity, or a mapping in LeadSquared's JSON shape."""


def _lead_details(lead: Lead) -> list[Payload]:
    details = {lead.schema_name: lead.value, **lead.attributes, "SearchBy": lead.schema_name}
    return [{"Attribute": name, "Value": _jsonable(value)} for name, value in details.items()]


def _written_item(name: str, value: object) -> object:
    if isinstance(value, (str, int, float)):  # most values are, and the other checks are slow
        return {"SchemaName": name, "Value": value}
    if is_mapping(value):
        return _jsonable(value)
    if is_list(value):
        return {"SchemaName": name, "Value": "", "Fields": _jsonable(value)}
    return {"SchemaName": name, "Value": _jsonable(value)}


def _jsonable(value: object) -> object:
    return value if isinstance(value, (str, int, float)) else json.loads(json_text(value))


def _read_lead_and_activity(payload: Mapping[str, Any]) -> tuple[Lead, Mapping[str, Any]]:
    """Return the lead and the activity of LeadSquared's createcustom shape."""
    activity = payload.get("Activity")
    if not is_mapping(activity):
        wanted = "an object with ActivityEvent beside LeadDetails"
        raise InvalidActivity.of([problem("Activity", activity, wanted)])
    if "RelatedProspectId" in activity or len(payload) > len(("LeadDetails", "Activity")):
        found = "a RelatedProspectId or another key beside it"
        raise InvalidActivity.of([Problem("LeadDetails", found, "LeadDetails and Activity only")])
    items, problems = by_name("LeadDetails", payload["LeadDetails"])
    details: dict[str, Any] = {attribute: item.get("Value") for attribute, item in items.items()}
    for attribute, item in items.items():
        if item.keys() - {"Attribute", "SchemaName", "Value"}:
            found, wanted = "an item with more than a Value", "a single value of the lead"
            problems.append(Problem(f"Lead.{attribute}", found, wanted))
    name = details.pop("SearchBy", None)
    if problems or not isinstance(name, str) or name not in details:
        wanted = "a SearchBy that names another attribute"
        raise InvalidActivity.of(problems or [problem("LeadDetails", name, wanted)])
    return Lead(name, details.pop(name), details), activity


def _read_item(item: Payload) -> object:
    value = item.get("Value")
    if item.keys() == {"SchemaName", "Value"} and not is_mapping(value) and not is_list(value):
        return value
    if item.keys() == {"SchemaName", "Value", "Fields"} and isinstance(value, str) and not value:
        nested = item["Fields"]
        return nested if is_list(nested) and nested else item
    return item
