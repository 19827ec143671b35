"""An activity, its checks, and the vendor's JSON for it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Self, cast
from uuid import UUID

from attrs import field, frozen

from leadpost._names import show_in
from leadpost._shapes import is_list, is_mapping
from leadpost.checks import PARAMETERS, activity_problems, name_of, problem
from leadpost.errors import InvalidActivity, Problem

_IMPERSONAL = {
    *("RelatedProspectId", "ActivityEvent", "ActivityDateTime"),
    *("SchemaName", "Attribute"),
}
_VENDOR_DATETIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)

_NONE: Mapping[str, Any] = MappingProxyType({})  # a factory would show as NOTHING in help

Payload = dict[str, Any]


def _lead_id(value: str | UUID | None) -> str | None:
    return str(value) if isinstance(value, UUID) else value


def _moment(value: datetime | str | None) -> datetime | None:
    """Turn what names one moment into an aware UTC date-time, and leave the rest to the check."""
    if isinstance(value, str):
        value = _read_datetime(value)
    if isinstance(value, datetime) and value.utcoffset() is not None:
        with suppress(OverflowError):
            return value.astimezone(UTC)
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
class Activity:
    """
    One activity on a lead.

    Args:
        related_prospect_id: The lead's id (ProspectId), a GUID as text or `uuid.UUID`. None only
            with an `EmailAddress` in `extra`, as in the email form of the synchronous API.
        activity_event: The activity type's code, a positive integer.
        activity_note: Notes, text.
        activity_datetime: When it happened: an aware date-time, or text in the vendor's form
            (`YYYY-MM-DD HH:MM:SS`, UTC) or in ISO 8601 with an offset. Sent in UTC, to the second.
        fields: SchemaName to value. A value is anything that JSON can hold on its own (text,
            number, true, false, null), or an aware date-time; a list of items in the vendor's shape
            is a nested set; a mapping is the whole field item in the vendor's shape.
        extra: Further parameters of the vendor's, passed through (`ProcessFilesAsync`, …).

    Raises:
        InvalidActivity: with every problem found. No text of the activity stands in it.

    The parameters and their forms are those of the vendor's page "Post an Activity on a Lead
    (Async)". The repr shows no note and no field value.
    """

    related_prospect_id: str | None = field(converter=_lead_id)
    activity_event: int
    activity_note: str | None = None
    activity_datetime: datetime | None = field(default=None, converter=_moment)
    fields: Mapping[str, Any] = field(default=_NONE, converter=_own_dict)
    extra: Mapping[str, Any] = field(default=_NONE, converter=_own_dict)

    def __attrs_post_init__(self) -> None:
        problems = list(
            activity_problems(
                lead=self.related_prospect_id,
                event=self.activity_event,
                note=self.activity_note,
                moment=self.activity_datetime,
                fields=self.fields,
                extra=self.extra,
            )
        )
        if problems:
            raise InvalidActivity.of(problems)

    def __repr__(self) -> str:
        when = f", {self.activity_datetime:%Y-%m-%d %H:%M:%S}Z" if self.activity_datetime else ""
        return (
            f"<Activity {self.activity_event} on {self.related_prospect_id}{when},"
            f" {len(self.fields)} fields>"
        )

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """
        Read the vendor's own JSON shape, with its keys spelled as the vendor spells them.

        Args:
            payload: `RelatedProspectId`, `ActivityEvent`, `ActivityNote`, `ActivityDateTime`,
                `Fields` (a list of `{"SchemaName": …, "Value": …}`); other keys become `extra`.

        Raises:
            InvalidActivity: with every problem found.
        """
        if not is_mapping(payload):
            raise InvalidActivity.of([problem("activity", payload, "an Activity or a mapping")])
        fields, problems = _read_fields(payload.get("Fields"))
        try:
            activity = cls(
                payload.get("RelatedProspectId"),
                payload.get("ActivityEvent"),  # type: ignore[arg-type]  # checked by the class
                payload.get("ActivityNote"),
                payload.get("ActivityDateTime"),
                fields,
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
        Read one activity from JSON text in the vendor's shape.

        Raises:
            InvalidActivity: if the text is not JSON, or with every problem found in it.
        """
        try:
            payload = json.loads(text)
        except (ValueError, RecursionError) as error:
            where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
            found = f"text that is not JSON{where}"
            raise InvalidActivity.of([Problem("activity", found, "a JSON object")]) from None
        return cls.from_payload(payload)

    def to_payload(self) -> Payload:
        """Write the vendor's own JSON shape; parameters that are None or empty are left out."""
        payload: Payload = {}
        if self.related_prospect_id is not None:
            payload["RelatedProspectId"] = self.related_prospect_id
        payload["ActivityEvent"] = self.activity_event
        if self.activity_note is not None:
            payload["ActivityNote"] = self.activity_note
        if self.activity_datetime is not None:
            payload["ActivityDateTime"] = _vendor_datetime(self.activity_datetime)
        if self.fields:
            payload["Fields"] = [_written_item(name, value) for name, value in self.fields.items()]
        for name, value in self.extra.items():
            payload[name] = _jsonable(value)
        return payload


def personal_texts(payload: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of a payload that say something of a person: all but names and ids."""
    for name, value in payload.items():
        if name not in _IMPERSONAL:
            yield from _texts(value)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif is_mapping(value):
        yield from personal_texts(value)
    elif is_list(value):
        for item in value:
            yield from _texts(item)


def _vendor_datetime(moment: datetime) -> str:
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    return utc.isoformat(sep=" ", timespec="seconds")


def _written_item(name: str, value: object) -> object:
    if isinstance(value, str):  # nearly all are, and it is the quickest to see
        return {"SchemaName": name, "Value": value}
    if is_mapping(value):
        return _jsonable(value)
    if is_list(value):
        return {"SchemaName": name, "Value": "", "Fields": _jsonable(value)}
    return {"SchemaName": name, "Value": _jsonable(value)}


def _jsonable(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return _vendor_datetime(value)
    if is_mapping(value):
        return {name: _jsonable(item) for name, item in value.items()}
    if is_list(value):
        return [_jsonable(item) for item in value]
    return value


def _read_fields(items: object) -> tuple[dict[str, Any], list[Problem]]:
    """Turn the vendor's list of items into SchemaName to value, as `Activity.fields` has it."""
    if items is None:
        return {}, []
    if not is_list(items):
        return {}, [problem("Fields", items, "a list of items with SchemaName and Value")]
    fields: dict[str, Any] = {}
    problems: list[Problem] = []
    for place, item in enumerate(items):
        name = name_of(item)
        if name is None:
            problems.append(problem(f"Fields[{place}]", item, "an item with a SchemaName"))
        elif name in fields:
            problems.append(Problem(name, "the SchemaName a second time", "each SchemaName once"))
        else:
            fields[name] = _read_item(item)
    return fields, problems


def _read_item(item: Payload) -> object:
    value = item.get("Value")
    if item.keys() == {"SchemaName", "Value"} and not is_mapping(value) and not is_list(value):
        return value
    if item.keys() == {"SchemaName", "Value", "Fields"} and value == "":
        nested = item["Fields"]
        return nested if is_list(nested) and nested else item
    return item


show_in("leadpost", globals())
