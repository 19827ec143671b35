# ruff: noqa: S608  the statements are made of fixed texts
"""
The rows of a file compared with those of earlier runs, and what to do with each.

Both are in tables of the temporary database of `Rows`, as there may be hundreds of thousands.
"""

import sqlite3
from collections.abc import Iterable

from leadpost.cli.files.comparing.ledger import Known
from leadpost.cli.files.comparing.plan import DIGEST_PARTS, Plan, Rows
from leadpost.cli.files.reading.row import SENT

_TABLES = f"""
CREATE TABLE earlier (
    id INTEGER PRIMARY KEY, batch, has_other_keys, row_key, digest_read, digest_sent, number,
    is_gone, -- from its file, when that was posted last
    kind,
    {DIGEST_PARTS}
);
CREATE INDEX earlier_row_key ON earlier (row_key);
CREATE TABLE gone (id INTEGER PRIMARY KEY, lead, given, posts, known_by);
CREATE INDEX gone_posts ON gone (posts);
"""
_OWN = "batch = :batch AND NOT has_other_keys"
_POSTED = f"SELECT digest_sent FROM earlier WHERE kind = 'posted' AND {_OWN}"
_LIKE_POSTED = " OR ".join(
    f"{part} IN (SELECT {part} FROM earlier WHERE kind = 'posted' AND {_OWN} {unless})"
    for part, unless in (
        ("lead", ""),
        ("given", ""),
        ("posts", "GROUP BY posts HAVING count(*) = 1"),  # it may be said of several leads
    )
)
_LEFT = "id NOT IN (SELECT known FROM file WHERE known IS NOT NULL)"
_NOT_HERE = " AND ".join(
    f"{digest} NOT IN (SELECT {digest} FROM file)" for digest in ("digest_sent", "digest_read")
)


def _pair(column: str, equal: str, *, rows: str, earlier: str) -> str:
    """
    Return a statement that finds an earlier row for each row, each earlier one once.

    Args:
        column: Where to write its number.
        equal: The column that must be equal. Of several earlier rows, posted ones come first.
        rows: Which rows of the file need one.
        earlier: Which earlier rows may be used.
    """
    return f"""
    UPDATE file SET {column} = pair.id FROM (
        SELECT max(n) AS n, max(id) AS id FROM (
            SELECT {equal}, n, NULL AS id,
                row_number() OVER (PARTITION BY {equal} ORDER BY n) AS nth
            FROM file WHERE {rows} AND EXISTS (SELECT 1 FROM earlier WHERE {earlier} AND {_LEFT})
            UNION ALL
            SELECT {equal}, NULL, id, row_number() OVER (
                PARTITION BY {equal}
                ORDER BY instr('posted pending rejected failed invalid', kind), id
            )
            FROM earlier WHERE EXISTS (SELECT 1 FROM file WHERE {rows}) AND {earlier} AND {_LEFT}
        ) GROUP BY {equal}, nth HAVING count(*) = 2 -- a row, and an earlier one
    ) AS pair WHERE pair.n = file.n
    """


def _found_elsewhere(column: str, mine: str, theirs: str, *, rows: str, earlier: str) -> str:
    """
    Return a statement that finds a row of another batch for each row that is like it.

    Args:
        column: Where to write its number, unless there is one.
        mine: The column of the row that must be equal
        theirs: to this column of the other one.
        rows: Which rows of the file may be found.
        earlier: Which rows of other batches count.
    """
    return f"""
    UPDATE file SET {column} = other.id FROM (
        SELECT {theirs} AS equal, has_other_keys, max(id) AS id FROM earlier
        WHERE ({earlier}) AND NOT ({_OWN}) GROUP BY {theirs}, has_other_keys
    ) AS other
    WHERE other.equal = file.{mine} AND {column} IS NULL AND {rows}
    """


