"""FILE.results.csv says what became of each row, FILE.rejects.csv has the rows to fix."""

import csv
import io
import json
from collections import Counter
from collections.abc import AsyncIterable, Generator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from attrs import define, field, frozen

from leadpost._validation import is_mapping
from leadpost.cli.files.batches import Result
from leadpost.cli.files.reading import KEY, REASON, Format
from leadpost.cli.files.rows import STDIN, UNREADABLE, Source
from leadpost.cli.files.snapshot import DOUBTFUL, Stored

COLUMNS = ("line", "lead", "state", "request_id", "activity_id", "error", "message")
TO_FIX = ("invalid", "rejected", "failed")
"""States of rows that LeadSquared does not have, and will not have as they are."""
_BOM = b"\xef\xbb\xbf"


@frozen
class Outcome:
    """
    A row, and what became of it.

    Attributes:
        row: The row.
        state: `accepted`, `succeeded`, `uncertain`, `rejected`, `failed`, `invalid`, `skipped` or
            `not_sent`.
        result: What the outbox says.
        letters: Its key in rejects files, None if it is not known.
        is_to_fix: Whether it belongs into the rejects.
    """

    row: Stored
    state: str
    result: Result
    letters: str | None

    @property
    def is_to_fix(self) -> bool:
        is_final = self.state != "failed" or self.result.request_id is not None
        return self.state in TO_FIX and is_final and self.letters is not None

    @property
    def reason(self) -> str:
        if self.state == "invalid":
            return "; ".join(map(str, self.row.reasons()))
        return " ".join((self.result.message or self.result.error_type or "").split())


def outcome_of(row: Stored, letters: str | None, result: Result) -> Outcome:
    """Say what became of a row in one word."""
    match result.state:
        case None if row.verdict in DOUBTFUL:
            state = "skipped"
        case None if row.payload is None:
            state = "invalid"
        case None:
            state = "accepted" if row.verdict == "posted" else "not_sent"
        case "pending":
            in_doubt = result.error_type == "DeliveryUncertain"
            state = "uncertain" if in_doubt else "not_sent"
        case "sending":
            state = "uncertain"
        case "failed by the queue":
            state, result = "failed", Result("failed", request_id="")
        case known:
            state = known
    return Outcome(row, state, result, letters)


@define
class Outputs:
    """
    The files that a run writes.

    Args:
        path: The input.
        written: The digests of the rejects files that leadpost wrote, by their names.

    Attributes:
        counts: The number of rows in each state, once they are written.
        to_fix: How many of them are in the rejects.
        rejects: The file that has these, None without any.
    """

    path: str
    written: dict[str, str]
    counts: Counter[str] = field(factory=Counter[str])
    to_fix: int = 0
    rejects: Path | None = None

    @property
    def base(self) -> Path:
        return Path("stdin" if self.path == STDIN else self.path)

    @property
    def results(self) -> Path:
        return self.base.with_name(f"{self.base.name}.results.csv")

    async def write(self, source: Source, outcomes: AsyncIterable[Sequence[Outcome]]) -> None:
        """
        Write both files, each by replacing it.

        Raises:
            OSError: one cannot be written, as when it is open elsewhere.
        """
        self.counts.clear()
        self.to_fix = 0
        suffix = "jsonl" if source.form in {Format.JSON, Format.JSONL} else "csv"
        rejects = self._rejects_path(suffix)
        digest = blake2b(digest_size=16)
        with replacing(self.results) as results, replacing(rejects) as to_fix:
            _write(results, _BOM + csv_line(COLUMNS, source.delimiter))
            head = _BOM + csv_line((REASON, KEY, *source.header), source.delimiter)
            _write(to_fix, head if suffix == "csv" else b"", digest)
            async for part in outcomes:
                for outcome in part:
                    self.counts[outcome.state] += 1
                    _write(results, csv_line(_result(outcome), source.delimiter))
                    if outcome.is_to_fix:
                        self.to_fix += 1
                        _write(to_fix, _reject(outcome, source, suffix), digest)
        if self.to_fix:
            self.rejects = rejects
            self.written[rejects.name] = digest.hexdigest()
        else:
            rejects.unlink(missing_ok=True)
            self.written.pop(rejects.name, None)

    def _rejects_path(self, suffix: str) -> Path:
        """Return the first name that is free, or whose file is as leadpost wrote it."""
        for number in count(1):
            infix = "" if number == 1 else f".{number}"
            path = self.base.with_name(f"{self.base.name}.rejects{infix}.{suffix}")
            if not path.exists() or digest_of(path) == self.written.get(path.name):
                return path
        raise AssertionError("numbers do not end")  # pragma: no cover


def digest_of(path: Path) -> str:
    """Return the digest of a file's content."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**16):
            digest.update(part)
    return digest.hexdigest()


def posted_by_results(path: Path) -> int:
    """Count the rows that a results file says were posted; 0 if it is none."""
    posted = ("accepted", "succeeded", "uncertain")
    with (
        suppress(UnicodeDecodeError, csv.Error),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        first = file.readline()
        file.seek(0)
        rows = csv.DictReader(file, delimiter=max(",;\t|", key=first.count))
        return sum(row.get("state") in posted for row in rows)
    return 0


def csv_line(cells: Sequence[str], delimiter: str = ",") -> bytes:
    """Write cells as a line of CSV."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerow(cells)  # CRLF, or a lone CR would be unquoted
    return text.getvalue().encode(errors="backslashreplace")


def _result(outcome: Outcome) -> tuple[str, ...]:
    result, row = outcome.result, outcome.row
    error = "InvalidActivity" if outcome.state == "invalid" else result.error_type
    ids = (result.request_id or "", result.activity_id or "")
    return (str(row.line), row.lead_id, outcome.state, *ids, error or "", outcome.reason)


def _reject(outcome: Outcome, source: Source, suffix: str) -> bytes:
    own: Any = json.loads(outcome.row.own)
    added = {REASON: outcome.reason, KEY: outcome.letters or ""}
    if suffix == "csv":
        return csv_line((*added.values(), *own), source.delimiter)
    value = own if is_mapping(own) else {UNREADABLE: own}
    line = json.dumps({**added, **value}, ensure_ascii=False) + "\n"
    return line.encode(errors="backslashreplace")


def _write(file: IO[bytes], text: bytes, digest: Any = None) -> None:
    file.write(text)
    if digest is not None:
        digest.update(text)


@contextmanager
def replacing(path: Path) -> Generator[IO[bytes]]:
    """
    Write a file under another name, and put it in its place when it is complete.

    It may hold personal data, so that no other user may read it, from the beginning. What a run
    that was killed has left is removed.
    """
    for left in path.parent.iterdir():
        if left.name.startswith(f"{path.name}.") and left.suffix == ".tmp":
            left.unlink(missing_ok=True)
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
