# ruff: noqa: S608  the statements are made of fixed texts
"""
The rows of a file compared with those of earlier runs, and what to do with each.

Both are in tables of a temporary SQLite database, as there may be hundreds of thousands of them.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from sys import intern
from typing import Any, Self

from leadpost.cli.files.ledger import Known
from leadpost.cli.files.plan import SENT, Plan, Planned, Rows

_PARTS = "content AS (substr(present, 1, 32)), lead AS (substr(present, 33))"
"""What is posted, and the lead: see `activity_digest`."""
_TABLES = f"""
CREATE TABLE earlier (
    id INTEGER PRIMARY KEY, batch, has_other_keys, letters, origin, present, number,
    is_gone, -- from its file, when that was posted last
    kind,
    {_PARTS}
);
CREATE INDEX earlier_letters ON earlier (letters);
CREATE TABLE file (
    n INTEGER PRIMARY KEY, digest, present, letters, is_valid,
    keyed, -- the earlier row that its key names
    known, -- the earlier row that it is
    moved, -- one of another file, not sent, that it takes the place of
    elsewhere, -- one of another batch that has posted the same activity
    edited, -- a posted one that is gone from the file, and that it may be an edit of
    verdict,
    {_PARTS}
);
CREATE TABLE gone (
    id INTEGER PRIMARY KEY, lead,
    content -- NULL if its lead was in the file, by its id
);
"""
_OWN = "batch = :batch AND NOT has_other_keys"
_POSTED = f"SELECT present FROM earlier WHERE kind = 'posted' AND {_OWN}"
_LEFT = "id NOT IN (SELECT known FROM file WHERE known IS NOT NULL)"


def _pair(column: str, of_file: str, of_earlier: str, *, rows: str, earlier: str) -> str:
    """
    Return a statement that finds an earlier row for each row, each earlier one once.

    Args:
        column: Where to write its number.
        of_file: The column of the file that must be equal.
        of_earlier: The column that it must be equal to. Of several rows, posted ones come first.
        rows: Which rows of the file need one.
        earlier: Which earlier rows may be used.
    """
    return f"""
    UPDATE file SET {column} = pair.id FROM (
        SELECT n, id FROM (
            SELECT n, {of_file} AS digest,
                row_number() OVER (PARTITION BY {of_file} ORDER BY n) AS nth
            FROM file WHERE {rows} AND {of_file} IN ( -- most rows need not be sorted
                SELECT {of_earlier} FROM earlier WHERE {earlier} AND {_LEFT}
            )
        ) JOIN (
            SELECT id, {of_earlier} AS digest, row_number() OVER (
                PARTITION BY {of_earlier}
                ORDER BY instr('posted pending rejected failed invalid', kind), id
            ) AS nth
            FROM earlier WHERE {earlier} AND {_LEFT}
        ) USING (digest, nth)
    ) AS pair WHERE pair.n = file.n
    """


_STEPS = (
    # Its key says which row it is: one that was not posted may be another activity than before,
    # unless the same fix was posted from the input.
    f"""
    UPDATE file SET keyed = one.id, known = CASE
        WHEN one.kind = 'withdrawn' THEN NULL
        WHEN one.present IN (file.digest, file.present) THEN one.id
        WHEN one.kind = 'posted' AND one.origin <> file.digest THEN NULL
        WHEN one.kind <> 'posted' AND file.present IN ({_POSTED}) THEN NULL
        ELSE one.id
    END
    FROM earlier AS one WHERE one.letters = file.letters AND known IS NULL
    """,
    # What it sends counts, and what it was in the file that it came from.
    *(
        _pair(
            "known", mine, theirs, rows="known IS NULL", earlier=f"kind <> 'withdrawn' AND {_OWN}"
        )
        for mine, theirs in (("present", "present"), ("digest", "origin"))
    ),
    _pair(
        "moved",
        "present",
        "present",
        rows="known IS NULL AND is_valid",
        earlier="kind IN ('pending', 'rejected') AND batch <> :batch AND NOT has_other_keys",
    ),
    *(
        f"""
        UPDATE file SET elsewhere = other.id FROM (
            SELECT present, max(id) AS id FROM earlier
            WHERE kind IN ('posted', 'failed') AND NOT ({_OWN}) GROUP BY present
        ) AS other
        WHERE other.present = file.{mine} AND moved IS NULL AND elsewhere IS NULL
        """
        for mine in ("present", "digest")
    ),
    # A batch that has most of its rows in this file is the same file under another name. Rejects
    # have only some rows of a file: what is gone from that was recorded when it was posted.
    f"""
    INSERT INTO gone SELECT id, lead,
        CASE WHEN lead LIKE '?%' OR length(origin) = 32 THEN content END
    FROM earlier
    WHERE kind = 'posted' AND NOT has_other_keys AND {_LEFT}
        AND id NOT IN (SELECT elsewhere FROM file WHERE elsewhere IS NOT NULL)
        AND CASE WHEN :are_rejects THEN batch = :batch AND is_gone
        ELSE batch = :batch OR batch IN (
            SELECT batch FROM earlier LEFT JOIN (SELECT DISTINCT elsewhere FROM file)
                ON elsewhere = id
            WHERE kind = 'posted' AND NOT has_other_keys
            GROUP BY batch HAVING 2 * count(elsewhere) > count(*)
        ) END
    """,
    """
    UPDATE file SET verdict = CASE
        WHEN kind = 'posted' THEN 'posted'
        WHEN kind = 'pending' AND NOT is_corrected THEN 'pending'
        WHEN kind = 'failed' AND NOT :are_rejects THEN 'failed'
        WHEN NOT is_valid THEN 'invalid'
        WHEN keyed IS NOT NULL AND file.known IS NULL THEN 'edit'
        WHEN elsewhere IS NOT NULL THEN 'elsewhere'
        WHEN kind IN ('rejected', 'failed') AND NOT is_corrected THEN 'again'
        WHEN lead IN (SELECT lead FROM gone) OR content IN (SELECT content FROM gone) THEN 'edit'
        WHEN is_corrected THEN 'corrected'
        WHEN file.known IS NOT NULL THEN 'again'
        ELSE 'new'
    END
    FROM (
        SELECT n, kind, coalesce(known = keyed, 0) AND earlier.present IS NOT file.present
            AS is_corrected
        FROM file LEFT JOIN earlier ON id = known
    ) AS found WHERE found.n = file.n
    """,
    *(
        _pair(
            "edited",
            part,
            part,
            rows="verdict = 'edit' AND edited IS NULL",
            earlier="id IN (SELECT id FROM gone)",
        )
        for part in ("lead", "content")
    ),
)
_RESULT = f"""
SELECT known, verdict, edited,
    coalesce(top, 0) + row_number() OVER (PARTITION BY digest, known IS NULL ORDER BY n)
