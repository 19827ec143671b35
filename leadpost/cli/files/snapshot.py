# ruff: noqa: S608  the statements are made of fixed texts
"""
The rows of a file as they were when it was read, compared with what the outbox knows.

Both are in one private database, which SQLite keeps in memory and, where it grows, in a temporary
file without a name: a file of any size needs the same memory, nothing stays behind, a file that is
changed while it is being posted does no harm, and comparing is a few statements.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from leadpost.cli.files import matching
from leadpost.cli.files.matching import GONE, MOVED
from leadpost.cli.files.plan import DOUBTFUL, Plan, Verdict
from leadpost.cli.files.reading import Fault
from leadpost.cli.files.records import FaultGroup, Outcome, Stored
from leadpost.cli.files.rows import Row, place_of

KNOWN_COLUMNS = (
    *("id", "letters", "origin", "present", "lead", "number", "last"),
    *("state", "request_id", "activity_id", "error_type", "message"),
)
"""
What the outbox knows of a row: the letters of its key, which rejects files have; the digest that it
had in the file that it came from, and the one that its entry has now (None without an entry); the
digest of its lead; its number among those of the same origin, from 1 (None once it is withdrawn);
and the state that was seen last. The others are those of its entry, None once that is pruned.
"""
FAILED_BY_QUEUE = "failed by the queue"
"""In place of the last state of a pruned entry that LeadSquared's queue has failed for good."""
_CACHE = 8_000
"""Kilobytes of the database that stay in memory."""
_TABLES = f"""
CREATE TABLE row (
    pos INTEGER PRIMARY KEY, line INT, item INT, digest TEXT, lead TEXT, is_valid INT, letters TEXT,
    known INT, verdict TEXT, number INT, present TEXT
);
CREATE TABLE content (pos INTEGER PRIMARY KEY, lead_id TEXT, own TEXT, faults TEXT);
CREATE VIEW stored AS
    SELECT pos, line, item, digest, lead, lead_id, own, faults, letters, known, verdict, number,
        present
    FROM row JOIN content USING (pos);
CREATE TABLE known (
    id INTEGER PRIMARY KEY, letters TEXT, origin TEXT, present TEXT, lead TEXT, number INT,
    last TEXT, state TEXT, request_id TEXT, activity_id TEXT, error_type TEXT, message TEXT,
    batch TEXT, has_other_keys INT, is_matched INT DEFAULT 0,
    kind TEXT AS (CASE
        WHEN number IS NULL THEN 'withdrawn'
        WHEN present IS NULL THEN 'invalid'
        WHEN state = 'pending' THEN 'waiting'
        WHEN state = 'failed' AND request_id IS NOT NULL THEN 'failed'
        WHEN coalesce(state, last) = '{FAILED_BY_QUEUE}' THEN 'failed'
        WHEN coalesce(state, last) IN ('rejected', 'failed') THEN 'refused'
        ELSE 'posted' END) STORED
);
CREATE VIEW posted_elsewhere AS
    SELECT present AS digest, batch, has_other_keys FROM known
    WHERE batch IS NOT NULL AND kind = 'posted';
"""
# A row of another batch has that one's name as its `batch`.
_OUTCOMES = f"""
WITH seen AS (
    SELECT stored.*, known.letters AS key, kind, coalesce(state, last) AS state, request_id,
        activity_id, error_type, message
    FROM stored LEFT JOIN known ON known.id = stored.known
), outcome AS (
    SELECT *, CASE
        WHEN state IS NULL AND verdict IN {DOUBTFUL} THEN 'skipped'
        WHEN state IS NULL AND faults IS NOT NULL THEN 'invalid'
        WHEN state IS NULL THEN iif(verdict = 'posted', 'accepted', 'not_sent')
        WHEN state = 'pending' THEN iif(error_type IS 'DeliveryUncertain', 'uncertain', 'not_sent')
        WHEN state = 'sending' THEN 'uncertain'
        WHEN state = '{FAILED_BY_QUEUE}' THEN 'failed'
        ELSE state END AS word
    FROM seen
)
SELECT line, lead_id, word, request_id, activity_id,
    iif(word = 'invalid', 'InvalidActivity', error_type), message, faults, own, key,
    key IS NOT NULL AND (word IN ('invalid', 'rejected') OR kind = 'failed')
FROM outcome ORDER BY pos
"""
_POSTPONED = "row JOIN known ON known.id = row.known WHERE verdict = 'later' AND kind = 'waiting'"


