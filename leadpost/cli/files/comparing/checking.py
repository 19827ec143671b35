"""
What the account says before anything is sent: who the leads are, and what is wrong with the rows.

Each lead and each activity type is asked for once. All of these calls only read.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import suppress
from itertools import starmap
from typing import Any, Literal

from attrs import define, field
from rich.console import Console

from leadpost import ActivityType, AsyncActivityPoster
from leadpost._availability import queries_fail
from leadpost._findings import Finding, TypeCheck
from leadpost._validation import name_of
from leadpost.bucket import LIMIT
from leadpost.cli.account import naming
from leadpost.cli.console import at_best, counting, number_of, say
from leadpost.cli.exits import InputError
from leadpost.cli.files.comparing.leads import Key, Leads
from leadpost.cli.files.comparing.ledger import PART, parts_of
from leadpost.cli.files.comparing.plan import READ, Rows
from leadpost.cli.files.reading.cells import AccountFacts, Invalid, key_of_name
from leadpost.cli.files.reading.identity import activity_digest
from leadpost.cli.files.reading.lead_columns import activity_of, column_of_lead, parts_of_activity
from leadpost.cli.files.reading.row import SENT, Problem, ProblemGroups, Row, count_problems
from leadpost.cli.files.reading.settings import zone_of
from leadpost.cli.files.reading.sources import Source
from leadpost.errors import (
    ConfigurationError,
    ConnectionFailed,
    LeadpostError,
    NotFound,
    Unauthorized,
)

Mode = Literal["off", "warn", "strict"]
_ALWAYS = {"invalid", "unknown_type", "unknown_field"}
"""The kinds of findings that make a row invalid even if the others are warnings."""
_HOPELESS = (ConfigurationError, ConnectionFailed, NotFound, Unauthorized)
"""Errors that the next call would have too."""


@define(kw_only=True)
class Checks:
    """The queries of one run to its account."""

    poster: AsyncActivityPoster | None  # asks; None without keys, and nothing is asked then
    mode: Mode = "off"  # which findings make a row invalid; `off` to check nothing
    leads: Leads = field(factory=Leads)
    console: Console = field(factory=lambda: Console(stderr=True))  # where to say how long it takes
    limit: int = LIMIT
    facts: AccountFacts = field(factory=AccountFacts)
    # What was found and makes no row invalid, by column and kind.
    warnings: ProblemGroups = field(factory=ProblemGroups)
    unmade: set[str] = field(factory=set[str])  # why something could not be checked
    # By their codes, the activity types that rows were checked against.
    types: dict[int, TypeCheck] = field(factory=dict[int, TypeCheck])
    to_find: int = 0
    updates: int = 0  # how many rows change their lead
    _learned: set[str] = field(init=False, factory=set[str])

    async def learn(self) -> bool:
        """Ask for the facts that cells need, and return whether to read the file again."""
        facts = self.facts
        wanted = facts.wanted - self._learned
        if not wanted or self.poster is None:
            return False
        self._learned |= wanted
        if "codes" in wanted:
            try:
                facts.codes = _codes_by_name(await self.poster.activity_types())
                facts.no_name = "no activity type has that name"
            except LeadpostError as error:
                facts.no_name = f"the names of types could not be read: {type(error).__name__}"
        if "time_zone" in wanted:
            with suppress(LeadpostError, InputError):  # then the message goes without it
                zone = (await self.poster.user()).time_zone or ""
                zone_of(zone)
                facts.time_zone = zone
        return True

    async def settle(self, source: Source, rows: Rows) -> None:
        """
        Look up leads, and check rows that the outbox may have to get.

        Raises:
            LeadpostError: no lead can be looked up, as without a connection or in an outage.
        """
        leads: dict[Key, str] = {}
        if source.columns.are_of_leads:
            async for row in _drawn(rows):
                if lead := self.leads.to_find(row.payload or {}):
                    leads.setdefault(lead.key, lead.value)
        self.to_find = len(leads)
        if self.poster is None:
            return
        if leads:
            await self._find(self.poster, leads)
        if self.mode != "off" or source.columns.are_of_leads:
            with self.console.status(f"Checking {number_of(len(rows), 'row')}"):
                await self._check(self.poster, source, rows)

    async def settle_decided(self, rows: Rows) -> None:
        """Find out which leads rows create, and count rows that change theirs, once decided."""
        async for row in _drawn(rows, "true" if self.leads.found else "false"):
            with suppress(Invalid):
                is_change = self.leads.changes(self.leads.settled(row))
                self.updates += is_change and row.decision in SENT

    async def _find(self, poster: AsyncActivityPoster, leads: Mapping[Key, str]) -> None:
        found = self.leads.found
        count = number_of(len(leads), "lead")
        say(self.console, f"Looking up {count}: {at_best(len(leads), self.limit)}")

        async def find(key: Key, value: str) -> None:
            try:
                found[key] = await poster.find_lead(key[0], value)
            except _HOPELESS:
                raise
            except LeadpostError as error:
                found[key] = error
                if queries_fail(found.values()):
                    why = "in three look-ups in a row, so nothing was sent"
                    error.add_note(f"({why}; run the same command again later)")
                    raise

        async def state() -> str:
            return f"{len(found):,} of {count} looked up"

        with naming(poster.account, sync=True):
            async with counting(self.console, state):
                for part in parts_of([*leads.items()], LIMIT):
                    # Those in flight end before the first error is raised, and the poster closed.
                    ends = await asyncio.gather(*starmap(find, part), return_exceptions=True)
                    for error in filter(None, ends):
                        raise error

    async def _check(self, poster: AsyncActivityPoster, source: Source, rows: Rows) -> None:
        """Refuse rows that have no lead or, unless that is off, contradict their types."""
        async for row in _drawn(rows):
            before = row.digest_sent, row.problems
            try:
                payload = self.leads.settled(row)
            except Invalid as error:
                heading = source.columns.heading_of(column_of_lead(row.payload or {}))
                row.problems += (Problem(heading, *error.args),)
            else:
                if payload is not row.payload and not row.problems:
                    row.digest_sent = activity_digest(payload)
                if self.mode != "off":
                    row.problems += await self._problems(poster, source, payload, row.place)
            if (row.digest_sent, row.problems) != before:
                rows.write([row])

    async def _problems(
        self, poster: AsyncActivityPoster, source: Source, payload: Mapping[str, Any], place: str
    ) -> tuple[Problem, ...]:
        """Return the findings that refuse an activity, and keep the others."""
        # Rows are valid already, so that `AsyncActivityPoster.check` would do that work again.
        type_check = poster._type_check  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
        activity, is_strict = activity_of(payload), self.mode == "strict"
        check = await type_check(self.types, activity["ActivityEvent"], options=is_strict)
        fields = {str(name_of(item)): item for item in activity.get("Fields") or ()}
        problems: list[Problem] = []
        for finding in check.findings(activity.get("ActivityNote"), fields):
            problem = _problem_of(finding, payload, source)
            if finding.kind == "unchecked":
                self.unmade.add(str(finding))
            elif is_strict or finding.kind in _ALWAYS:
                problems.append(problem)
            else:
                count_problems(self.warnings, [problem], place)
        return tuple(problems)


async def _drawn(rows: Rows, where: str = READ) -> AsyncGenerator[Row]:
    """Yield rows, by default those that may be sent, once a time zone is named."""
    for number, row in enumerate(rows.read(where)):
        yield row
        if number % PART == 0:
            await asyncio.sleep(0)  # a signal is heard


def _codes_by_name(types: Iterable[ActivityType]) -> dict[str, list[int]]:
    codes: dict[str, list[int]] = {}
    for each in types:
        if each.name and each.code:
            codes.setdefault(key_of_name(each.name), []).append(each.code)
    return codes


def _problem_of(finding: Finding, payload: Mapping[str, Any], source: Source) -> Problem:
    """Return a finding as a problem: the same words for the same kind."""
    what, _, remedy = finding.message.partition("; ")
    value = parts_of_activity(payload).get(finding.field) or ""
    if finding.kind in {"unknown_type", "unknown_field"}:
        value = ""  # it is not what is wrong
    column = source.columns.heading_of(finding.field)
    return Problem(column, str(value), what, remedy)