FROM file
LEFT JOIN (SELECT origin, max(number) AS top FROM earlier WHERE {_OWN} GROUP BY origin)
    ON origin = digest
ORDER BY n
"""


class Matching:
    """
    Compares rows with those of earlier runs.

    Args:
        rows: The rows of the file.
        batch: The name of its batch.
        are_rejects: Whether it is a rejects file: it has only some of the rows, so that those that
            are not in it are not gone.
    """

    def __init__(self, rows: Rows, batch: str, *, are_rejects: bool) -> None:
        self._rows = rows
        self._values = {"batch": batch, "are_rejects": are_rejects}
        self._database = sqlite3.connect("")  # a file without a name
        self._database.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def know(self, earlier: Iterable[Known]) -> None:
        """Add rows of earlier runs."""
        places = ", ".join("?" * 9)
        self._database.executemany(f"INSERT OR IGNORE INTO earlier VALUES ({places})", earlier)

    @property
    def other_batches(self) -> list[str]:
        """The names of the other batches of this account that have the same activities."""
        query = f"SELECT DISTINCT batch FROM earlier WHERE NOT has_other_keys AND NOT ({_OWN})"
        return [name for (name,) in self._all(query)]

    def match(self, first: int | None = None) -> None:
        """
        Find rows about which the account need not be asked: what becomes of them is known.

        Args:
            first: How many rows are sent at most: those after them are left for later.
        """
        if first is None and not self._all("SELECT EXISTS (SELECT 1 FROM earlier)").fetchone()[0]:
            return
        self.judge(first)
        for row in self._rows:
            if row.verdict not in {"posted", "pending", "failed", "later"}:
                row.verdict = None

    def judge(self, first: int | None = None) -> Plan:
        """
        Decide what to do with each row.

        Args:
            first: How many rows are sent at most.
        """
        plan, sent = Plan(self._rows), 0
        for row, (known, verdict, edited, number) in self._compared():
            is_later = row.verdict == "later"
            row.known, row.verdict, row.edited, row.number = known, verdict, edited, number
            if verdict in SENT:
                sent += 1
                if is_later or (first is not None and sent > first):
                    row.verdict = "later"
                    plan.unsent += [known] if verdict == "pending" else []
        query = f"SELECT id, kind FROM earlier WHERE {_OWN} AND {_LEFT}"
        if self._values["are_rejects"]:
            plan.waiting = sum(kind == "pending" for _, kind in self._all(query))
        else:
            for id_, kind in self._all(f"{query} AND kind NOT IN ('posted', 'withdrawn')"):
                plan.unsent.append(id_)
                plan.withdrawn += kind != "invalid"
            query = f"SELECT id, {_LEFT} AS is_left FROM earlier WHERE {_OWN} AND kind = 'posted'"
            for id_, is_left in self._all(f"{query} AND is_left <> is_gone"):
                (plan.gone if is_left else plan.back).append(id_)
        query = "SELECT moved FROM file WHERE moved IS NOT NULL AND verdict = 'new'"
        for (id_,) in self._all(query):
            plan.unsent.append(id_)
            plan.moved += 1
        query = "SELECT batch, has_other_keys FROM file JOIN earlier ON id = elsewhere"
        for batch, has_other_keys in self._all(f"{query} WHERE verdict = 'elsewhere'"):
            plan.batches[batch] += 1
            plan.other_keys += has_other_keys
        ((plan.newly_invalid,),) = self._all(
            "SELECT count(*) FROM file LEFT JOIN earlier ON id = known"
            " WHERE verdict = 'invalid' AND origin IS NOT digest"
        )
        return plan

    def _compared(self) -> Iterator[tuple[Planned, tuple[Any, ...]]]:
        """Yield each row with `_RESULT`; those about which it is decided stay as they are."""
        self._database.execute("DELETE FROM gone")
        self._database.executemany(
            "INSERT OR REPLACE INTO file (n, digest, present, letters, is_valid)"
            " VALUES (?, ?, ?, ?, ?)",
            (
                (n, row.digest, row.present, row.letters, not row.faults)
                for n, row in enumerate(self._rows)
                if row.verdict is None
            ),
        )
        for step in _STEPS:
            self._all(step)
        for row, (known, verdict, *rest) in zip(self._rows, self._all(_RESULT), strict=True):
            yield row, (known, intern(verdict), *rest)  # or each row had a text of its own

    def _all(self, query: str) -> sqlite3.Cursor:
        return self._database.execute(query, self._values)
