"""
What the account says before anything is sent: who the leads are, and what is wrong with the rows.

Each lead and each activity type is asked for once. All of these calls only read.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Literal

from attrs import define, field
from rich.console import Console

from leadpost import Activity, AsyncActivityPoster, Lead
from leadpost._findings import Finding
from leadpost.bucket import LIMIT
from leadpost.cli.account import naming
from leadpost.cli.console import counting, duration, number_of, say, spoken
from leadpost.cli.exits import InputError
from leadpost.cli.files.cells import Facts, Invalid
from leadpost.cli.files.identity import activity_digest, lead_digest
from leadpost.cli.files.leads import Leads, key_of, parts_of_activity
from leadpost.cli.files.ledger import PART, parts_of
from leadpost.cli.files.plan import FaultGroups, Planned, Rows, count_faults
from leadpost.cli.files.reading import Fault, zone_of
from leadpost.cli.files.rows import Row, Source
from leadpost.errors import (
    ConfigurationError,
    ConnectionFailed,
    LeadpostError,
    OutageTimeout,
    Unauthorized,
)

Mode = Literal["off", "warn", "strict"]
_ALWAYS = {"invalid", "unknown_type", "unknown_field"}
"""The kinds of findings that make a row invalid even if the others are warnings."""
_HOPELESS = (ConfigurationError, ConnectionFailed, OutageTimeout, Unauthorized)
"""Errors that the next call would have too."""


@define(kw_only=True)
class Checks:
    """What one run asks its account."""

    poster: AsyncActivityPoster | None  # asks; None without keys, and nothing is asked then
    mode: Mode = "off"  # which findings make a row invalid; `off` to check nothing
    leads: Leads = field(factory=Leads)
    console: Console = field(factory=lambda: Console(stderr=True))  # where to say how long it takes
    limit: int = LIMIT
    # Whether nothing is going to be sent, so that no lead and no check is asked for.
    is_looking: bool = False
    facts: Facts = field(factory=Facts)
    # What was found and makes no row invalid, by column and kind.
    warnings: FaultGroups = field(factory=FaultGroups)
    unmade: set[str] = field(factory=set[str])  # why something could not be checked
    codes: set[int] = field(factory=set[int])  # the activity types that rows were checked against
    to_find: int = 0
    updates: int = 0  # how many rows change their lead
    _learned: set[str] = field(init=False, factory=set[str])

    async def learn(self) -> bool:
        """Ask for the facts that cells need, and return whether to read the file again."""
        wanted = self.facts.wanted - self._learned
        if not wanted or self.poster is None:
            return False
        self._learned |= wanted
        if "codes" in wanted:
            self.facts.no_name = "no activity type has that name"
            await self._learn_codes(self.poster)
        if "time_zone" in wanted:
            try:
                zone = (await self.poster.user()).time_zone or ""
                zone_of(zone)
                self.facts.time_zone = zone
            except (LeadpostError, InputError):  # then the message goes without it
                self.facts.time_zone = None
        return True

    async def _learn_codes(self, poster: AsyncActivityPoster) -> None:
        try:
            types = await poster.activity_types()
        except LeadpostError as error:
            self.facts.no_name = f"the names of types could not be read: {type(error).__name__}"
            return
        codes: dict[str, list[int]] = {}
        for each in types:
            if each.name and each.code:
                codes.setdefault(" ".join(each.name.split()).casefold(), []).append(each.code)
        self.facts.codes = codes

    async def settle(self, source: Source, rows: Rows) -> None:
        """
        Look up leads, and check rows that the outbox may have to get.

        Raises:
            LeadpostError: no lead can be looked up, as without a connection.
        """
        if self.is_looking:
            return
        leads: dict[tuple[str, str], Lead] = {}
        if source.columns is None or source.columns.are_of_leads:
            async for _, _, activity in _activities(rows, only_leads=True):
                if isinstance(lead := activity.lead, Lead) and self.leads.is_unknown(lead):
                    leads.setdefault(key_of(lead.schema_name, lead.value), lead)
        self.to_find = len(leads)
        if self.poster is None:
            return
        if leads:
            await self._find(self.poster, list(leads.values()))
        if self.mode == "off":
            async for _ in self._settled(source, rows):
                pass
        else:
            await self._check(self.poster, source, rows)

    async def _find(self, poster: AsyncActivityPoster, leads: Sequence[Lead]) -> None:
        seconds = spoken(duration(len(leads), self.limit))
        say(self.console, f"Looking up {number_of(len(leads), 'lead')}: {seconds} at best")

        async def find(lead: Lead) -> None:
            try:
                found = await poster.find_lead(lead.schema_name, lead.value)
            except _HOPELESS:
                raise
            except LeadpostError as error:
                self.leads.found[key_of(lead.schema_name, lead.value)] = error
            else:
                self.leads.found[key_of(lead.schema_name, lead.value)] = found

        async def state() -> str:
            return f"{len(self.leads.found):,} of {number_of(len(leads), 'lead')} looked up"

        with naming(poster.account, sync=True):
            async with counting(self.console, state):
                for part in parts_of(leads, LIMIT):
                    await asyncio.gather(*map(find, part))

    async def _settled(
        self, source: Source, rows: Rows
    ) -> AsyncGenerator[tuple[Planned, Row, Activity]]:
        """Yield rows with what they send, and refuse those that send nothing for want of a lead."""
        only_leads = self.mode == "off"
        async for row, read, activity in _activities(rows, only_leads=only_leads):
            try:
                posted = self.leads.settled(activity)
            except Invalid as error:
                fault = error.fault(_column(source, activity.lead))
                row.refuse([fault])
                continue
            if posted is not activity:
                lead = posted.lead
                lead_id = lead.value if isinstance(lead, Lead) else lead or ""
                self.updates += isinstance(lead, Lead) and lead.schema_name == "ProspectID"
                row.present = activity_digest(posted.to_payload())
                row.lead = lead_digest(lead_id)
            yield row, read, posted

    async def _check(self, poster: AsyncActivityPoster, source: Source, rows: Rows) -> None:
        drawn = deque[tuple[Planned, Row, Activity]]()

        async def activities() -> AsyncGenerator[Activity]:
            async for row, read, activity in self._settled(source, rows):
                drawn.append((row, read, activity))
                yield activity

        async for checked in poster.check(activities(), options=self.mode == "strict"):
            row, read, activity = drawn.popleft()
            self.codes.add(activity.activity_event)
            if faults := self._faults(read, activity, checked.findings, source):
                row.refuse(faults)

    def _faults(
        self, read: Row, activity: Activity, findings: Iterable[Finding], source: Source
    ) -> list[Fault]:
        """Return the findings that make a row invalid, and count the others."""
        faults: list[Fault] = []
        for finding in findings:
            if finding.kind == "unchecked":
                self.unmade.add(str(finding))
                continue
            fault = _fault_of(finding, activity, source)
            if self.mode == "strict" or finding.kind in _ALWAYS:
                faults.append(fault)
            else:
                count_faults(self.warnings, [fault], read.place)
        return faults


async def _activities(
    rows: Rows, *, only_leads: bool
) -> AsyncGenerator[tuple[Planned, Row, Activity]]:
    for number, (row, read) in enumerate(rows.read(lambda row: row.is_open)):
        if read.payload and (not only_leads or "LeadDetails" in read.payload):
            yield row, read, Activity.from_payload(read.payload)
        if number % PART == 0:
            await asyncio.sleep(0)  # a signal is heard


def _column(source: Source, lead: Any) -> str:
    name = f"Lead.{lead.schema_name}"
    return source.columns.heading_of(name) if source.columns else name


def _fault_of(finding: Finding, activity: Activity, source: Source) -> Fault:
    """Return a finding as a fault: the same words for the same kind."""
    what, _, remedy = finding.message.partition("; ")
    if finding.kind in {"too_long", "long_note"}:
        what, remedy = "is too long", finding.message
    value = parts_of_activity(activity.to_payload()).get(finding.field)
    if finding.kind in {"unknown_type", "unknown_field"}:
        value = None  # it is not what is wrong
    column = source.columns.heading_of(finding.field) if source.columns else finding.field
    return Fault(column, str(value or ""), what.replace("wanted a", "is not a", 1), remedy)
