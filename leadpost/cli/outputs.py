"""What a run leaves behind: its results, its rejects, and what is in doubt."""

import filecmp
import os
from collections import Counter
from collections.abc import AsyncIterable, Callable, Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import typer

from leadpost.cli.exits import InputError
from leadpost.cli.inputs import opened
from leadpost.cli.results import COLUMNS, Posted, Result, csv_line, results_in
from leadpost.cli.rows import KEY, REASON, VERSION, Input
from leadpost.cli.versions import Version

_STATES = {"rejects": {"rejected", "failed"}, "uncertain": {"uncertain"}}
"""Which rows belong into which file."""


class Outputs:
    """
    The files of one input: BASE.results.csv, BASE.rejects.* and BASE.uncertain.*, where BASE is the
    name of the input. They are written anew from the outbox by each run; what the user edited of
    rejects and uncertain is not overwritten.

    What may have arrived is no reject, and neither is what has not been sent yet: posted again,
    they might be there twice.

    Args:
        base: What the names begin with.
        source: The input, whose form the rejects have.

    Attributes:
        base: What the names begin with.
        paths: Their names.
        parts: Rejects and uncertain.
        counts: How many rows are in which state.
        to_correct: How many of the rejects have to be corrected; the others are good as they are.

    Raises:
        InputError: one of them is the input itself, or there is no writing them.
    """

    def __init__(self, base: str, source: Input) -> None:
        self.base = base
        self.results = Path(f"{base}.results.csv")
        self.rejects, self.uncertain = self.parts = tuple(
            RowsFile(Path(f"{base}.{name}{source.suffix}"), source, states)
            for name, states in _STATES.items()
        )
        self.paths = (self.results, self.rejects.path, self.uncertain.path)
        self.counts = Counter[str]()
        self.to_correct = 0
        self._anew = False
        folder = self.results.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(
                f"{folder}: found no folder that this user may write to, wanted one for the"
                " results: choose an --output-base"
            )
        if source.name != "-" and any(
            path.exists() and path.samefile(source.name) for path in self.paths
        ):
            raise InputError(f"{source.name} would be overwritten: choose an --output-base")

    def begin(self, name: str, *, known: bool, force: bool) -> None:
        """
        See that what stands under their names is of this file, or begin anew.

        Args:
            name: What the keys of its entries begin with.
            known: Whether it has any.
            force: Whether what is of another file is replaced.

        Raises:
            InputError: something is, and is not to be replaced.
        """
        names, were_bad = set[str](), set[bool]()
        for result in self.last():
            names.add(result.key.rpartition(":")[0])
            were_bad.add(result.was_bad)
        if names - {name, ""}:
            whose = "of another file, or of this one under another name"
        elif known or were_bad == {True}:
            return
        else:
            whose = "and this outbox knows nothing of it"
        self._anew = True
        found = [str(path) for path in self.paths if path.exists()]
        if found and not force:
            raise InputError(
                f"{', '.join(found)}: there already, {whose}. If the file was posted before, give"
                " the --outbox and --output-base of that run: else all of it is posted once more."
                " For what is new, choose another --output-base, or --force, which replaces them"
            )

    def last(self) -> Generator[Result]:
        """Give the results of the last run, in the order of the rows, as far as they tell."""
        if not self._anew and self.results.is_file():
            with suppress(InputError):  # the user may have made something else of them
                yield from results_in(self.results)

    async def write(self, rows: AsyncIterable[Posted], more: Sequence[str]) -> None:
        """
        Write them, each all at once for whoever reads it.

        Args:
            rows: All rows.
            more: The fields for which the input has no place, of rows corrected elsewhere.

        Raises:
            OSError: they cannot be written; the outbox still has everything.
        """
        written = _time_of(self.results)
        with ExitStack() as stack:
            results = stack.enter_context(replacing(self.results))
            parts = [
                (part, stack.enter_context(part.open(written, more, anew=self._anew)))
                for part in self.parts
            ]
            results.write(csv_line(*COLUMNS))
            async for row in rows:
                result = Result.of(row)
                self.counts[result.state] += 1
                self.to_correct += result.to_correct
                results.write(result.line(row))
                for part, file in parts:
                    part.take(file, row, result)
        written = _time_of(self.results)
        for part in self.parts:
            part.stamp(written)


