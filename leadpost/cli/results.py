"""What became of each row, in the words of BASE.results.csv."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from leadpost.cli.exits import InputError
from leadpost.cli.rows import Row
from leadpost.errors import InvalidActivity
from leadpost.outbox import Entry

COLUMNS = ("line", "state", "request_id", "error_type", "message")


@frozen
class Result:
    """
    What became of a row.

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
            return cls(
                "rejected", "", InvalidActivity.__name__, _one_line(message), to_correct=True
            )
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

    @property
    def was_bad(self) -> bool:
        """Whether the row could not be posted as it was, so that it never was."""
        return self.state == "rejected" and self.error_type == InvalidActivity.__name__

    def line(self, row: Row) -> bytes:
        """Write it as a line of results."""
        return csv_line(str(row.line), self.state, self.request_id, self.error_type, self.message)


def results_in(path: Path) -> Iterator[Result]:
    """
    Read results, in the order of the rows; without their messages.

    Raises:
        InputError: it is no file of them.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"state", "request_id"} <= set(rows.fieldnames or ()):
                raise InputError(f"{path}: wanted columns state and request_id")
            for row in rows:
                yield Result(row["state"], row["request_id"], row.get("error_type") or "")
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a results file: {type(error).__name__}") from None


def csv_line(*cells: str) -> bytes:
    """Write cells as a line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="backslashreplace")


def _one_line(text: str) -> str:
    return " ".join(text.split())