class Snapshot:
    """The rows of one file, and what is known of each."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")  # nothing is ever rolled back
        self._database.execute(f"PRAGMA cache_size = -{_CACHE}")
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
        numbered = [*enumerate(rows, self._next)]
        self._next += len(numbered)
        self._database.executemany(
            "INSERT INTO row (pos, line, item, digest, present, lead, is_valid, letters)"
            " VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7)",
            [
                (pos, row.line, row.item, row.digest, row.lead, not row.faults, row.key)
                for pos, row in numbered
            ],
        )
        self._database.executemany(
            "INSERT INTO content (pos, lead_id, own, faults) VALUES (?, ?, ?, ?)",
            [
                (
                    pos,
                    row.lead_id,
                    json.dumps(row.own, ensure_ascii=False),
                    _faults_json(row.faults) if row.faults else None,
                )
                for pos, row in numbered
            ],
        )
        return len(numbered)

    def add_known(self, rows: Iterable[Sequence[Any]], *, are_elsewhere: bool = False) -> None:
        """
        Add rows of earlier runs; those that were added before are changed.

        Args:
            rows: The values of `KNOWN_COLUMNS` for each.
            are_elsewhere: Whether they are of other batches: then the name of the batch, and
                whether it was posted with other keys, come after these values.
        """
        columns = KNOWN_COLUMNS + (("batch", "has_other_keys") if are_elsewhere else ())
        marks = ", ".join("?" * len(columns))
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
        self._database.executemany(
            f"INSERT INTO known ({', '.join(columns)}) VALUES ({marks})"
            f" ON CONFLICT (id) DO UPDATE SET {changed}",
            rows,
        )

    def clear(self) -> None:
        """Remove the rows, to read them anew."""
        self._database.execute("DELETE FROM row")
        self._database.execute("DELETE FROM content")
        self._next = 0

    # Settling what a row sends: for that, the account is asked.

    def unsettled(self, size: int) -> Iterator[list[Stored]]:
        """Yield, so many at a time, valid rows that the outbox may have to get."""
        last = -1
        query = """
            SELECT stored.* FROM stored LEFT JOIN known ON known.id = stored.known
            WHERE pos > ? AND faults IS NULL AND (known.id IS NULL AND verdict IS NULL
                OR kind IN ('refused', 'failed') AND state IS NULL)
            ORDER BY pos LIMIT ?
            """
        while part := [Stored(*v) for v in self._database.execute(query, (last, size))]:
            yield part
            last = part[-1].pos

    def invalid_before(self, digests: Iterable[str]) -> set[str]:
        """Return those digests that invalid rows of earlier runs have."""
        query = "SELECT 1 FROM known WHERE kind = 'invalid' AND origin = ?"
        return {d for d in digests if self._database.execute(query, (d,)).fetchone()}

    def settle(self, rows: Iterable[tuple[int, str, str]]) -> None:
        """Note of rows, by their place, the digest of what they send, and of their lead."""
        self._database.executemany("UPDATE row SET present = ?2, lead = ?3 WHERE pos = ?1", rows)

    def refuse(self, rows: Iterable[tuple[int, str, Sequence[Fault]]]) -> None:
        """Note of rows, by their place, that they cannot be posted: the digest then, and why."""
        noted = [(pos, digest, _faults_json(faults)) for pos, digest, faults in rows]
        self._database.executemany(
            "UPDATE row SET digest = ?2, present = ?2, lead = '', is_valid = 0 WHERE pos = ?1",
            [values[:2] for values in noted],
        )
        self._database.executemany(
            "UPDATE content SET faults = ?2 WHERE pos = ?1", [(v[0], v[2]) for v in noted]
        )

    # Comparing.

    def match_keys(self) -> None:
        """Find the rows of a rejects file by their keys."""
        matching.match_keys(self._database)

    def match(self) -> None:
        """Find the rows that were there before, by what they were and by what they are now."""
        matching.match(self._database)

    def judge(self, *, are_rejects: bool, first: int | None = None) -> Plan:
        """
        Decide what to do with each row.

        Args:
            are_rejects: Whether the file has a part of the rows only: those that are not in it
                are not gone.
            first: How many rows are sent at most.
        """
        return matching.judge(self._database, are_rejects=are_rejects, first=first)

    def unmatched(self, size: int) -> Iterator[list[str]]:
        """Yield the digests of new and corrected rows, and of what they would send."""
        which = "known IS NULL AND verdict IS NULL OR verdict = 'corrected'"
        cursor = self._database.execute(
            f"SELECT digest FROM row WHERE {which} UNION SELECT present FROM row WHERE {which}"
        )
        while part := cursor.fetchmany(size):
            yield [digest for (digest,) in part]

    def _ids(self, of: str) -> list[int]:
        return [id_ for (id_,) in self._database.execute(f"SELECT known.id FROM {of}")]

    def post_doubtful(self) -> None:
        """Have doubtful rows posted too."""
        self._database.execute(
            "UPDATE row SET verdict = iif(known IS NULL, 'new', 'corrected')"
            " WHERE verdict IN (?, ?)",
            DOUBTFUL,
        )

    # Reading it.

    def gone(self) -> list[int]:
        """Return the numbers of rows of earlier runs that are not in the file, and not posted."""
        return self._ids(f"{GONE} ORDER BY id")

    def postponed(self) -> list[int]:
        """Return the numbers of rows that are in the outbox, but not to be sent by this run."""
        return self._ids(f"{_POSTPONED} ORDER BY pos")

    def forget_postponed(self) -> None:
        """Note that the rows of `postponed` are not in the outbox any more."""
        self._database.execute(
            "UPDATE row SET known = NULL WHERE verdict = 'later'"
            f" AND known IN (SELECT known.id FROM {_POSTPONED})"
        )

    def moved(self) -> list[int]:
        """Return the numbers of rows that move here from other batches."""
        return self._ids(MOVED)

    def rows(self, *verdicts: Verdict) -> Iterator[Stored]:
        """Yield the rows of these verdicts, or all, in their order."""
        marks = ", ".join("?" * len(verdicts))
        where = f"WHERE verdict IN ({marks})" if verdicts else ""
        cursor = self._database.execute(f"SELECT * FROM stored {where} ORDER BY pos", verdicts)
        for values in cursor:
            yield Stored(*values)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield what became of each row, in their order."""
        for values in self._database.execute(_OUTCOMES):
            yield Outcome(*values)

    def changed(self) -> list[tuple[int, str]]:
        """Return the numbers of rows whose entries are not in the state that was seen last."""
        cursor = self._database.execute(
            f"SELECT id, iif(kind = 'failed', '{FAILED_BY_QUEUE}', state) AS seen FROM known"
            " WHERE state IS NOT NULL AND seen IS NOT last"
        )
        return cursor.fetchall()

    def keep(self, ids: Sequence[tuple[int, int]]) -> None:
        """Note under which numbers rows are known from now on, by their place."""
        self._database.executemany("UPDATE row SET known = ?2 WHERE pos = ?1", ids)

    def edits(self, limit: int) -> Iterator[tuple[Stored, int]]:
        """Yield rows that look like edits, each with the number of the posted row that is gone."""
        cursor = self._database.execute(
            """
            SELECT stored.*, pair.id FROM stored JOIN (
                SELECT edit.pos, gone.id FROM (
                    SELECT pos, lead, row_number() OVER (PARTITION BY lead ORDER BY pos) AS number
                    FROM row WHERE verdict = 'edit'
                ) edit JOIN (
                    SELECT id, lead, row_number() OVER (PARTITION BY lead ORDER BY id) AS number
                    FROM known WHERE kind = 'posted' AND NOT is_matched AND batch IS NULL
                ) gone USING (lead, number)
            ) pair USING (pos) ORDER BY pos LIMIT ?
            """,
            (limit,),
        )
        for values in cursor:
            yield Stored(*values[:-1]), values[-1]

    def faults(self) -> list[FaultGroup]:
        """Return the faults of invalid rows in groups, in the order of their first rows."""
        cursor = self._database.execute(
            """
            SELECT fault.value, min(pos), line, item, count(DISTINCT pos)
            FROM stored, json_each(faults) fault WHERE verdict = 'invalid'
            GROUP BY json_extract(fault.value, '$[0]'), json_extract(fault.value, '$[2]')
            ORDER BY min(pos), fault.key
            """
        )
        return [
            FaultGroup(Fault(*json.loads(fault)), place_of(line, item), rows)
            for fault, _, line, item, rows in cursor
        ]

    def unknown_row(self) -> int | None:
        """Return the line of the first row that is not known, None if all are."""
        (line,) = self._database.execute("SELECT min(line) FROM row WHERE known IS NULL").fetchone()
        return None if line is None else int(line)


def _faults_json(faults: Iterable[Fault]) -> str:
    return json.dumps([fault.parts for fault in faults])
