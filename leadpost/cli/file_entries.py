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
from leadpost.cli.outbox_url import url_of
from leadpost.cli.outputs import RowsFile
from leadpost.cli.results import Result
from leadpost.cli.rows import Input, Row
from leadpost.outbox import Entry, EntryState, Outbox

_PART = 2000
_CHUNK = 500
_SHOWN = 20
_WRONG = {
    "changed": "not as it was when it was put into the outbox",
    "pruned": "had a result, and is in the outbox no more",
    "corrected twice": "corrected here, and the rejects were posted too",
}
"""What a row must not be, by now, and how that is told."""


class FileEntries:
    """
    The entries of one file. Row number n, counted from 0, has the key NAME:n; rows that cannot be
    posted have no entry.

    Args:
        outbox: Where they are, open.
        name: What their keys begin with.
        source: The file.
    """

    def __init__(self, outbox: Outbox, name: str, source: Input) -> None:
        self._outbox = outbox
        self._prefix = f"{name}:"
        self._source = source

    async def counts(self) -> dict[EntryState, int]:
        """Count those of this file in each state."""
        return await self._outbox.counts(self._prefix)

    async def rows(self) -> AsyncGenerator[tuple[Row, Entry | None]]:
        """Read the file, and give each row with its entry if it has one."""
        numbered = enumerate(self._source.rows())
        while chunk := [(self._key(number), row) for number, row in islice(numbered, _CHUNK)]:
            found = await self._outbox.find([key for key, _ in chunk])
            for key, row in chunk:
                yield row, found.get(key)

    async def first_new(self, last: Iterator[Result], if_new: str, *, rejects_posted: bool) -> int:
        """
        Compare the file with what was put of it before.

        Rows are put in their order. So one that was put has no row before it that was not, save
        those that could not be posted. Where such a one was corrected since, it is new: nothing was
        ever sent for it, unless its reject was.

        Args:
            last: The results of the last run.
            if_new: What the error is to advise for a new file that has the name of an old one.
            rejects_posted: Whether the rejects were posted, as a file of their own.

        Returns:
            The number of the first row that is to be put.

        Raises:
            InputError: some are not as they were; which, was printed.
        """
        left = sum((await self.counts()).values())
        places = {how: _Places() for how in ("new", "corrected", *_WRONG)}
        first = number = 0
        async with aclosing(self.rows()) as rows:
            async for row, entry in rows:
                before = next(last, None)
                if before is None and not left:
                    break
                how = _since(row, entry, before)
                if entry is not None:
                    left -= 1
                    first = number + 1
                    places["changed"].take(places["new"])  # what comes before one put is not new
                if how == "corrected" and rejects_posted:
                    how = "corrected twice"
                if how in places:
                    places[how].add(row, number)
                number += 1
        counts = {how: places[how].count for how in _WRONG} | {"missing": left}
        if any(counts.values()):
            for how, what in _WRONG.items():
                places[how].tell(what)
            found = " and ".join(
                f"{number_of(count, 'row')} {how}" for how, count in counts.items() if count
            )
            advice = (
                "Give changed rows a file of their own (as the rejects have one) and leave this"
                " one, and the options that it was posted with, as they were. If this is a new file"
                f" under an old name: {if_new}"
            )
            if counts["corrected twice"] == sum(counts.values()):
                advice = (
                    "What was posted of the rejects counts: undo the change of these rows here, and"
                    " give those that were not posted there a file of their own"
                )
            raise InputError(
                f"{self._source.name}: {found} since an earlier run; nothing was sent. {advice}"
            )
        corrected = places["corrected"].first
        return first if corrected is None else min(first, corrected)

    async def put(self, first: int) -> None:
        """
        Put the rows from number `first` on, in parts, so that a kill loses nothing.

        Those that are there already stay as they are.
        """
        numbered = islice(enumerate(self._source.rows()), first, None)
        while part := list(islice(numbered, _PART)):
            activities: list[Activity] = []
            keys: list[str] = []
            for number, row in part:
                if row.activity is not None:
                    activities.append(row.activity)
                    keys.append(self._key(number))
            await self._outbox.put_many(activities, keys=keys)

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number}"


async def posted_since(part: RowsFile, outbox: Outbox, url: str) -> Counter[str]:
    """
    Count what became of the rows of a file of rejects, if it was posted by itself.

    Args:
        part: The file.
        outbox: The outbox of its input, where they are if it was posted with that.
        url: The URL of that outbox.

    Raises:
        OutboxError: the outbox beside the file cannot be used.
    """
    prefix = f"{part.path.name}:"
    found = Counter[str](await outbox.counts(prefix))
    if part.outbox.exists() and url_of(str(part.outbox)) != url:
        async with Outbox(url_of(str(part.outbox))) as own:
            found.update(await own.counts(prefix))
    found["accepted"] += found.pop("succeeded")
    return +found


def _since(row: Row, entry: Entry | None, before: Result | None) -> str:
    """Tell what a row is, with the result that it had before."""
    if entry is not None:
        same = row.activity is not None and row.activity.to_payload() == entry.payload
        return "as it was" if same else "changed"
    if row.activity is None:
        return "bad"
    if before is None or before.state == "not_sent":
        return "new"
    return "corrected" if before.was_bad else "pruned"


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
