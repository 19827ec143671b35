# ruff: noqa: S608  the statements are made of fixed texts
"""The rows of a file, and what a run does with them."""

import json
import pickle
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from attrs import astuple, define, field

from leadpost.cli.files.reading.row import (
    DUPLICATES,
    SENT,
    Decision,
    Problem,
    ProblemGroup,
    ProblemGroups,
    Row,
    count_problems,
)

_PAGE = 500
"""Rows that are read at once."""

DIGEST_PARTS = """
    posts AS (substr(digest_sent, 1, 32)), -- see `activity_digest`
    lead AS (substr(digest_sent, 33, max(length(digest_sent) - 50, 0))),
    -- The lead as it is in the file; NULL without.
    given AS (nullif(substr(digest_read, 33, max(length(digest_read) - 50, 0)), '')),
    known_by AS (substr(given, 1, 2 * (given LIKE '?%'))), -- `?E`, `?P`, or '' for an id
    occasion AS (nullif(substr(digest_sent, 33, length(digest_sent) - 34), '')), -- NULL without
    given_occasion AS (nullif(substr(digest_read, 33, length(digest_read) - 34), ''))
"""
_TABLE = f"""
PRAGMA journal_mode = OFF; -- nobody needs it after a crash
CREATE TABLE file (
    n INTEGER PRIMARY KEY,
    is_read, -- whether it has an activity, see `Row.payload`
    problems, digest_read, digest_sent, row_key,
    keyed, -- the earlier row that its key names
    known, -- the earlier row that it is
    moved, -- one of another file, not sent, that it takes the place of
    elsewhere, -- one of another batch that has posted the same activity
    edited, -- one that it may be an edit of
    decision, number,
    is_later, -- whether it is left for a later run
    {DIGEST_PARTS}
);
CREATE TABLE content (n INTEGER PRIMARY KEY, row); -- apart, as it is much, and never changes
"""
OPEN = "(decision IS NULL AND problems IS NULL OR decision = 'pending')"
"""Rows that may be sent, as far as is known."""
READ = "decision IS NULL AND is_read"
"""Rows that the account is asked about: they may lack a time zone."""


class Rows:
    """
    The rows of a file as they were when it was read, in a temporary file without a name.

    Nothing stays behind, memory does not grow with the file, and a file that is changed while it is
    posted does no harm.
    """

    def __init__(self) -> None:
        self.database = sqlite3.connect("")
        self.database.executescript(_TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def __len__(self) -> int:
        return int(self.database.execute("SELECT count(*) FROM file").fetchone()[0])

    def add(self, rows: Sequence[Row]) -> None:
        """Add the next rows of the file."""
        self.database.executemany(
            "INSERT INTO file (is_read, problems, digest_read, digest_sent, row_key)"
            " VALUES (?, ?, ?, ?, ?)",
            (
                # sqlite3 takes longer for a bool.
                (
                    int(row.payload is not None),
                    _json_of(row.problems),
                    row.digest_read,
                    row.digest_read,
                    row.key,
                )
                for row in rows
            ),
        )
        contents = (
            (row.line, row.own, row.payload, row.digest_read, row.item, row.key) for row in rows
        )
        self.database.executemany(
            "INSERT INTO content (row) VALUES (?)", ((pickle.dumps(each),) for each in contents)
        )

    def clear(self) -> None:
        """Remove all rows, to read them again."""
        self.database.executescript("DELETE FROM file; DELETE FROM content")

    def read(self, where: str = "true") -> Iterator[Row]:
        """Yield the rows that an expression of SQL selects, in their order."""
        last = 0
        query = f"""
            SELECT n, row, problems, digest_sent, decision, known, number, elsewhere, edited
            FROM file JOIN content USING (n) WHERE n > ? AND {where} ORDER BY n LIMIT {_PAGE}
            """
        while found := self.database.execute(query, (last,)).fetchall():
            for last, content, problems, *state in found:
                row = Row(*pickle.loads(content))  # noqa: S301  our own
                row.n = last
                if problems:
                    row.problems = tuple(Problem(*each) for each in json.loads(problems))
                row.digest_sent, row.decision, row.known, row.number = state[:4]
                row.elsewhere, row.edited = state[4:]
                yield row

    def of(self, *decisions: Decision) -> Iterator[Row]:
        """Yield the rows with one of these decisions."""
        return self.read(f"decision IN {_in(decisions)}")

    def counts(self) -> Counter[Decision]:
        """Return the number of rows by decision."""
        query = "SELECT decision, count(*) FROM file GROUP BY decision"
        return Counter(dict(self.database.execute(query).fetchall()))

    def open_digests(self) -> Iterator[str]:
        """Yield the digests of rows that may be sent, as in the file and as what they send."""
        as_read, as_sent = (
            f"SELECT {digest} FROM file WHERE {OPEN}" for digest in ("digest_read", "digest_sent")
        )
        for (digest,) in self.database.execute(f"{as_read} UNION {as_sent}"):
            yield digest

    def write(self, rows: Iterable[Row]) -> None:
        """Record what was found about rows: what they send, their problems, and which they are."""
        self.database.executemany(
            "UPDATE file SET digest_sent = ?, problems = ?, known = ? WHERE n = ?",
            ((row.digest_sent, _json_of(row.problems), row.known, row.n) for row in rows),
        )


def _json_of(problems: Sequence[Problem]) -> str | None:
    return json.dumps([astuple(problem) for problem in problems]) if problems else None


def _in(decisions: Iterable[Decision]) -> str:
    return "(" + ", ".join(f"'{decision}'" for decision in decisions) + ")"


@define
class Plan:
    """What a run would do."""

    rows: Rows
    counts: Counter[Decision] = field(init=False)  # the number of rows by decision
    # The numbers of rows of earlier runs that nothing is to send any more.
    unsent: list[int] = field(factory=list[int])
    withdrawn: int = 0  # how many of them are gone from the file
    moved: int = 0  # how many of them were put for another file, and are new rows here
    # The numbers of other rows that are gone from the file, and of those that are in it again.
    gone: list[int] = field(factory=list[int])
    back: list[int] = field(factory=list[int])
    # Whether the file is the one that was posted last, most of whose rows it has, and not the next
    # one of that name.
    is_edited: bool = False
    known: int = 0  # how many rows of the file this outbox has posted, or ones like them
    edits_of_unsent: int = 0  # how many look like rows of another file that were not sent yet
    waiting: int = 0  # how many unsent rows of the batch a rejects file lacks: they are sent too
    # How many possible duplicates were posted in each other batch.
    batches: Counter[str] = field(factory=Counter[str])
    other_keys: int = 0  # how many of them were posted with other keys of the same host
    # How many invalid rows no earlier run has left to the rejects as they are.
    newly_invalid: int = 0

    def __attrs_post_init__(self) -> None:
        self.counts = self.rows.counts()

    @property
    def sent(self) -> int:
        """How many rows this run sends, without possible duplicates."""
        own = sum(self.counts[decision] for decision in SENT)
        return own + self.waiting if own else 0

    @property
    def duplicates(self) -> int:
        """How many rows are possible duplicates."""
        return sum(self.counts[decision] for decision in DUPLICATES)

    def problem_groups(self) -> list[ProblemGroup]:
        """Return the problems of invalid rows by kind, in the order of their first rows."""
        groups: ProblemGroups = {}
        for row in self.rows.of("invalid"):
            count_problems(groups, row.problems, row.place)
        return list(groups.values())
