"""
The leads of the rows: which are looked up, and by which id or attributes a row is posted.

Without --create-leads and --update-leads, no lead is created or changed: an activity is posted by
the id of the lead that was found.
"""

from collections.abc import Mapping
from typing import Any, cast

from attrs import define, evolve, field

from leadpost import Activity, Lead
from leadpost.cli.files.reading.cells import Invalid
from leadpost.cli.files.reading.lead_columns import FINDS, ID, is_by_id
from leadpost.cli.files.reading.row import SENT, Row
from leadpost.errors import AmbiguousLead, LeadpostError, described

Key = tuple[str, str]
_CREATING = ("posted", *SENT)
"""Rows that create leads. LeadSquared's queue may not have processed a posted one yet."""


@define
class Leads:
    """The leads of one run; each is looked up once."""

    creates: bool = False  # whether a lead is created where none is found
    updates: bool = False  # whether leads that are found get the further columns
    # The id of each that was looked up, None where there is none, or the error instead.
    found: dict[Key, str | LeadpostError | None] = field(factory=dict[Key, Any])
    # Each lead that rows create, with the attributes of the first of them.
    created: dict[Key, Lead] = field(factory=dict[Key, Lead])

    def to_find(self, payload: Mapping[str, Any]) -> Lead | None:
        """Return the lead of an activity if it is to be looked up, otherwise None."""
        if is_by_id(payload):
            return None
        lead = cast("Lead", Activity.from_payload(payload).lead)
        return lead if self._looks_up(lead) else None

    def _looks_up(self, lead: Lead) -> bool:
        # One with an id too, if a post would create a missing one.
        if lead.schema_name == ID:
            return self.updates and bool(lead.attributes)
        return lead.schema_name in FINDS

    def settled(self, row: Row) -> Mapping[str, Any]:
        """
        Return the activity of a row as it is posted: the same one if it has its lead's id only.

        Raises:
            Invalid: its lead was not found, and is not to be created.
        """
        payload = row.payload or {}
        if is_by_id(payload):
            return payload
        activity = Activity.from_payload(payload)
        lead = cast("Lead", activity.lead)
        lead_id = self._id_of(lead)
        if lead_id is None:
            # Every row of a new lead has the attributes of its first one: none changes another's.
            if row.decision in _CREATING:
                self.created.setdefault(lead.key, lead)
            posted: Lead | str = lead if self.updates else self.created.get(lead.key, lead)
        elif self.updates and lead.attributes:
            posted = Lead(ID, lead_id, lead.attributes)
        else:
            posted = lead_id
        return evolve(activity, lead=posted).to_payload()

    def changes(self, settled: Mapping[str, Any]) -> bool:
        """Whether an activity as it is posted changes a lead that is there already."""
        lead = None if is_by_id(settled) else Activity.from_payload(settled).lead
        return isinstance(lead, Lead) and lead.key not in self.created

    def _id_of(self, lead: Lead) -> str | None:
        """Return the lead's id, None if it is to be created."""
        if not self._looks_up(lead):
            if lead.schema_name == ID:
                return lead.value
            what = f"cannot be looked up by {lead.schema_name}"  # in JSON only
            raise Invalid(lead.value, what, f"use {' or '.join(FINDS)}")
        match found := self.found.get(lead.key, LeadpostError("not asked for")):
            case AmbiguousLead():
                raise Invalid(lead.value, "belongs to several leads", "enter the id of one")
            case LeadpostError():
                what = f"run it again later ({described(found)})"
                raise Invalid(lead.value, "could not be looked up", what)
            case None if not self.creates:
                raise Invalid(lead.value, "belongs to no lead", "--create-leads creates one")
            case _:
                return found
