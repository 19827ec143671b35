"""What a run leaves behind: its results, its rejects, and what is in doubt."""

import csv
import io
from array import array
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from leadpost.cli.exits import InputError
from leadpost.cli.rows import Input, Row
from leadpost.errors import LeadpostError, NotFound, Unauthorized

COLUMNS = ("line", "state", "request_id", "error_type", "message")


class Outputs:
    """
    The files of one run: BASE.results.csv, BASE.rejects.* and BASE.uncertain.*, where BASE is the
    name of the input.

    Every row is written and flushed as soon as its state is known, so a run that is killed has lost
    no RequestID. The results are in order of arrival until `put_in_order`. Rows that may have
    arrived are no rejects: posted again, they might be there twice.

    Args:
        base: What the names begin with.
        source: The input, whose form the rejects have.
        force: Whether files that exist are replaced.

    Attributes:
        to_correct: How many of the rejects have to be corrected; the others are good as they are.

    Raises:
        InputError: a file exists, or is the input itself.
    """

    def __init__(self, base: str, source: Input, *, force: bool) -> None:
        self.results = Path(f"{base}.results.csv")
        self.rejects = RowsFile(Path(f"{base}.rejects{source.suffix}"), source)
        self.uncertain = RowsFile(Path(f"{base}.uncertain{source.suffix}"), source)
        self.to_correct = 0
        self._force = force
        self._offsets = array("q")
        self._end = 0
        self._file: BinaryIO
        paths = (self.results, self.rejects.path, self.uncertain.path)
        if any(
            path.exists() and path.samefile(source.name) for path in paths if source.name != "-"
        ):
            raise InputError(f"{source.name} would be overwritten: choose an --output-base")
        found = [str(path) for path in paths if path.exists()]
        if found and not force:
            raise InputError(
                f"{', '.join(found)}: there already; --force replaces, --output-base chooses"
                " other names"
            )

    def __enter__(self) -> Self:
        if self._force:
            # Rejects of an earlier run beside the results of this one would tell a wrong story.
            for path in (self.results, self.rejects.path, self.uncertain.path):
                path.unlink(missing_ok=True)
        self._file = self.results.open("xb")
        self._write(_line(COLUMNS))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in (self._file, self.rejects.file, self.uncertain.file):
            if file is not None:
                # Every row was flushed, and whoever wrote it was told if that failed.
                with suppress(OSError):
                    file.close()

    def add(
        self,
        number: int,
        row: Row,
        request_id: str | None = None,
        error: LeadpostError | None = None,
    ) -> None:
        """
        Write what became of a row.

        Args:
            number: Its number in the input, from 0.
            row: The row.
            request_id: The RequestID, if it was accepted.
            error: Why it was not.

        Raises:
            OSError: it could not be written.
        """
        state = "accepted" if error is None else error.state
        kind, message = ("", "") if error is None else (type(error).__name__, str(error))
        missing = number + 1 - len(self._offsets)
        self._offsets.extend([-1] * missing)
        self._offsets[number] = self._end
        # A result is one line, so that it can be found again by its offset alone.
        message = " ".join(message.split())
        self._write(_line((str(row.line), state, request_id or "", kind, message)))
        if state == "uncertain":
            self.uncertain.add(row, message)
        elif state != "accepted":
            self.rejects.add(row, f"{kind}: {message}")
            # The keys and the URL are nothing that a row could be blamed for.
            self.to_correct += state == "rejected" and not isinstance(
                error, Unauthorized | NotFound
            )

    def put_in_order(self) -> None:
        """Put the results into the order of the input, all at once for whoever reads them."""
        ordered = self.results.with_name(self.results.name + ".tmp")
        with self.results.open("rb") as found, ordered.open("wb") as file:
            file.write(found.readline())
            for offset in self._offsets:
                found.seek(offset)
                file.write(found.readline())
        ordered.replace(self.results)

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        self._end += len(line)


class RowsFile:
    """Some rows of the input with a reason each; the file begins with the first of them."""

    def __init__(self, path: Path, source: Input) -> None:
        self.path = path
        self.count = 0
        self.file: BinaryIO | None = None
        self._source = source

    def add(self, row: Row, reason: str) -> None:
        if self.file is None:
            self.file = self.path.open("xb")
            self.file.write(self._source.head())
        self.file.write(self._source.written(row, reason))
        self.file.flush()
        self.count += 1


def _line(cells: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="backslashreplace")
