"""What became of each row, in the words of BASE.results.csv."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from leadpost._validation import name_of
from leadpost.cli.exits import InputError
from leadpost.cli.rows import Row
from leadpost.cli.versions import Version
from leadpost.errors import InvalidActivity
from leadpost.outbox import Entry

COLUMNS = (
    *("line", "key", "state", "version", "request_id", "activity_id"),
    *("error_type", "message"),
)


@frozen
class Posted:
    """
    A row with what the outbox has of it.

    Attributes:
        row: The row.
        key: The key of its entry.
        entry: Its entry, if it has one.
        version: What it is by now.
        standing: A digest of what stands in the input.
        content: The activity that it is, to be compared; None if it cannot be posted.
    """

    row: Row
    key: str
    entry: Entry | None
    version: Version
    standing: str
    content: object

    @property
    def posted_otherwise(self) -> Mapping[str, Any] | None:
        """The activity of its entry, where the row is not that one."""
        if self.entry is None or self.content == comparable(self.entry.payload):
            return None
        if self.content is None and self.row.reject is not None:
            return None  # a correction that is not right yet
        return self.entry.payload


@frozen
class Result:
    """
    What became of a row.

    Attributes:
        state: `accepted`, `rejected`, `uncertain`, `failed`, `not_sent` or `pruned`.
        request_id: The vendor's RequestID, "" where there is none.
        activity_id: The id of the activity on the lead, "" where it is not known.
        error_type: Name of the error class, "" where there is no error.
        message: The error in words, on one line.
        to_correct: Whether the row itself is to blame.
        key: The key of its entry, as far as a file of results says it.
        version: What it was, as far as a file of results says it.
    """

    state: str
    request_id: str = ""
    activity_id: str = ""
    error_type: str = ""
    message: str = ""
    to_correct: bool = False
    key: str = ""
    version: Version | None = None

    @classmethod
    def of(cls, posted: Posted) -> "Result":
        row, entry = posted.row, posted.entry
        if row.activity is None and (entry is None or row.reject is not None):
            message = str(InvalidActivity.of(row.problems))
            return cls(
                "rejected", "", "", InvalidActivity.__name__, _one_line(message), to_correct=True
            )
        if entry is None:  # for it was put before anything was posted
            return cls("pruned", message="the outbox was pruned while the file was posted")
        if entry.state == "pending" and entry.error_type is None:
            return cls("not_sent", "", "", "NotSent", "the run stopped before its turn came")
        if entry.state == "sending":
            return cls("uncertain", "", "", "DeliveryUncertain", "another run is posting it")
        if entry.state == "pending" and entry.error_type == "DeliveryUncertain":
            return cls("uncertain", "", "", entry.error_type, _one_line(entry.message or ""))
        state = {"pending": "not_sent", "succeeded": "accepted"}.get(entry.state, entry.state)
        return cls(
            state,
            entry.request_id or "",
            entry.activity_id or "",
            entry.error_type or "",
            _one_line(entry.message or ""),
            # One that failed after it was accepted is one that the vendor could not work off.
            state == "rejected" or (state == "failed" and entry.request_id is not None),
        )

    @property
    def was_bad(self) -> bool:
        """Whether the row could not be posted as it was, and was not from the rejects either."""
        return self.state == "rejected" and self.error_type == InvalidActivity.__name__

    def line(self, of: Posted) -> bytes:
        """Write it as a line of results."""
        place = str(of.row.line), of.key
        ids = self.request_id, self.activity_id
        return csv_line(*place, self.state, str(of.version), *ids, self.error_type, self.message)


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
                error_type, key = row.get("error_type") or "", row.get("key") or ""
                yield Result(
                    row["state"],
                    row["request_id"],
                    error_type=error_type,
                    key=key,
                    version=Version.read(row.get("version") or ""),
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a results file: {type(error).__name__}") from None


def bad_in(path: Path) -> dict[str, Version]:
    """Tell by key what the bad rows of an input were by its last results, if there are any."""
    found = dict[str, Version]()
    with suppress(InputError):  # the user may have made something else of them
        for each in results_in(path) if path.is_file() else ():
            if each.was_bad and each.version is not None:
                found[each.key] = each.version
    return found


def comparable(payload: Mapping[str, Any]) -> object:
    """
    Give an activity such that it can be compared.

    The order of its fields, as of columns, does not count; 1 and true are not the same.
    """
    fields = {name_of(item): item for item in payload.get("Fields", ())}
    return json.dumps({**payload, "Fields": fields}, sort_keys=True)


def csv_line(*cells: str) -> bytes:
    """Write cells as a line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode(errors="backslashreplace")


def _one_line(text: str) -> str:
    return " ".join(text.split())