_STEPS = (
    # Its key says which row it is: one that was not posted may be another activity than before,
    # unless the same fix was posted from the input.
    f"""
    UPDATE file SET keyed = one.id, known = CASE
        WHEN one.kind = 'withdrawn' THEN NULL
        WHEN one.digest_sent IN (file.digest_read, file.digest_sent) THEN one.id
        WHEN one.kind = 'posted' AND one.digest_read <> file.digest_read THEN NULL
        WHEN one.kind <> 'posted' AND file.digest_sent IN ({_POSTED}) THEN NULL
        ELSE one.id
    END
    FROM earlier AS one WHERE one.row_key = file.row_key AND known IS NULL
    """,
    # What it sends counts, and what it was in the file that it came from.
    *(
        _pair("known", digest, rows="known IS NULL", earlier=f"kind <> 'withdrawn' AND {_OWN}")
        for digest in ("digest_sent", "digest_read")
    ),
    *(
        _pair(
            "moved",
            digest,
            rows="known IS NULL AND moved IS NULL AND problems IS NULL",
            earlier="kind IN ('pending', 'rejected') AND batch <> :batch AND NOT has_other_keys"
            " AND id NOT IN (SELECT moved FROM file WHERE moved IS NOT NULL)",
        )
        for digest in ("digest_sent", "digest_read")
    ),
    *(
        _found_elsewhere(
            "elsewhere",
            mine,
            theirs,
            rows="(moved IS NULL OR has_other_keys)",
            earlier="kind IN ('posted', 'failed') OR kind = 'pending' AND has_other_keys",
        )
        for mine, theirs in (
            ("digest_sent", "digest_sent"),
            ("digest_read", "digest_sent"),
            ("digest_read", "digest_read"),
        )
    ),
    # Another file may say otherwise what happened then, as one exported with other columns does.
    *(
        _found_elsewhere(
            "edited",
            mine,
            theirs,
            rows="elsewhere IS NULL AND problems IS NULL AND (known IS NULL OR known IN"
            " (SELECT id FROM earlier WHERE kind IN ('rejected', 'failed', 'invalid')))",
            earlier=f"kind IN ('posted', 'pending') AND {_NOT_HERE}",
        )
        for mine, theirs in (
            ("occasion", "occasion"),
            ("given_occasion", "occasion"),
            ("given_occasion", "given_occasion"),
        )
    ),
    # A batch that has most of its rows in this file is the same file under another name. Rejects
    # have only some rows of a file: what is gone from that was recorded when it was posted.
    f"""
    INSERT INTO gone SELECT id, lead, given, posts, known_by
    FROM earlier WHERE kind = 'posted' AND NOT has_other_keys AND {_LEFT}
        AND CASE WHEN :are_rejects THEN batch = :batch AND is_gone
        ELSE batch = :batch OR {_NOT_HERE} AND batch IN (
            SELECT batch FROM earlier WHERE kind = 'posted' AND NOT has_other_keys GROUP BY batch
            HAVING 2 * sum(occasion IN (SELECT occasion FROM file)) > count(*)
        ) END
    """,
    """
    UPDATE file SET decision = CASE
        WHEN kind = 'posted' THEN 'posted'
        WHEN kind = 'pending' AND NOT is_corrected THEN 'pending'
        WHEN kind = 'failed' AND NOT :are_rejects THEN 'failed'
        WHEN problems IS NOT NULL THEN 'invalid'
        WHEN kind = 'invalid' OR is_corrected THEN 'corrected'
        WHEN kind IN ('rejected', 'failed') THEN 'again'
        ELSE 'new'
    END
    FROM (
        SELECT n, kind, coalesce(known = keyed, 0) AND earlier.digest_sent IS NOT file.digest_sent
            AS is_corrected
        FROM file LEFT JOIN earlier ON id = known
    ) AS found WHERE found.n = file.n
    """,
    # The row that a key names may have been posted, or be gone from its file: then it was fixed
    # there if a posted row is like it. Any other edit has the lead of a row that is gone, or the
    # rest of it, and a lead that cannot be compared. Another address for a lead that was created
    # may be a correction, unless several rows say the same.
    f"""
    UPDATE file SET decision = CASE WHEN elsewhere IS NULL THEN 'edit' ELSE 'elsewhere' END
    WHERE :asks AND decision IN {SENT} AND (
        coalesce(elsewhere, edited) IS NOT NULL
        OR (known IS NULL OR keyed IN (SELECT id FROM earlier WHERE is_gone)) AND (
            keyed IN (SELECT id FROM earlier WHERE kind = 'posted')
            OR keyed IS NOT NULL AND ({_LIKE_POSTED})
        )
        OR decision IN ('new', 'corrected') AND (
            lead IN (SELECT lead FROM gone) OR given IN (SELECT given FROM gone)
            OR EXISTS (
                SELECT 1 FROM gone WHERE gone.posts = file.posts AND (
                    gone.known_by <> file.known_by OR gone.known_by IS NULL
                    OR known IN (SELECT id FROM earlier WHERE known_by IS NULL)
                )
            )
            OR posts IN (
                SELECT posts FROM gone WHERE lead LIKE '?%' GROUP BY posts HAVING count(*) = 1
            )
        )
    )
    """,
    *(
        _pair(
            "edited",
            part,
            rows="decision = 'edit' AND edited IS NULL",
            earlier="id IN (SELECT id FROM gone)",
        )
        for part in ("lead", "given", "posts")
    ),
    f"""
    UPDATE file SET decision = 'later' WHERE decision IN {SENT} AND (
        n >= (SELECT n FROM file WHERE decision IN {SENT} ORDER BY n LIMIT 1 OFFSET :first)
        OR is_later
    )
    """,
)
_NUMBERS = f"""
UPDATE file SET number = found.number FROM (
    SELECT n, coalesce(top, 0) + row_number() OVER (PARTITION BY digest_read ORDER BY n) AS number
    FROM file LEFT JOIN
        (SELECT digest_read, max(number) AS top FROM earlier WHERE {_OWN} GROUP BY digest_read)
    USING (digest_read) WHERE known IS NULL
) AS found WHERE found.n = file.n
"""


