"""
The rows of a file as they were when it was read, compared with what the outbox knows.

The rows are in a database of their own, which SQLite keeps in memory and, where it grows, in a
temporary file without a name: a file of any size needs the same memory, nothing stays behind, and a
file that is changed while it is being posted does no harm.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Self

from attrs import define, field, frozen

from leadpost.cli.files.reading import Fault
from leadpost.cli.files.rows import Row

Known = Literal["posted", "waiting", "refused", "failed", "invalid", "withdrawn"]
"""
What is known of a row of an earlier run: `posted` (accepted, or in doubt), `waiting` (not sent
yet), `refused` (or given up), `failed` (by LeadSquared's queue, for good), `invalid`, `withdrawn`.
"""
Verdict = Literal[
    "new",
    "posted",
    "waiting",
    "again",
    "corrected",
    "failed",
    "invalid",
    "elsewhere",
    "edit",
    "later",
]
"""
What a run does with a row. It sends those that are `new`, `waiting` (in the outbox already),
`again` (refused before) or `corrected` (in a rejects file). It does not send those that are
`posted`, `failed`, `invalid` or `later` (after `--first`). The others are doubtful: `elsewhere`
(posted in another batch, or with other keys), `edit` (it looks like a posted row that was edited).
"""
DOUBTFUL: tuple[Verdict, ...] = ("elsewhere", "edit")
_RANK: dict[Known, int] = {
    "posted": 0,
    "waiting": 1,
    "refused": 2,
    "failed": 3,
    "invalid": 4,
    "withdrawn": 5,
}
_TABLES = """
CREATE TABLE row (
    pos INTEGER PRIMARY KEY, line INT, item INT, digest TEXT, lead TEXT, lead_id TEXT,
    payload TEXT, own TEXT, faults TEXT, letters TEXT, known INT, verdict TEXT, number INT
);
CREATE TABLE known (
    id INTEGER PRIMARY KEY, letters TEXT, origin TEXT, present TEXT, lead TEXT,
    state TEXT, number INT, rank INT, is_moved INT, is_matched INT DEFAULT 0
);
CREATE TABLE elsewhere (digest TEXT PRIMARY KEY, batch TEXT, has_other_keys INT);
"""


@frozen
class KnownRow:
    """
    A row of an earlier run.

    Attributes:
        id: Its number in the database.
        letters: Its key in rejects files.
        origin: The digest of the row in the file that it came from.
        present: The digest of the activity that its entry has now; None without an entry.
        lead: The digest of its lead.
        state: See `Known`.
        number: Its number among those of the same origin, from 1.
    """

    id: int
    letters: str
    origin: str
    present: str | None
    lead: str
    state: Known
    number: int = 1


@frozen
class Stored:
    """
    A row of the snapshot.

    Attributes:
        pos: Its place in the file, from 0.
        known: The number of the row of an earlier run that it is, None if it is new.
        number: What a new row is among those of the same digest, from 1; other runs of the same
            file give it the same one.
    """

    pos: int
    line: int
    item: int | None
    digest: str
    lead: str
    lead_id: str
    payload: str | None = field(repr=False)
    own: str = field(repr=False)
    faults: str | None = field(repr=False)
    letters: str | None
    known: int | None
    verdict: Verdict
    number: int | None = None

    def activity(self) -> dict[str, Any]:
        activity: dict[str, Any] = json.loads(self.payload or "{}")
        return activity

    def reasons(self) -> list[Fault]:
        return [Fault(*parts) for parts in json.loads(self.faults or "[]")]


@frozen
class FaultGroup:
    """Faults of the same kind: the first, where it is, and how many rows have one."""

    fault: Fault
    place: str
    rows: int


@define
class Plan:
    """
    What a run would do.

    Attributes:
        counts: The number of rows of each verdict.
        newly_invalid: How many invalid rows no earlier run has left to the rejects.
        withdrawn: How many unsent rows of earlier runs are gone from the file.
        moved: How many unsent rows of other batches are in this file.
        batches: The other batches that doubtful rows were posted in.
        other_keys: How many doubtful rows were posted with other keys of the same host.
    """

    counts: Counter[Verdict] = field(factory=Counter[Verdict])
    newly_invalid: int = 0
    withdrawn: int = 0
    moved: int = 0
    batches: tuple[str, ...] = ()
    other_keys: int = 0

    @property
    def rows(self) -> int:
        return self.counts.total()

    @property
    def sent(self) -> int:
        """How many rows are sent by this run, if nothing is doubtful."""
        counts = self.counts
        return counts["new"] + counts["waiting"] + counts["again"] + counts["corrected"]

    @property
    def doubtful(self) -> int:
        return self.counts["elsewhere"] + self.counts["edit"]


class Snapshot:
    """The rows of one file, and what is known of each."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_TABLES)
        self._database.execute("BEGIN")
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    # Filling it.

    def add(self, rows: Iterable[Row]) -> int:
        """Add rows in their order, and return their number."""
        values = [
            (
                *(self._next + n, row.line, row.item, row.digest, row.lead, _lead_id(row)),
                None if row.payload is None else json.dumps(row.payload, ensure_ascii=False),
                json.dumps(row.own),
                json.dumps([(f.column, f.value, f.what, f.remedy) for f in row.faults])
                if row.faults
                else None,
                row.key,
            )
            for n, row in enumerate(rows)
        ]
        self._next += len(values)
        self._database.executemany(
            "INSERT INTO row"
            " (pos, line, item, digest, lead, lead_id, payload, own, faults, letters)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        return len(values)

    def add_known(self, rows: Iterable[KnownRow], *, is_moved: bool = False) -> None:
        """Add rows of earlier runs of this batch; or of others, which move if they match."""
        self._database.executemany(
            "INSERT OR IGNORE INTO known"
            " (id, letters, origin, present, lead, state, number, rank, is_moved)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    *(r.id, r.letters, r.origin, r.present, r.lead),
                    *(r.state, r.number, _RANK[r.state], is_moved),
                )
                for r in rows
            ),
        )

    def add_elsewhere(self, digests: Iterable[tuple[str, str, bool]]) -> None:
        """Add digests that were posted elsewhere: with the batch, and whether with other keys."""
        self._database.executemany("INSERT OR IGNORE INTO elsewhere VALUES (?, ?, ?)", digests)

    # Comparing.

    def match_keys(self) -> None:
        """Find the rows of a rejects file by their keys."""
        self._database.execute(
            """
            UPDATE row SET known = k.id, verdict = CASE
                WHEN k.state = 'posted' AND row.digest IN (k.origin, k.present) THEN 'posted'
                WHEN row.payload IS NULL THEN 'invalid'
                WHEN k.state IN ('posted', 'withdrawn') THEN 'edit'
                WHEN row.digest IS NOT k.present THEN 'corrected'
                WHEN k.state = 'waiting' THEN 'waiting'
                ELSE 'again' END
            FROM known k WHERE row.letters = k.letters
            """
        )
        # One that was fixed in the input too, and posted from there, is that row.
        self._database.execute(
            """
            UPDATE row SET known = NULL, verdict = NULL
            WHERE verdict IN ('edit', 'corrected') AND EXISTS (
                SELECT 1 FROM known k WHERE k.state = 'posted' AND k.present = row.digest
                AND (row.verdict = 'edit' OR k.id != row.known))
            """
        )
        self._database.execute(
            "UPDATE row SET known = NULL WHERE verdict = 'edit' OR known IN"
            " (SELECT id FROM known WHERE state = 'withdrawn')"
        )
        self._mark_matched()

    def match(self) -> None:
        """Find the rows that were there before, by what they were and by what they are now."""
        for column in ("origin", "present"):
            self._database.execute(
                f"""
                CREATE TEMP TABLE pair AS SELECT file.pos, before.id FROM (
                    SELECT pos, digest,
                        row_number() OVER (PARTITION BY digest ORDER BY pos) AS number
                    FROM row WHERE known IS NULL AND verdict IS NULL
                ) file JOIN (
                    SELECT id, {column} AS digest,
                        row_number() OVER (PARTITION BY {column} ORDER BY rank, id) AS number
                    FROM known WHERE NOT is_matched AND state != 'withdrawn'
                ) before USING (digest, number)
                """  # noqa: S608  of two names
            )
            self._database.execute(
                "UPDATE row SET known = pair.id FROM temp.pair WHERE row.pos = pair.pos"
            )
            self._database.execute("DROP TABLE temp.pair")
            self._mark_matched()

    def _mark_matched(self) -> None:
        self._database.execute(
            "UPDATE known SET is_matched = 1 WHERE id IN (SELECT known FROM row)"
        )

    def unmatched(self, size: int) -> Iterator[list[str]]:
        """Yield the digests of rows that were not there before, so many at a time."""
        cursor = self._database.execute(
            "SELECT DISTINCT digest FROM row WHERE known IS NULL AND verdict IS NULL"
        )
        while part := cursor.fetchmany(size):
            yield [digest for (digest,) in part]

    def judge(self, *, are_rejects: bool, first: int | None = None) -> Plan:
        """
        Decide what to do with each row.

        Args:
            are_rejects: Whether the file has a part of the rows only: those that are not in it
                are not gone.
            first: How many rows are sent at most.
        """
        self._number()
        again = "'again'" if are_rejects else "'failed'"
        gone = (
            ""
            if are_rejects
            else (
                "WHEN lead IN (SELECT lead FROM known WHERE state = 'posted' AND NOT is_matched"
                " AND NOT is_moved) THEN 'edit'"
            )
        )
        self._database.execute(
            f"""
            UPDATE row SET verdict = CASE (SELECT state FROM known k WHERE k.id = row.known)
                WHEN 'posted' THEN 'posted'
                WHEN 'waiting' THEN 'waiting'
                WHEN 'refused' THEN 'again'
                WHEN 'failed' THEN {again}
                WHEN 'invalid' THEN 'invalid'
                ELSE CASE
                    WHEN payload IS NULL THEN 'invalid'
                    WHEN digest IN (SELECT digest FROM elsewhere) THEN 'elsewhere'
                    {gone}
                    ELSE 'new' END
                END
            WHERE verdict IS NULL
            """  # noqa: S608  of fixed texts
        )
        if first is not None:
            self._database.execute(
                """
                UPDATE row SET verdict = 'later'
                WHERE verdict IN ('new', 'waiting', 'again', 'corrected') AND pos NOT IN (
                    SELECT pos FROM row WHERE verdict IN ('new', 'waiting', 'again', 'corrected')
                    ORDER BY pos LIMIT ?)
                """,
                (first,),
            )
        return self._plan(are_rejects=are_rejects)

    def _number(self) -> None:
        """Number new rows among those of the same digest, above those that are known."""
        self._database.execute(
            """
            UPDATE row SET number = new.number FROM (
                SELECT pos, coalesce(top, 0)
                    + row_number() OVER (PARTITION BY digest ORDER BY pos) AS number
                FROM row LEFT JOIN (
                    SELECT origin,
                        coalesce(max(number) FILTER (WHERE NOT is_moved), 0)
                        + count(*) FILTER (WHERE is_moved AND is_matched) AS top
                    FROM known WHERE state != 'withdrawn' GROUP BY origin
                ) before ON before.origin = row.digest
                WHERE known IS NULL
            ) new WHERE row.pos = new.pos
            """
        )

    def _plan(self, *, are_rejects: bool) -> Plan:
        counts = Counter[Verdict]()
        for verdict, number in self._database.execute(
            "SELECT verdict, count(*) FROM row GROUP BY verdict"
        ):
            counts[verdict] = number
        (moved,) = self._database.execute(
            "SELECT count(*) FROM known WHERE is_moved AND is_matched AND state != 'invalid'"
        ).fetchone()
        found = self._database.execute(
            "SELECT DISTINCT batch FROM elsewhere ORDER BY batch LIMIT 5"
        ).fetchall()
        (other_keys,) = self._database.execute(
            "SELECT count(*) FROM row JOIN elsewhere USING (digest)"
            " WHERE verdict = 'elsewhere' AND has_other_keys"
        ).fetchone()
        (newly_invalid,) = self._database.execute(
            "SELECT count(*) FROM row WHERE verdict = 'invalid' AND known IS NULL"
        ).fetchone()
        return Plan(
            counts=counts,
            newly_invalid=newly_invalid,
            withdrawn=0 if are_rejects else len(self._gone("state NOT IN ('posted', 'invalid')")),
            moved=moved,
            batches=tuple(name for (name,) in found),
            other_keys=other_keys,
        )

    def _gone(self, condition: str) -> list[int]:
        cursor = self._database.execute(
            f"SELECT id FROM known WHERE NOT is_matched AND NOT is_moved AND {condition}"  # noqa: S608  of fixed texts
            " AND state != 'withdrawn' ORDER BY id"
        )
        return [id_ for (id_,) in cursor]

    def post_doubtful(self) -> None:
        """Have doubtful rows posted too."""
        self._database.execute("UPDATE row SET verdict = 'new' WHERE verdict IN (?, ?)", DOUBTFUL)

    # Reading it.

    def gone(self) -> list[int]:
        """Return the numbers of rows of earlier runs that are not in the file, and not posted."""
        return self._gone("state != 'posted'")

    def postponed(self) -> list[int]:
        """Return the numbers of rows that are in the outbox, but not to be sent by this run."""
        cursor = self._database.execute(
            "SELECT known.id FROM row JOIN known ON known.id = row.known"
            " WHERE verdict = 'later' AND state = 'waiting'"
        )
        return [id_ for (id_,) in cursor]

    def forget_postponed(self) -> None:
        """Note that the rows of `postponed` are not in the outbox any more."""
        self._database.execute(
            "UPDATE row SET known = NULL WHERE verdict = 'later'"
            " AND known IN (SELECT id FROM known WHERE state = 'waiting')"
        )

    def moved(self) -> list[int]:
        """Return the numbers of rows that move here from other batches."""
        cursor = self._database.execute("SELECT id FROM known WHERE is_moved AND is_matched")
        return [id_ for (id_,) in cursor]

    def rows(self, *verdicts: Verdict) -> Iterator[Stored]:
        """Yield the rows of these verdicts, or all, in their order."""
        marks = ", ".join("?" * len(verdicts))
        where = f"WHERE verdict IN ({marks})" if verdicts else ""
        cursor = self._database.execute(f"SELECT * FROM row {where} ORDER BY pos", verdicts)  # noqa: S608  of fixed texts
        for values in cursor:
            yield Stored(*values)

    def keep(self, ids: Sequence[tuple[int, int]]) -> None:
        """Note under which numbers rows are known from now on, by their place."""
        self._database.executemany(
            "UPDATE row SET known = ? WHERE pos = ?", [(known, pos) for pos, known in ids]
        )

    def edits(self, limit: int) -> Iterator[tuple[Stored, int]]:
        """Yield rows that look like edits, each with the number of the posted row that is gone."""
        cursor = self._database.execute(
            """
            SELECT row.*, pair.id FROM row JOIN (
                SELECT edit.pos, gone.id FROM (
                    SELECT pos, lead, row_number() OVER (PARTITION BY lead ORDER BY pos) AS number
                    FROM row WHERE verdict = 'edit'
                ) edit JOIN (
                    SELECT id, lead, row_number() OVER (PARTITION BY lead ORDER BY id) AS number
                    FROM known WHERE state = 'posted' AND NOT is_matched AND NOT is_moved
                ) gone USING (lead, number)
            ) pair USING (pos) ORDER BY row.pos LIMIT ?
            """,
            (limit,),
        )
        for values in cursor:
            yield Stored(*values[:13]), values[-1]

    def faults(self) -> list[FaultGroup]:
        """Return the faults of invalid rows in groups, in the order of their first rows."""
        groups: dict[tuple[str, str], list[Any]] = {}
        for row in self.rows("invalid"):
            place = f"line {row.line}" + (f", item {row.item}" if row.item else "")
            for fault in row.reasons():
                group = groups.setdefault((fault.column, fault.what), [fault, place, 0])
                group[2] += 1
        return [FaultGroup(*group) for group in groups.values()]

    def unknown_row(self) -> int | None:
        """Return the line of the first row that is not known, None if all are."""
        found = self._database.execute(
            "SELECT line FROM row WHERE known IS NULL ORDER BY pos LIMIT 1"
        ).fetchone()
        return None if found is None else int(found[0])


def _lead_id(row: Row) -> str:
    payload = row.payload or {}
    return str(payload.get("RelatedProspectId") or payload.get("EmailAddress") or "")
