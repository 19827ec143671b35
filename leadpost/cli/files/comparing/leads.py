"""
The leads of the rows: which are looked up, and by which id or attributes a row is posted.

Without --create-leads and --update-leads, no lead is created or changed: an activity is posted by
the id of the lead that was found.
"""

from typing import Any, cast

from attrs import define, evolve, field

from leadpost import Activity, Lead
from leadpost.cli.files.reading.cells import Invalid
from leadpost.cli.files.reading.lead_columns import FINDS, ID
from leadpost.errors import AmbiguousLead, LeadpostError

Key = tuple[str, str]


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
        if lead.schema_name == ID:
            return self.updates and bool(lead.attributes)
        return lead.schema_name in FINDS

    def settled(self, activity: Activity) -> Activity:
        """
        Return an activity of a `Lead` as it is posted.

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
            return evolve(activity, lead=Lead(ID, lead_id, lead.attributes))
        return evolve(activity, lead=lead_id)

    def _id_of(self, lead: Lead) -> str | None:
        """Return the lead's id, None if it is to be created."""
        if not self.looks_up(lead):
            if lead.schema_name == ID:
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
