"""
Leads by what is known of them: columns such as `Lead.EmailAddress`, in place of a lead's id.

Nothing here creates or changes a lead unless it was told to: an activity is posted by the id of the
lead that was found.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from attrs import define, evolve, field

from leadpost import Activity, Lead
from leadpost._validation import is_list, name_of
from leadpost.cli.files.cells import Invalid
from leadpost.errors import AmbiguousLead, LeadpostError

COLUMN = "Lead."
"""How the headings of these columns begin."""
FINDS = ("EmailAddress", "Phone")
"""What a lead can be looked up by; the first that a row has counts."""
_ID = "ProspectID"

Key = tuple[str, str]


def with_lead(activity: dict[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """
    Return an activity in LeadSquared's shape for one whose lead's id need not be known.

    Args:
        activity: The activity, with `RelatedProspectId` if that is known.
        known: SchemaName to value of what else is known of the lead.

    Raises:
        Invalid: nothing finds the lead.
    """
    if "RelatedProspectId" in activity and not known:
        return activity
    details = dict(known)
    if lead_id := activity.pop("RelatedProspectId", None):
        details = {_ID: lead_id, **known}
    finds = next((name for name in (_ID, *FINDS) if name in details), None)
    if finds is None:
        raise Invalid("", "is not known", "enter its id, e-mail address or phone number")
    details["SearchBy"] = finds
    items = [{"Attribute": name, "Value": value} for name, value in details.items()]
    return {"LeadDetails": items, "Activity": activity}


def details_of(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the lead instead of its id, by SchemaName; `SearchBy` too."""
    items: Iterable[Mapping[str, Any]] = payload.get("LeadDetails", ())
    return {str(name_of(item)): item["Value"] for item in items}


def lead_of(payload: Mapping[str, Any]) -> str:
    """Return the lead's id, or else what finds the lead."""
    if details := details_of(payload):
        return str(details[details["SearchBy"]])
    return str(payload.get("RelatedProspectId") or payload.get("EmailAddress") or "")


def parts_of_activity(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters, fields and what is known of the lead, by their names in a file."""
    details = details_of(payload)
    parts = {COLUMN + name: value for name, value in details.items() if name != "SearchBy"}
    activity: Mapping[str, Any] = payload["Activity"] if details else payload
    parts |= {name: value for name, value in activity.items() if name != "Fields"}
    fields = activity.get("Fields")
    items = fields if is_list(fields) else []
    return parts | {str(name_of(item)): item.get("Value") for item in items}


@define
class Leads:
    """The leads of one run; each is looked up once."""

    creates: bool = False  # whether a lead is created where none is found
    updates: bool = False  # whether leads that are found get the further columns
    # The id of each that was looked up, None where there is none, or the error instead.
    found: dict[Key, str | LeadpostError | None] = field(factory=dict[Key, Any])
    # SchemaName to value of each lead that is to be created.
    created: dict[Key, Lead] = field(factory=dict[Key, Lead])

    def looks_up(self, lead: Lead) -> bool:
        """Whether to look a lead up: one with an id too, if a post would create a missing one."""
        if lead.schema_name == _ID:
            return self.updates and bool(lead.attributes)
        return lead.schema_name in FINDS

    def settled(self, activity: Activity) -> Activity:
        """
        Return an activity as it is posted.

        Args:
            activity: An activity of a `Lead`.

        Raises:
            Invalid: its lead was not found, and is not to be created.
        """
        lead = cast("Lead", activity.lead)
        lead_id = self._id_of(lead)
        if lead_id is None:
            # Every row of a new lead has the attributes of its first one: none changes another's.
            first = self.created.setdefault(lead.key, lead)
            return evolve(activity, lead=lead if self.updates else first)
        if self.updates and lead.attributes:
            return evolve(activity, lead=Lead(_ID, lead_id, lead.attributes))
        return evolve(activity, lead=lead_id)

    def _id_of(self, lead: Lead) -> str | None:
        """Return the lead's id, None if it is to be created."""
        if not self.looks_up(lead):
            if lead.schema_name == _ID:
                return lead.value
            what = f"cannot be looked up by {lead.schema_name}"  # in JSON only
            raise Invalid(lead.value, what, f"use {' or '.join(FINDS)}")
        match found := self.found.get(lead.key, LeadpostError("not asked for")):
            case AmbiguousLead():
                raise Invalid(lead.value, "belongs to several leads", "enter the id of one")
            case LeadpostError():
                why = f"{type(found).__name__}" + (f", HTTP {found.status}" if found.status else "")
                raise Invalid(lead.value, "could not be looked up", f"run it again later ({why})")
            case None if not self.creates:
                raise Invalid(lead.value, "belongs to no lead", "--create-leads creates one")
            case _:
                return found
