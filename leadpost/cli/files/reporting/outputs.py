"""FILE.results.csv says what became of each row, FILE.rejects.csv has the rows to fix."""

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, contextmanager
from itertools import count, islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from attrs import define, field, frozen

from leadpost.cli.files.comparing.comparison import Comparison
from leadpost.cli.files.comparing.ledger import PART, Ledger
from leadpost.cli.files.comparing.plan import Plan
from leadpost.cli.files.reading.opening import STDIN, opened
from leadpost.cli.files.reading.own_files import (
    KEY,
    REASON,
    UTF8_WITH_BOM,
    digest_of,
    input_of,
    results_of,
)
from leadpost.cli.files.reading.row import DUPLICATES, Row
from leadpost.cli.files.reading.settings import Reading
from leadpost.errors import InvalidActivity
from leadpost.outbox._reconciler import NOT_YET

COLUMNS = ("line", "lead", "state", "request_id", "activity_id", "error", "message")
_DONE = ("accepted", "succeeded", "skipped")
_LIKE_AN_EDIT = "looks like an edit of a posted row"


@frozen
class RowResult:
    """What became of a row."""

    # `accepted`, `succeeded`, `uncertain`, `rejected`, `failed`, `invalid`, `skipped` or
    # `not_sent`.
    state: str
    error: str | None = None
    # Why it is not on the lead, on one line; "" if there is nothing to say.
    reason: str = field(default="", repr=False)
    is_to_fix: bool = False  # whether LeadSquared does not have it, and will not accept it as it is


def result_of(row: Row, known: Any) -> RowResult:
    """Return what became of a row, from what the ledger has of it; None if that is nothing."""
    if row.decision in DUPLICATES:
        if known is None:  # its key says that it was posted
            return RowResult("skipped", reason=_LIKE_AN_EDIT)
        if known.state not in {"accepted", "succeeded"}:
            return RowResult(known.state, known.error_type, f"{known.state} in batch {known.name}")
        is_edit = row.decision == "edit"
        reason = _LIKE_AN_EDIT if is_edit else f"posted before, in batch {known.name}"
        return RowResult("skipped", reason=reason)
    if row.decision == "invalid" or (known and known.state == "invalid"):
        reason = "; ".join(map(str, row.problems)) or known.reason
        return RowResult("invalid", InvalidActivity.__name__, reason, known is not None)
    if known is None:
        return RowResult("not_sent")
    is_to_fix = known.kind == "failed" or known.state == "rejected"
    reason = " ".join((known.reason or "").split())
    return RowResult(known.state, known.error_type, reason, is_to_fix)


