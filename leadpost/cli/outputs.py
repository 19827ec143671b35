"""What a run leaves behind: its results, its rejects, and what is in doubt."""

import csv
import filecmp
import io
import os
from collections import Counter
from collections.abc import AsyncIterable, Generator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import typer
from attrs import frozen

from leadpost.cli.exits import InputError
from leadpost.cli.rows import Input, Row
from leadpost.errors import InvalidActivity
from leadpost.outbox import Entry

COLUMNS = ("line", "state", "request_id", "error_type", "message")


@frozen
class Result:
    """
    What became of a row, in words of the results file.

    Attributes:
        state: `accepted`, `rejected`, `uncertain`, `failed` or `not_sent`.
        request_id: The vendor's RequestID, "" where there is none.
        error_type: Name of the error class, "" where there is no error.
        message: The error in words, on one line.
        to_correct: Whether the row itself is to blame.
    """

    state: str
    request_id: str = ""
    error_type: str = ""
    message: str = ""
    to_correct: bool = False

    @classmethod
    def of(cls, row: Row, entry: Entry | None) -> "Result":
        if row.activity is None:
            message = str(InvalidActivity.of(row.problems))
            return cls("rejected", "", InvalidActivity.__name__, _one_line(message), True)  # noqa: FBT003
        if entry is None or (entry.state == "pending" and entry.error_type is None):
            return cls("not_sent", "", "NotSent", "the run stopped before its turn came")
        if entry.state == "sending":
            return cls("uncertain", "", "DeliveryUncertain", "another run is posting it")
        if entry.state == "pending" and entry.error_type == "DeliveryUncertain":
            return cls("uncertain", "", entry.error_type, _one_line(entry.message or ""))
        state = {"pending": "not_sent", "succeeded": "accepted"}.get(entry.state, entry.state)
        return cls(
            state,
            entry.request_id or "",
            entry.error_type or "",
            _one_line(entry.message or ""),
            # One that failed after it was accepted is one that the vendor could not work off.
            state == "rejected" or (state == "failed" and entry.request_id is not None),
        )


class Outputs:
    """
    The files of one input: BASE.results.csv, BASE.rejects.* and BASE.uncertain.*, where BASE is the
    name of the input. They are written anew from the outbox by each run; what the user edited of
    rejects and uncertain is kept.

    What may have arrived is no reject, and neither is what has not been sent yet: posted again,
    they might be there twice.

    Args:
        base: What the names begin with.
        source: The input, whose form the rejects have.

    Attributes:
        paths: Their names.
        counts: How many rows are in which state.
        to_correct: How many of the rejects have to be corrected; the others are good as they are.

    Raises:
        InputError: one of them is the input itself, or there is no writing them.
    """

    def __init__(self, base: str, source: Input) -> None:
        self.results = Path(f"{base}.results.csv")
        rejects, uncertain = (
            RowsFile(Path(f"{base}.{name}{source.suffix}"), source, self.results)
            for name in ("rejects", "uncertain")
        )
        self.rejects = rejects
        self.uncertain = uncertain
        self.paths = (self.results, rejects.path, uncertain.path)
        self.counts = Counter[str]()
        self.to_correct = 0
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

    def check_free(self) -> None:
        """
        See that there are none.

        Raises:
            InputError: there are.
        """
        found = [str(path) for path in self.paths if path.exists()]
        if found:
            raise InputError(
                f"{', '.join(found)}: there already, and the outbox knows nothing of it; --force"
                " replaces, --output-base chooses other names"
            )

    async def write(self, rows: AsyncIterable[tuple[Row, Entry | None]]) -> None:
        """
        Write them, each all at once for whoever reads it.

        Raises:
            OSError: they cannot be written; the outbox still has everything.
        """
        with ExitStack() as stack:
            results = stack.enter_context(replacing(self.results))
            rejects = stack.enter_context(self.rejects.open())
            uncertain = stack.enter_context(self.uncertain.open())
            results.write(csv_line(*COLUMNS))
            async for row, entry in rows:
                result = Result.of(row, entry)
                self.counts[result.state] += 1
                line = str(row.line)
                cells = (result.state, result.request_id, result.error_type, result.message)
                results.write(csv_line(line, *cells))
                if result.state == "uncertain":
                    self.uncertain.add(uncertain, row, result.message)
                elif result.state in {"rejected", "failed"}:
                    reason = f"{result.error_type}: {result.message}".removeprefix(": ")
                    self.rejects.add(rejects, row, reason)
                    self.to_correct += result.to_correct
        self.rejects.stamp()
        self.uncertain.stamp()


class RowsFile:
    """
    Some rows of the input with a reason each; there is no file if there are no such rows.

    What the user edited since it was written is kept under another name. That is told by the time
    of the file: as written, it has the very time of the results.

    Args:
        path: Its name.
        source: The input, whose form it has.
        results: The results, which are to be written after it.
    """

    def __init__(self, path: Path, source: Input, results: Path) -> None:
        self.path = path
        self.count = 0
        self._source = source
        self._results = results

    @contextmanager
    def open(self) -> Generator[IO[bytes]]:
        with replacing(self.path) as file:
            file.write(self._source.head())
            yield file
            file.flush()
            if self._edited() and not filecmp.cmp(file.name, self.path, shallow=False):
                self._keep()
        if not self.count:
            self.path.unlink()

    def add(self, file: IO[bytes], row: Row, reason: str) -> None:
        file.write(self._source.written(row, reason))
        self.count += 1

    def stamp(self) -> None:
        """Give it the time of the results, which are written by now."""
        if self.count:
            time = self._results.stat().st_mtime_ns
            with suppress(OSError):  # a share may not allow it: then it counts as edited
                os.utime(self.path, ns=(time, time))

    def _edited(self) -> bool:
        if not self.path.is_file():
            return False
        if not self._results.exists():
            return True
        return self.path.stat().st_mtime_ns != self._results.stat().st_mtime_ns

    def _keep(self) -> None:
        names = (self.path.with_suffix(f".{number}{self.path.suffix}") for number in count(1))
        kept = next(path for path in names if not path.exists())
        self.path.rename(kept)
        typer.echo(
            f"{self.path} seems edited: kept as {kept}; post that only if it was not posted yet",
            err=True,
        )


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """
    Write a file under another name, and put it in its place when it is complete.

    It holds personal data, so from the beginning no other user may read it.

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
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def csv_line(*cells: str) -> bytes:
    """Write cells as a line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="backslashreplace")


def _one_line(text: str) -> str:
    return " ".join(text.split())
