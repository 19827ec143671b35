"""The rows of a file as entries of an outbox."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any

import typer
from attrs import define, field

from leadpost._batch import Item
from leadpost._models import Activity
from leadpost.cli.check import number_of
from leadpost.cli.compare import (
    OPEN,
    STANDING,
    WRONG,
    How,
    is_as_posted,
    of_input,
    of_rejects,
)
from leadpost.cli.exits import InputError
from leadpost.cli.results import Posted, Result, comparable
from leadpost.cli.rows import Input, Row
from leadpost.cli.versions import Version
from leadpost.errors import KeyConflict
from leadpost.outbox import Entry, EntryState, Outbox

_PART = 2000
_CHUNK = 500
_SHOWN = 20


class FileEntries:
    """
    The entries of one file. Row number n of an input, counted from 0, has the key NAME:n, in the
    file of its rejects too; rows that cannot be posted have no entry, until they were from there.

    A row that did not get through may be corrected, in either file: its entry gets the correction.

    Args:
        outbox: Where they are, open.
        identity: Of that.
        source: The file.
        name: What their keys begin with.
        are_rejects: Whether each row says its own key.
        latest: What the bad rows of the input were in its last results, by key, where these are
            its rejects.

    Attributes:
        more: The fields of rows that were corrected elsewhere, for which the file has no place.
        in_doubt: How many rows are posted again though they may have arrived.
    """

    def __init__(
        self,
        outbox: Outbox,
        identity: str,
        source: Input,
        name: str,
        *,
        are_rejects: bool,
        latest: Mapping[str, Version] = MappingProxyType({}),
    ) -> None:
        self.more: list[str] = []
        self.in_doubt = 0
        self._outbox = outbox
        self._identity = identity
        self._source = source
        self._name = name
        self._are_rejects = are_rejects
        self._latest = latest
        self._keys = dict[str, None]()  # of rejects, which may be in an edited file
        self._corrected = dict[str, Version]()  # what they were when they were compared

    @property
    def corrected(self) -> int:
        """How many rows are corrections of what was put before."""
        return len(self._corrected)

    async def counts(self) -> Counter[EntryState]:
        """Count those of this file in each state; of rejects, those that were compared."""
        if self._are_rejects:
            return Counter(await self._outbox.counts(keys=list(self._keys)))
        return Counter(await self._outbox.counts(f"{self._name}:"))

    async def rows(self, first: int = 0) -> AsyncGenerator[Posted]:
        """Read the file, and give each row from number `first` on with its entry if it has one."""
        number = first
        keyed = islice(self._keyed(), first, None)
        while chunk := list(islice(keyed, _CHUNK)):
            found = await self._outbox.find([key for key, _ in chunk])
            for key, row in chunk:
                yield self._posted(key, row, found.get(key))
                number += 1
        if self._are_rejects and number < len(self._keys):
            raise self._was_changed()

    def _posted(self, key: str, row: Row, entry: Entry | None) -> Posted:
        version_of = partial(Version.of, self._identity, key, sends_empty=row.sends_empty)
        first = self._version_in(key, row) or version_of(0, self._source.standing(row))
        version = first if entry is None else version_of(entry.calls, entry.payload)
        content = None if row.activity is None else comparable(row.activity.to_payload())
        return Posted(row, key, entry, version, first.content, content)

    async def compare(self, results: Iterator[Result], if_new: str) -> int:
        """
        Compare the file with what was put of it before.

        The rows of an input are put in their order. So one that was put has no row before it that
        was not, save those that could not be posted.

        Args:
            results: Of the last run.
            if_new: What the error is to advise for a new file that has the name of an old one.

        Returns:
            The number, from 0, of the first row that is to be put or was corrected.

        Raises:
            InputError: some are not as they were; which, was printed.
        """
        # Rows of rejects come and go; those of an input stay in their places.
        last = {each.key: each for each in results} if self._are_rejects else results
        left = 0 if self._are_rejects else (await self.counts()).total()
        told: tuple[How, ...] = ("new", "corrected", *WRONG)
        places = {how: _Places() for how in told}
        first = number = 0
        async with aclosing(self.rows()) as rows:
            async for posted in rows:
                before = self._before(posted, last)
                if not self._are_rejects and before is None and not left:
                    break
                how = self._since(posted, before)
                if posted.entry is not None and not self._are_rejects:
                    left -= 1
                    first = number + 1
                    places["untold"].take(places["new"])  # what comes before one put is not new
                if how in places:
                    places[how].add(posted.row, number)
                self._remember(posted, how)
                number += 1
        wrong: list[How] = [how for how in WRONG if places[how].count > 0]
        if wrong or (left and not self._are_rejects):
            for how in wrong:
                places[how].tell(WRONG[how][1])
            found = [f"{number_of(places[how].count, 'row')} {WRONG[how][0]}" for how in wrong]
            if left and not self._are_rejects:
                found.append(f"{number_of(left, 'row')} missing since an earlier run")
            advice = self._advice(set(wrong), if_new)
            raise InputError(
                f"{self._source.name}: {' and '.join(found)}; nothing was sent. {advice}"
            )
        if self._are_rejects:
            return 0
        corrected = places["corrected"].first
        return first if corrected is None else min(first, corrected)

    def _before(
        self, posted: Posted, last: Mapping[str, Result] | Iterator[Result]
    ) -> Result | None:
        """Give what the last run made of a row; None where that was of another outbox."""
        found = last.get(posted.key) if isinstance(last, Mapping) else next(last, None)
        if found is None or found.key != posted.key or found.version is None:
            return None
        return found if found.version.is_of(self._identity, posted.key) else None

    def _since(self, posted: Posted, before: Result | None) -> How:
        """Tell what a row is, with the result that it had before."""
        if not self._are_rejects:
            return of_input(posted, before)
        if posted.key in self._keys:
            return "repeated"
        version = self._version_in(posted.key, posted.row)
        return of_rejects(posted, before, version, self._latest.get(posted.key))

    def _version_in(self, key: str, row: Row) -> Version | None:
        """Tell what a row of rejects was; None if it is none of this outbox."""
        version = None if row.reject is None else Version.read(row.reject.version)
        return version if version and version.is_of(self._identity, key) else None

    def _remember(self, posted: Posted, how: How) -> None:
        if self._are_rejects:
            self._keys[posted.key] = None
        if how == "corrected" or (how == "new" and self._are_rejects):
            self._corrected[posted.key] = posted.version
            self.in_doubt += posted.entry is not None and posted.entry.state == "uncertain"
        if payload := posted.posted_otherwise:
            self.more += [
                name for name in self._source.fields_beyond(payload) if name not in self.more
            ]

    def _advice(self, wrong: set[How], if_new: str) -> str:
        name = self._name
        advice = (
            "What got through, or may have, or was put or sent from elsewhere, is not sent from"
            f" here: take these rows out, or move this file away and post {name} again, which"
            " writes anew what is left of it"
            if self._are_rejects
            else "What got through, or may have, stays as it was: put it back as it stood (posted"
            " from another file, it would be on the lead twice), and give the options that were"
            f" given then. If this is a new file under an old name: {if_new}"
        )
        if "pruned" in wrong:
            return f"What became of pruned rows, only the results of {name} tell. {advice}"
        return advice

    async def put(self, first: int) -> None:
        """
        Put the rows from number `first` on, and what was corrected of those that were put before.

        It does so in parts, so that a kill loses nothing.

        Raises:
            InputError: another process has sent one of them since they were compared.
        """
        async with aclosing(self.rows(first)) as rows:
            async for part in _parts(rows):
                await self._put(part)

    async def _put(self, part: list[Posted]) -> None:
        new = dict[str, Activity]()
        corrected = dict[str, Item]()
        originals = dict[str, Mapping[str, Any]]()
        for posted in part:
            key, activity, entry = posted.key, posted.row.activity, posted.entry
            if activity is None:
                continue
            if key not in self._corrected:
                if entry is None:
                    new[key] = activity
                continue
            as_posted = entry is not None and is_as_posted(posted, entry)
            corrected[key] = entry.payload if entry and as_posted else activity
            if not self._are_rejects:
                originals[key] = activity.to_payload()
            elif entry is None:
                originals[key] = {STANDING: posted.standing}
            if self._corrected[key] != posted.version:
                raise self._was_outrun([key])
        calls = {key: self._corrected[key].calls for key in corrected}
        try:
            await self._outbox.put_many(new.values(), keys=new.keys())
            await self._outbox.correct(corrected, states=OPEN, calls=calls, originals=originals)
        except KeyConflict as conflict:
            raise self._was_outrun(conflict.keys) from None

    def _was_outrun(self, keys: Iterable[str]) -> InputError:
        return InputError(
            f"{self._source.name}: another process has just put or sent some of the rows"
            f" ({', '.join(keys)}): run the same command again"
        )

    def _keyed(self) -> Iterator[tuple[str, Row]]:
        for number, row in enumerate(self._source.rows()):
            if not self._are_rejects:
                yield f"{self._name}:{number}", row
            elif row.reject is not None and row.reject.name == self._name:
                yield row.reject.key, row
            else:
                raise self._was_changed()

    def _was_changed(self) -> InputError:
        return InputError(
            f"{self._source.name}: it was changed while it was posted; what became of it is told by"
            f" the next run of {self._name}"
        )


async def _parts(rows: AsyncGenerator[Posted]) -> AsyncGenerator[list[Posted]]:
    part = list[Posted]()
    async for posted in rows:
        part.append(posted)
        if len(part) == _PART:
            yield part
            part = []
    if part:
        yield part


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
