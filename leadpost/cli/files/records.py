"""What a snapshot yields: its rows, what became of each, and what is wrong with them."""

import json
from typing import Any

from attrs import field, frozen

from leadpost.cli.files.plan import Verdict
from leadpost.cli.files.reading import Fault
from leadpost.cli.files.rows import place_of


@frozen
class Stored:
    """
    A row of the snapshot.

    Attributes:
        pos: Its place in the file, from 0.
        line, item, digest, own: As those of a `Row`.
        lead: The digest of its lead.
        lead_id: The lead.
        faults: Why it cannot be posted, as JSON; None if it can.
        letters: The key that a rejects file has for it.
        known: The number of the row of an earlier run that it is, None if it is new.
        verdict: What is done with it.
        number: What a new row is among those of the same digest, from 1; other runs of the same
            file give it the same one.
        present: The digest of what it sends: another one where a lead was looked up.
    """

    pos: int
    line: int
    item: int | None
    digest: str
    lead: str
    lead_id: str
    own_json: str = field(repr=False)
    faults: str | None = field(repr=False)
    letters: str | None
    known: int | None
    verdict: Verdict
    number: int | None = None
    present: str = ""

    @property
    def place(self) -> str:
        return place_of(self.line, self.item)

    @property
    def is_valid(self) -> bool:
        return self.faults is None

    @property
    def own(self) -> Any:
        return json.loads(self.own_json)


@frozen
class Outcome:
    """
    What became of a row.

    Attributes:
        line: Its line.
        lead_id: The lead.
        state: `accepted`, `succeeded`, `uncertain`, `rejected`, `failed`, `invalid`, `skipped` or
            `not_sent`.
        request_id, activity_id: LeadSquared's.
        error: The name of the error class.
        message: The same in words.
        faults: Why it cannot be posted, as JSON.
        own_json: What stands there, as JSON.
        letters: Its key in rejects files, None if it is not known.
        is_to_fix: Whether LeadSquared does not have it, and will not have it as it is.
    """

    line: int
    lead_id: str
    state: str
    request_id: str | None
    activity_id: str | None
    error: str | None
    message: str | None = field(repr=False)
    faults: str | None = field(repr=False)
    own_json: str = field(repr=False)
    letters: str | None
    is_to_fix: bool

    @property
    def own(self) -> Any:
        return json.loads(self.own_json)

    @property
    def reason(self) -> str:
        """Why it is not on the lead, on one line; "" if there is nothing to say."""
        if self.state == "invalid":
            faults = json.loads(self.faults or "[]")
            return "; ".join(str(Fault(*parts)) for parts in faults)
        return " ".join((self.message or self.error or "").split())


@frozen
class FaultGroup:
    """Faults of the same kind: the first, where it is, and how many rows have one."""

    fault: Fault
    place: str
    rows: int
