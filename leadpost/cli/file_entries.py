"""The rows of a file as entries of an outbox."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from itertools import islice

import typer
from attrs import define, field

from leadpost.activity import Activity
from leadpost.cli.check import number_of
from leadpost.cli.exits import InputError
from leadpost.cli.rows import Input, Row
from leadpost.outbox import Entry, EntryState, Outbox

_PART = 2000
_CHUNK = 500
_SHOWN = 20


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

    async def known(self, if_new: str) -> int:
        """
        Compare the file with what was put of it before.

        Rows are put in their order. So one that was put has no row before it that was not, save
        those that could not be posted then and still cannot.

        Args:
            if_new: What the error is to advise for a new file that has the name of an old one.

        Returns:
            How many rows of the file were taken up before.

        Raises:
            InputError: some are not as they were; which, was printed.
        """
        left = sum((await self.counts()).values())
        known, changed, new = 0, _Places(), _Places()
        async with aclosing(self.rows()) as rows:
            number = 0
            while left and (found := await anext(rows, None)):
                row, entry = found
                number += 1
                if entry is not None:
                    left -= 1
                    known = number
                    changed.take(new)  # what comes before a row that was put is not new
                    if row.activity is None or row.activity.to_payload() != entry.payload:
                        changed.add(row)
                elif row.activity is not None:
                    new.add(row)
        if changed.count or left:
            changed.tell("not as it was when it was put into the outbox")
            counts = (changed.count, "changed"), (left, "missing")
            what = " and ".join(
                f"{number_of(count, 'row')} {how}" for count, how in counts if count
            )
            raise InputError(
                f"{self._source.name}: {what} since an earlier run; nothing was sent. Give changed"
                " rows a file of their own (as the rejects have one) and leave this one, and the"
                " options that it was posted with, as they were. If this is a new file under an old"
                f" name: {if_new}"
            )
        return known

    async def put(self, known: int) -> None:
        """Put all rows but the first `known`, in parts, so that a kill loses nothing."""
        numbered = islice(enumerate(self._source.rows()), known, None)
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


@define
class _Places:
    """Rows of which the first are told by their place."""

    count: int = 0
    shown: list[str] = field(factory=list[str])

    def add(self, row: Row) -> None:
        self.count += 1
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