class Matching:
    """
    Compares rows with those of earlier runs.

    Rejects have only some rows of their batch, so that those that they lack are not gone.
    """

    def __init__(self, rows: Rows, batch: str, *, are_rejects: bool) -> None:
        self._rows = rows
        self._values: dict[str, object] = {"batch": batch, "are_rejects": are_rejects}
        rows.database.executescript(_TABLES)

    def know(self, earlier: Iterable[Known]) -> None:
        """Add rows of earlier runs."""
        places = ", ".join("?" * 9)
        self._rows.database.executemany(f"INSERT OR IGNORE INTO earlier VALUES ({places})", earlier)

    @property
    def other_batches(self) -> list[str]:
        """The names of the other batches of this account that have the same activities."""
        query = f"SELECT DISTINCT batch FROM earlier WHERE NOT has_other_keys AND NOT ({_OWN})"
        return [name for (name,) in self._all(query)]

    def match(self, first: int | None = None) -> None:
        """Find rows about which the account need not be asked: what becomes of them is known."""
        if first is None and not self._all("SELECT EXISTS (SELECT 1 FROM earlier)").fetchone()[0]:
            return
        self.decide(first)
        self._all("UPDATE file SET is_later = true WHERE decision = 'later'")
        decided = "('posted', 'pending', 'failed', 'later')"
        self._all(f"UPDATE file SET decision = NULL WHERE decision NOT IN {decided}")
        # What was put is sent as it is, and may have been posted elsewhere since.
        query = "SELECT digest_sent FROM earlier WHERE id = known"
        self._all(f"UPDATE file SET digest_sent = ({query}) WHERE decision = 'pending'")

    def decide(self, first: int | None = None, *, asks: bool = True) -> Plan:
        """Decide about each row: at most `first` are sent; if it `asks`, no possible duplicates."""
        self._values |= {"first": len(self._rows) if first is None else first, "asks": asks}
        # What was decided before the account was asked stays.
        self._all(
            "UPDATE file SET keyed = NULL, known = NULL, moved = NULL, elsewhere = NULL,"
            " edited = NULL WHERE decision IS NULL"
            " AND coalesce(keyed, known, moved, elsewhere, edited) IS NOT NULL"
        )
        self._all("DELETE FROM gone")
        for step in _STEPS:
            self._all(step)
        plan = Plan(self._rows)
        query = "SELECT id FROM file JOIN earlier ON id = known WHERE kind = 'pending'"
        left = f"{query} AND decision IN ('elsewhere', 'edit', 'later')"
        plan.unsent += [id_ for (id_,) in self._all(left)]
        query = f"SELECT id, kind FROM earlier WHERE {_OWN} AND {_LEFT}"
        if self._values["are_rejects"]:
            plan.waiting = sum(kind == "pending" for _, kind in self._all(query))
        else:
            # Nothing sends the others unasked; they stay as they are if they come back.
            for id_, _ in self._all(f"{query} AND kind IN ('pending', 'rejected')"):
                plan.unsent.append(id_)
                plan.withdrawn += 1
            query = f"SELECT id, kind, {_LEFT} AS is_left FROM earlier WHERE {_OWN}"
            others = "kind IN ('posted', 'failed', 'invalid') AND is_left <> is_gone"
            gone = plan.withdrawn
            for id_, kind, is_left in self._all(f"{query} AND {others}"):
                (plan.gone if is_left else plan.back).append(id_)
                gone += is_left and kind != "invalid"
            ((kept,),) = self._all("SELECT count(known) FROM file")
            plan.is_edited = kept > gone
        query = "SELECT moved FROM file WHERE moved IS NOT NULL AND decision = 'new'"
        for (id_,) in self._all(query):
            plan.unsent.append(id_)
            plan.moved += 1
        query = "SELECT batch, has_other_keys FROM file JOIN earlier ON id = elsewhere"
        for batch, has_other_keys in self._all(f"{query} WHERE decision = 'elsewhere'"):
            plan.batches[batch] += 1
            plan.other_keys += has_other_keys
        ((plan.known, plan.edits_of_unsent),) = self._all(
            "SELECT count(kind IN ('posted', 'failed') OR NULL), count(decision = 'edit' AND"
            " kind = 'pending' OR NULL) FROM file JOIN earlier ON id = coalesce(elsewhere, edited,"
            " known)"
        )
        ((plan.newly_invalid,),) = self._all(
            "SELECT count(*) FROM file LEFT JOIN earlier ON id = known"
            " WHERE decision = 'invalid' AND earlier.digest_read IS NOT file.digest_read"
        )
        return plan

    def missing(self, row_keys: Iterable[str], *, is_edited: bool) -> int:
        """
        Return how many keys of a rejects file name rows to fix that this file does not have.

        Of an edited file, those that it had until now do not count: they were fixed or deleted.
        """
        self._all("CREATE TABLE IF NOT EXISTS rejected (row_key)")
        self._all("DELETE FROM rejected")
        insert = "INSERT INTO rejected VALUES (?)"
        self._rows.database.executemany(insert, ((key,) for key in row_keys))
        found = self._rows.database.execute(
            "SELECT count(*) FROM rejected LEFT JOIN earlier USING (row_key)"
            f" WHERE id IS NULL OR kind <> 'posted' AND {_LEFT}"
            " AND (NOT ? OR is_gone OR kind = 'withdrawn')",
            (is_edited,),
        )
        return int(found.fetchone()[0])

    def number(self) -> None:
        """Number the new rows, see `Row.number`, once it is decided to send some."""
        self._all(_NUMBERS)

    def _all(self, query: str) -> sqlite3.Cursor:
        return self._rows.database.execute(query, self._values)
