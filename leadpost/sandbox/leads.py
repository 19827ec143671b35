"""
The leads of the sandbox's account.

A post may have any lead's id, even of a lead that is not among them.
"""

import re
from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5


class Leads:
    """The leads, in the order in which they were added."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self.created = 0
        self.updated = 0

    def add(self, attributes: Mapping[str, Any]) -> str:
        """Add a lead and return its id: the `ProspectID`, or else one made from its number."""
        number = len(self.all) + 1
        lead_id = str(uuid5(NAMESPACE_URL, f"leadpost-sandbox:lead:{number}"))
        self.all.append({"ProspectID": lead_id, **attributes})
        return str(self.all[-1]["ProspectID"])

    def find(self, name: str, value: Any) -> list[dict[str, Any]]:
        """Return the leads with that value, compared without case, phone numbers by digits."""
        wanted = _plain(name, value)
        return [lead for lead in self.all if name in lead and _plain(name, lead[name]) == wanted]

    def find_or_create(self, attributes: Mapping[str, Any], search_by: str) -> str:
        """Update the first matching lead, or create one, and return its id."""
        if found := self.find(search_by, attributes[search_by]):
            found[0].update(attributes)
            self.updated += 1
            return str(found[0]["ProspectID"])
        self.created += 1
        return self.add(attributes)


def _plain(name: str, value: Any) -> str:
    text = str(value).strip().casefold()
    return re.sub(r"\D", "", text) if name == "Phone" else text
