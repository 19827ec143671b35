# ruff: noqa: S608  the statements are made of fixed texts
"""Comparing the rows of a file with those of earlier runs, in the tables of a `Snapshot`."""

import sqlite3
from collections import Counter

from leadpost.cli.files.plan import SENT, Plan, Verdict

MOVED = "known WHERE batch IS NOT NULL AND is_matched"
"""Rows of other batches that are in this file."""
GONE = "known WHERE NOT is_matched AND batch IS NULL AND kind NOT IN ('posted', 'withdrawn')"
"""Rows of earlier runs that are not in this file, and were not posted."""


def match_keys(database: sqlite3.Connection) -> None:
    """Find the rows of a rejects file by their keys."""
    database.execute("CREATE INDEX known_present ON known (present)")
    database.execute(
        """
        UPDATE row SET known = k.id, verdict = CASE
            WHEN k.kind = 'posted' AND (row.digest = k.origin OR k.present IN (digest, row.present))
                THEN 'posted'
            WHEN NOT row.is_valid THEN 'invalid'
            WHEN k.kind IN ('posted', 'withdrawn') THEN 'edit'
            WHEN row.present IS NOT k.present THEN 'corrected'
            WHEN k.kind = 'waiting' THEN 'waiting'
            ELSE 'again' END
        FROM known k WHERE row.letters = k.letters
        """
    )
    # One that was fixed in the input too, and posted from there, is that row.
    database.execute(
        """
        UPDATE row SET known = NULL, verdict = NULL
        WHERE verdict IN ('edit', 'corrected') AND EXISTS (
            SELECT 1 FROM known k WHERE k.kind = 'posted' AND k.present = row.present
            AND (row.verdict = 'edit' OR k.id != row.known))
        """
    )
    database.execute(
        "UPDATE row SET known = NULL WHERE verdict = 'edit' OR known IN"
        " (SELECT id FROM known WHERE kind = 'withdrawn')"
    )
    _mark_matched(database)


def match(database: sqlite3.Connection) -> None:
    """Find the rows that were there before, by what they were and by what they are now."""
    for column, own in (("origin", "digest"), ("present", "present")):
        database.execute(
            f"""
            UPDATE row SET known = pair.id FROM (
                SELECT file.pos, before.id FROM (
                    SELECT pos, {own} AS digest,
                        row_number() OVER (PARTITION BY {own} ORDER BY pos) AS number
                    FROM row WHERE known IS NULL AND verdict IS NULL
                ) file JOIN (
                    SELECT id, {column} AS digest, row_number() OVER (
                        PARTITION BY {column}
                        ORDER BY kind != 'posted', kind != 'waiting', kind != 'refused', id
                    ) AS number
                    FROM known WHERE NOT is_matched AND kind != 'withdrawn'
                    AND (batch IS NULL OR kind != 'posted' AND NOT has_other_keys)
                ) before USING (digest, number)
            ) pair WHERE row.pos = pair.pos
            """
        )
        _mark_matched(database)


def _mark_matched(database: sqlite3.Connection) -> None:
    database.execute(
        "UPDATE known SET is_matched = 1 WHERE NOT is_matched AND id IN (SELECT known FROM row)"
    )


def judge(database: sqlite3.Connection, *, are_rejects: bool, first: int | None = None) -> Plan:
    """
    Decide what to do with each row.

    Args:
        database: That of the snapshot.
        are_rejects: Whether the file has a part of the rows only: those that are not in it
            are not gone.
        first: How many rows are sent at most.
    """
    _number(database)
    # A row that was corrected in a rejects file may be what another file has posted.
    database.execute(
        "UPDATE row SET verdict = 'elsewhere' WHERE verdict = 'corrected' AND ("
        "digest IN (SELECT digest FROM posted_elsewhere)"
        " OR present IN (SELECT digest FROM posted_elsewhere))"
    )
    database.execute(
        """
        UPDATE row SET verdict = CASE (SELECT kind FROM known k WHERE k.id = row.known)
            WHEN 'posted' THEN 'posted'
            WHEN 'waiting' THEN 'waiting'
            WHEN 'refused' THEN 'again'
            WHEN 'failed' THEN iif(:are_rejects, 'again', 'failed')
            WHEN 'invalid' THEN 'invalid'
            ELSE CASE
                WHEN NOT is_valid THEN 'invalid'
                WHEN digest IN (SELECT digest FROM posted_elsewhere)
                    OR present IN (SELECT digest FROM posted_elsewhere) THEN 'elsewhere'
                WHEN NOT :are_rejects AND lead IN (SELECT lead FROM known
                    WHERE kind = 'posted' AND NOT is_matched AND batch IS NULL) THEN 'edit'
                ELSE 'new' END
            END
        WHERE verdict IS NULL
        """,
        {"are_rejects": are_rejects},
    )
    if first is not None:
        sent = f"verdict IN {SENT}"
        database.execute(
            f"UPDATE row SET verdict = 'later' WHERE {sent} AND pos NOT IN"
            f" (SELECT pos FROM row WHERE {sent} ORDER BY pos LIMIT ?)",
            (first,),
        )
    return _plan(database, are_rejects=are_rejects)


def _number(database: sqlite3.Connection) -> None:
    """Number new rows among those of the same digest, above those that are known."""
    database.execute(
        """
        UPDATE row SET number = new.number FROM (
            SELECT pos, coalesce(top, 0)
                + row_number() OVER (PARTITION BY digest ORDER BY pos) AS number
            FROM row LEFT JOIN (
                SELECT origin,
                    coalesce(max(number) FILTER (WHERE batch IS NULL), 0)
                    + count(*) FILTER (WHERE batch IS NOT NULL AND is_matched) AS top
                FROM known WHERE kind != 'withdrawn' GROUP BY origin
            ) before ON before.origin = row.digest
            WHERE known IS NULL
        ) new WHERE row.pos = new.pos
        """
    )


def _plan(database: sqlite3.Connection, *, are_rejects: bool) -> Plan:
    counts = Counter[Verdict](
        dict(database.execute("SELECT verdict, count(*) FROM row GROUP BY verdict"))
    )
    batches = database.execute(
        "WITH doubtful AS (SELECT digest, present FROM row WHERE verdict = 'elsewhere')"
        " SELECT DISTINCT batch FROM posted_elsewhere WHERE digest IN"
        " (SELECT digest FROM doubtful UNION SELECT present FROM doubtful) ORDER BY batch LIMIT 5"
    )
    return Plan(
        counts=counts,
        newly_invalid=_count(database, "row WHERE verdict = 'invalid' AND known IS NULL"),
        withdrawn=0 if are_rejects else _count(database, f"{GONE} AND kind != 'invalid'"),
        moved=_count(
            database, "known WHERE batch IS NOT NULL AND is_matched AND kind != 'invalid'"
        ),
        batches=tuple(name for (name,) in batches),
        other_keys=_count(
            database,
            "row WHERE verdict = 'elsewhere' AND"
            " (digest IN (SELECT digest FROM posted_elsewhere WHERE has_other_keys)"
            " OR present IN (SELECT digest FROM posted_elsewhere WHERE has_other_keys))",
        ),
    )


def _count(database: sqlite3.Connection, of: str) -> int:
    (number,) = database.execute(f"SELECT count(*) FROM {of}").fetchone()
    return int(number)