@define
class Outputs:
    """The files that a run writes."""

    path: str
    written: dict[str, str]  # the digests of the files that leadpost wrote, by their names
    # The number of rows in each state, once they are written.
    counts: Counter[str] = field(factory=Counter[str])
    to_fix: int = 0  # how many of them are in the rejects
    left: int = 0  # how many of them the next run sends
    uncertain: int = 0  # how many of them are to be looked for on their leads
    later: int = 0  # how many of these may still arrive, according to the last look
    rejects: Path | None = None  # the file that has these, None without any
    # Rejects files that stay, as they have other rows to fix; and how many.
    kept: dict[Path, int] = field(factory=dict[Path, int])
    are_written: bool = False
    has_failed: bool = False  # for another reason than that a program has one open

    @property
    def accepted(self) -> int:
        """How many rows need no more attention."""
        return sum(self.counts[state] for state in _DONE)

    @property
    def base(self) -> Path:
        return Path("stdin" if self.path == STDIN else self.path)

    @property
    def results(self) -> Path:
        return results_of(self.base)

    async def write(self, found: Comparison, ledger: Ledger) -> None:
        """
        Write both files, each by replacing it.

        Raises:
            OSError: with the path of one that cannot be written, as when it is open elsewhere.
        """
        source, is_json = found.source, found.source.is_json
        rejects = self._rejects_path("jsonl" if is_json else "csv", found)
        with ExitStack() as stack:
            file = stack.enter_context(replacing(self.results, UTF8_WITH_BOM))
            results = csv.writer(file, delimiter=source.delimiter)
            results.writerow(COLUMNS)
            encoding = "utf-8" if is_json else UTF8_WITH_BOM
            to_fix = stack.enter_context(replacing(rejects, encoding))
            table = csv.writer(to_fix, delimiter=source.delimiter)
            if not is_json:
                table.writerow((REASON, KEY, *source.header))
            async for row, known, what in self.counted(found.plan, ledger):
                ids = (known.request_id, known.activity_id) if known else (None, None)
                about = row.line, source.lead_of(row), what.state
                results.writerow((*about, *ids, what.error, what.reason))
                if what.is_to_fix:
                    added = {REASON: what.reason, KEY: known.row_key}
                    if is_json:
                        to_fix.write(json.dumps({**added, **row.own}, ensure_ascii=False) + "\n")
                    else:
                        table.writerow((*added.values(), *row.own))
        self.written[self.results.name] = digest_of(self.results)
        if self.to_fix:
            self.rejects = rejects
            self.written[rejects.name] = digest_of(rejects)
        else:
            rejects.unlink(missing_ok=True)
            self.written.pop(rejects.name, None)
        self.are_written = True

    async def counted(
        self, plan: Plan, ledger: Ledger
    ) -> AsyncGenerator[tuple[Row, Any, RowResult]]:
        """Yield each row, what the ledger has of it, and what became of it; and count these."""
        self.counts.clear()
        self.to_fix = self.left = self.uncertain = self.later = 0
        drawn = plan.rows.read()
        while part := list(islice(drawn, PART)):
            ids = [
                row.elsewhere or row.edited if row.decision in DUPLICATES else row.known
                for row in part
            ]
            states = await ledger.states([id_ for id_ in ids if id_])
            for row, id_ in zip(part, ids, strict=True):
                known = states.get(id_ or 0)
                what = result_of(row, known)
                self.counts[what.state] += 1
                self.to_fix += what.is_to_fix
                if known and what.state == "uncertain" and known.kind != "pending":
                    self.uncertain += 1
                    self.later += (known.reason or NOT_YET).startswith(NOT_YET)
                elif not what.is_to_fix and row.decision not in DUPLICATES:
                    self.left += what.state not in _DONE
                yield row, known, what

    def _rejects_path(self, suffix: str, found: Comparison) -> Path:
        """Return the first name that is free, or whose file leadpost wrote and nobody needs."""
        for number in count(1):
            infix = "" if number == 1 else f".{number}"
            path = self.base.with_name(f"{input_of(self.base.name)}.rejects{infix}.{suffix}")
            if path == self.base:
                continue
            if not path.exists():
                return path
            if path.is_file() and digest_of(path) == self.written.get(path.name):
                if not (missing := _missing(path, found)):
                    return path
                self.kept[path] = missing
        raise AssertionError("numbers do not end")  # pragma: no cover


def _missing(path: Path, found: Comparison) -> int:
    """Return how many rows to fix a rejects file has that the posted file does not have."""
    with opened(str(path)) as file:
        _, keys = file.own_columns(Reading())
    is_edited = found.options.command == "post" and found.plan.is_edited
    return found.matching.missing((key for _, key in keys), is_edited=is_edited)


@contextmanager
def replacing(path: Path, encoding: str) -> Generator[IO[Any]]:
    """
    Write a text file under another name, and put it in its place when it is complete.

    It may hold personal data, so that no other user may read it, from the beginning. What a run
    that was killed has left is removed; its name has the run's process id.
    """
    for left in path.parent.iterdir():
        name, _, rest = left.name.partition(f"{path.name}.")
        if not name and left.suffix == ".tmp" and not _is_running(rest.partition(".")[0]):
            left.unlink(missing_ok=True)
    with NamedTemporaryFile(
        "w",
        dir=path.parent,
        prefix=f"{path.name}.{os.getpid()}.",
        suffix=".tmp",
        delete=False,
        encoding=encoding,
        errors="backslashreplace",  # half a surrogate pair
        newline="",  # CRLF, as CSV has it, or a lone CR would be unquoted
    ) as file:
        new = Path(file.name)
        try:
            yield file
            file.close()
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def _is_running(process_id: str) -> bool:
    """Whether a process may still be writing its files."""
    if sys.platform == "win32":  # pragma: no cover  where nobody can delete an open file
        return False
    try:
        os.kill(int(process_id), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # another user's
    return True