class RowsFile:
    """
    Some rows of the input with a reason each; there is no file if there are no such rows.

    A row that was corrected elsewhere stands there as it was posted last.

    What the user edited since it was written is told by the time of the file: as written, it has
    the very time of the results. If all rows that belong there are in the edited file, in their
    latest version, that stays: it is the one to post. Else it is kept under another name.

    Args:
        path: Its name.
        source: The input, whose form it has.
        states: Which rows belong there.

    Attributes:
        count: How many rows belong there.
    """

    def __init__(self, path: Path, source: Input, states: Collection[str]) -> None:
        self.path = path
        self.count = 0
        self._source = source
        self._states = states
        self._more: Sequence[str] = ()
        self._there = set[tuple[str, Version | None]]()  # in the edited file
        self._lacks = False
        self._stays = False

    @contextmanager
    def open(self, written: int | None, more: Sequence[str], *, anew: bool) -> Generator[IO[bytes]]:
        """
        Write it.

        Args:
            written: The time of the last run's results, in ns; None if there are none.
            more: Fields for which the input has no place.
            anew: Whether what is there under its name is of another file.
        """
        is_edited = self.path.is_file() and _time_of(self.path) != written
        if is_edited:
            self._there = _rejects_in(self.path)
        self._lacks = anew
        self._more = more

        def stays(new: Path) -> bool:
            nonlocal is_edited
            if not is_edited and self.path.is_file() and _time_of(self.path) != written:
                is_edited = self._lacks = True  # meanwhile, with nobody knows what
            if is_edited and not filecmp.cmp(new, self.path, shallow=False):
                self._stays = not self._lacks
                self._tell_edited()
            return self._stays

        with replacing(self.path, stays) as file:
            file.write(self._source.head(more))
            yield file
        if not self.count and not self._stays:
            self.path.unlink()

    def take(self, file: IO[bytes], row: Posted, result: Result) -> None:
        """Add a row if it belongs there."""
        if result.state in self._states:
            reason = f"{result.error_type}: {result.message}".removeprefix(": ")
            added = {REASON: reason, KEY: row.key, VERSION: str(row.version)}
            payload = row.posted_otherwise
            if payload and not set(self._source.fields_beyond(payload)) <= set(self._more):
                raise InputError(
                    f"{self.path}: a row was corrected by another process meanwhile, and has a"
                    " field more: run the same command again"
                )
            file.write(self._source.written(row.row, added, self._more, payload))
            self.count += 1
            self._lacks |= (row.key, row.version) not in self._there

    def stamp(self, time: int | None) -> None:
        """Give it the time of the results, unless it is as the user made it."""
        if self.count and time is not None and not self._stays:
            with suppress(OSError):  # a share may not allow it: then it counts as edited
                os.utime(self.path, ns=(time, time))

    def _tell_edited(self) -> None:
        if self._stays:
            done = "" if self.count else ", though no row belongs there any more: it may go"
            typer.echo(f"{self.path} seems edited: left as it is{done}", err=True)
            return
        names = (self.path.with_suffix(f".{number}{self.path.suffix}") for number in count(1))
        kept = next(path for path in names if not path.exists())
        self.path.rename(kept)
        what = "seems edited, and lacks rows that belong there, or their latest version"
        typer.echo(f"{self.path} {what}: kept as {kept}", err=True)


def _rejects_in(path: Path) -> set[tuple[str, Version | None]]:
    """Tell which rows a file has that the user edited; none if it is none any more."""
    try:
        with opened(str(path), None, None, send_empty=False) as source:
            rejects = [row.reject for row in source.rows() if row.reject is not None]
            return {(reject.key, Version.read(reject.version)) for reject in rejects}
    except InputError:
        return set()


@contextmanager
def replacing(path: Path, stays: Callable[[Path], bool] = lambda _: False) -> Generator[IO[bytes]]:
    """
    Write a file under another name, and put it in its place when it is complete.

    It holds personal data, so from the beginning no other user may read it.

    Args:
        path: Its place.
        stays: Asked when the new file is complete, whether what is there stays all the same.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    with NamedTemporaryFile(
        dir=path.parent, prefix=f"{path.name}.", suffix=".tmp", delete=False
    ) as file:
        new = Path(file.name)
        try:
            yield file.file
            file.close()
            if not stays(new):
                new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def _time_of(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
