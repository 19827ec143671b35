"""The rows of a file as entries of an outbox."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from itertools import islice

import typer
from attrs import define, field

from leadpost.activity import Activity
from leadpost.cli.check import number_of
from leadpost.cli.exits import InputError
from leadpost.cli.results import Posted, Result, result_of
from leadpost.cli.rows import Input, Row
from leadpost.errors import DeliveryUncertain
from leadpost.outbox import Entry, EntryState, Outbox

_PART = 2000
_CHUNK = 500
_SHOWN = 20
_WRONG = {
    "changed": "not as it was when it was put into the outbox",
    "pruned": "had a result, and is in the outbox no more",
    "repeated": "has the key of a row before it",
}
"""What a row must not be, by now, and how that is told."""


class FileEntries:
    """
    The entries of one file. Row number n of an input, counted from 1, has the key NAME:n, in the
    file of its rejects too; rows that cannot be posted have no entry.

    A row that did not get through may be corrected, in either file: its entry gets the correction.

    Args:
        outbox: Where they are, open.
        source: The file.
        name: What their keys begin with; None where each row says its own.
    """

    def __init__(self, outbox: Outbox, source: Input, name: str | None) -> None:
        self._outbox = outbox
        self._source = source
        self._name = name

    async def counts(self) -> Counter[EntryState]:
        """Count those of this file in each state."""
        if self._name is not None:
            return Counter(await self._outbox.counts(f"{self._name}:"))
        found = Counter[EntryState]()
        async with aclosing(self.rows()) as rows:
            async for posted in rows:
                if posted.entry is not None:
                    found[posted.entry.state] += 1
        return found

    async def rows(self, first: int = 0) -> AsyncGenerator[Posted]:
        """Read the file, and give each row from number `first` on with its entry if it has one."""
        keyed = islice(self._keyed(), first, None)
        while chunk := list(islice(keyed, _CHUNK)):
            found = await self._outbox.find([key for key, _ in chunk])
            for key, row in chunk:
                yield Posted(row, key, found.get(key))

    async def first_new(self, last: Iterator[Result], if_new: str) -> int:
        """
        Compare the file with what was put of it before.

        The rows of an input are put in their order. So one that was put has no row before it that
        was not, save those that could not be posted.

        Args:
            last: The results of the last run.
            if_new: What the error is to advise for a new file that has the name of an old one.

        Returns:
            The number, from 0, of the first row that is to be put or was corrected.

        Raises:
            InputError: some are not as they were; which, was printed.
        """
        left = 0 if self._name is None else (await self.counts()).total()
        places = {how: _Places() for how in ("new", "corrected", *_WRONG)}
        first = number = 0
        seen = set[str]()
        async with aclosing(self.rows()) as rows:
            async for posted in rows:
                before = result_of(posted, last)
                if self._name is not None and before is None and not left:
                    break
                how = _since(posted, before) if posted.key not in seen else "repeated"
                if self._name is None:
                    seen.add(posted.key)
                elif posted.entry is not None:
                    left -= 1
                    first = number + 1
                    places["changed"].take(places["new"])  # what comes before one put is not new
                if how in places:
                    places[how].add(posted.row, number)
                number += 1
        counts = {how: places[how].count for how in _WRONG} | {"missing": left}
        if any(counts.values()):
            for how, what in _WRONG.items():
                places[how].tell(what)
            raise InputError(self._told(counts, if_new))
        corrected = places["corrected"].first
        return first if corrected is None else min(first, corrected)

    def _told(self, counts: dict[str, int], if_new: str) -> str:
        found = " and ".join(
            f"{number_of(count, 'row')} {how}" for how, count in counts.items() if count
        )
        advice = (
            "What got through, or may have, is posted as it was: take these rows out of this file"
            if self._name is None
            else "What got through, or may have, stays as it was: undo the change, or give changed"
            " rows a file of their own, and post this one with the options that it was posted with."
            f" If this is a new file under an old name: {if_new}"
        )
        return f"{self._source.name}: {found} since an earlier run; nothing was sent. {advice}"

    async def put(self, first: int) -> None:
        """
        Put the rows from number `first` on, and what was corrected of those that were put before.

        It does so in parts, so that a kill loses nothing.

        Raises:
            KeyConflict: another process has sent one of them at this moment.
        """
        async with aclosing(self.rows(first)) as rows:
            async for part in _parts(rows):
                await self._put(part)

    async def _put(self, part: list[Posted]) -> None:
        new = dict[str, Activity]()
        corrected = dict[str, Activity]()
        calls = dict[str, int]()
        for posted in part:
            if posted.row.activity is None:
                continue
            if posted.entry is None:
                new[posted.key] = posted.row.activity
            elif _change(posted.row, posted.row.activity, posted.entry) == "corrected":
                corrected[posted.key] = posted.row.activity
                calls[posted.key] = posted.entry.calls
        await self._outbox.put_many(new.values(), keys=new.keys())
        await self._outbox.correct(corrected, states=_CORRECTABLE, calls=calls)

    def _keyed(self) -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(self._source.rows(), 1):
            key = f"{self._name}:{number}"
            yield row.reject.key if self._name is None and row.reject is not None else key, row


_CORRECTABLE: tuple[EntryState, ...] = ("pending", "failed", "rejected", "uncertain")


async def _parts(rows: AsyncGenerator[Posted]) -> AsyncGenerator[list[Posted]]:
    part = list[Posted]()
    async for posted in rows:
        part.append(posted)
        if len(part) == _PART:
            yield part
            part = []
    if part:
        yield part


def _since(posted: Posted, before: Result | None) -> str:
    """Tell what a row is, with the result that it had before."""
    row, entry = posted.row, posted.entry
    if entry is not None:
        return "as it was" if row.activity is None else _change(row, row.activity, entry)
    had_result = before is not None and before.state != "not_sent"
    was_bad = before is not None and before.was_bad
    if (had_result and not was_bad) or (row.reject is not None and row.reject.calls):
        return "pruned"
    if row.activity is None:
        return "bad"
    return "corrected" if was_bad else "new"


def _change(row: Row, activity: Activity, entry: Entry) -> str:
    """Tell whether the row of an entry is as it was, may be posted as it is now, or may not."""
    if row.reject is not None and row.reject.calls == entry.calls and entry.state in _CORRECTABLE:
        # It was written after the last call, for what became of that: so this is the answer to it.
        same = entry.state == "pending" and activity.to_payload() == entry.payload
        return "as it was" if same else "corrected"
    if activity.to_payload() in (entry.payload, *entry.earlier):
        return "as it was"
    unsent = entry.state == "pending" and entry.error_type != DeliveryUncertain.__name__
    return "corrected" if unsent or entry.state in {"failed", "rejected"} else "changed"


@define
class _Places:
    """Rows of which the first are told by their place."""

    count: int = 0
    first: int | None = None
    shown: list[str] = field(factory=list[str])

    def add(self, row: Row, number: int) -> None:
        self.count += 1
        self.first = number if self.first is None else self.first
        self.show([row.place])

    def take(self, other: "_Places") -> None:
        """Take all of another's over."""
        self.count += other.count
        self.show(other.shown)
        other.count = 0
        other.shown = []

    def show(self, places: Iterable[str]) -> None:
        self.shown = [*self.shown, *places][:_SHOWN]

    def tell(self, what: str) -> None:
        for place in self.shown:
            typer.echo(f"{place}: {what}", err=True)
        if more := self.count - len(self.shown):
            typer.echo(f"… and {more} more", err=True)
