"""Leads by what is known of them: columns such as `Lead.EmailAddress`, in place of a lead's id."""

from collections.abc import Mapping
from typing import Any

from leadpost._validation import is_list, is_mapping, name_of
from leadpost.cli.files.reading.cells import Invalid

COLUMN = "Lead."
"""How the headings of these columns begin."""
FINDS = ("EmailAddress", "Phone")
"""What a lead can be looked up by; the first that a row has counts."""
ID = "ProspectID"
_EMAIL_FORM = ("EmailAddress", "FirstName", "LastName", "Phone")
"""What the synchronous API takes beside an activity in place of the lead's id."""


def with_lead(activity: dict[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """
    Return an activity in LeadSquared's shape for one whose lead's id need not be known.

    `known` is SchemaName to value of what else is known of the lead.

    Raises:
        Invalid: nothing finds the lead.
    """
    if "RelatedProspectId" in activity and not known:
        return activity
    details = dict(known)
    if lead_id := activity.pop("RelatedProspectId", None):
        details = {ID: lead_id, **known}
    finds = next((name for name in (ID, *FINDS) if name in details), None)
    if finds is None:
        raise Invalid("", "is missing", "enter its id, e-mail address or phone number")
    details["SearchBy"] = finds
    items = [{"Attribute": name, "Value": value} for name, value in details.items()]
    return {"LeadDetails": items, "Activity": activity}


def with_lead_of_email_form(activity: dict[str, Any]) -> dict[str, Any]:
    """Return the same for an activity of the synchronous API that has an address beside it."""
    address = activity.get("EmailAddress")
    if activity.get("RelatedProspectId") or "LeadDetails" in activity or not address:
        return activity
    values = {name: _trimmed(activity.get(name)) for name in _EMAIL_FORM}
    known = {name: value for name, value in values.items() if value not in (None, "")}
    apart = {*_EMAIL_FORM, "RelatedProspectId"}
    return with_lead({n: part for n, part in activity.items() if n not in apart}, known)


def _trimmed(value: object) -> Any:
    return value.strip() if isinstance(value, str) else value


def is_by_id(payload: Mapping[str, Any]) -> bool:
    """Whether an activity has its lead's id, and not what else is known of the lead."""
    return "LeadDetails" not in payload


def activity_of(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of an activity, without what is known of its lead instead of its id."""
    return payload if is_by_id(payload) else payload["Activity"]


def details_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what is known of the lead, by SchemaName; `SearchBy` names what finds it.

    That is its id alone in most activities, and its address in the email form.
    """
    if details := _lead_details(payload):
        return details
    finds, value = ID, payload.get("RelatedProspectId")
    if not value:
        finds, value = "EmailAddress", payload.get("EmailAddress")
    return {"SearchBy": finds, finds: value}


def column_of_lead(payload: Mapping[str, Any]) -> str:
    """Return what finds the lead of an activity, by its name in a file."""
    finds = details_of(payload)["SearchBy"]
    return "RelatedProspectId" if finds == ID else f"{COLUMN}{finds}"


def lead_of(payload: Mapping[str, Any]) -> str:
    """Return the lead's id, or else what finds the lead; "" if an invalid activity has neither."""
    details = details_of(payload)
    return str(details.get(str(details.get("SearchBy"))) or "")


def parts_of_activity(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters, fields and what is known of the lead, by their names in a file."""
    details = _lead_details(payload)
    parts = {COLUMN + name: value for name, value in details.items() if name != "SearchBy"}
    activity = activity_of(payload)
    parts |= {name: value for name, value in activity.items() if name != "Fields"}
    fields = activity.get("Fields")
    items = fields if is_list(fields) else []
    return parts | {str(name_of(item)): item.get("Value") for item in items}


def _lead_details(payload: Mapping[str, Any]) -> dict[str, Any]:
    items = payload.get("LeadDetails")
    if not is_list(items):
        return {}
    return {str(name_of(item)): item.get("Value") for item in items if is_mapping(item)}
