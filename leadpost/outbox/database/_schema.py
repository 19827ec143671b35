"""
The tables of version 1. They contain no key of an account, only a fingerprint of its access key.

To put an entry from any language, INSERT account, key and activity into `leadpost_entries`: all
other columns have defaults, and text that is not JSON is an error. Times are seconds since 1970.
"""

from __future__ import annotations

import sqlalchemy as sa

from leadpost.errors import OutboxError
from leadpost.outbox.database._sql import WORDS, execute

VERSION = 1

_TABLES = """
CREATE TABLE leadpost_schema (version INTEGER PRIMARY KEY);

CREATE TABLE leadpost_accounts (
    account TEXT NOT NULL PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    worker_seen_at DOUBLE PRECISION,
    away_since DOUBLE PRECISION,
    called_at DOUBLE PRECISION, -- when the last call of any worker ended
    reconciled_at DOUBLE PRECISION
);

CREATE TABLE leadpost_entries (
    id {entry_id},
    account TEXT NOT NULL,
    key TEXT,
    activity TEXT NOT NULL{is_json}, -- LeadSquared's JSON
    priority INTEGER DEFAULT 0 NOT NULL,
    state TEXT DEFAULT 'pending' NOT NULL CONSTRAINT leadpost_entries_state CHECK (state IN
        ('pending', 'sending', 'accepted', 'succeeded', 'failed', 'rejected', 'uncertain')),
    put_at DOUBLE PRECISION DEFAULT {now} NOT NULL,
    changed_at DOUBLE PRECISION DEFAULT {now} NOT NULL,
    due_at DOUBLE PRECISION DEFAULT 0 NOT NULL, -- the earliest time to send or verify it
    calls INTEGER DEFAULT 0 NOT NULL,
    failures INTEGER DEFAULT 0 NOT NULL, -- calls that count as failures
    queries INTEGER DEFAULT 0 NOT NULL, -- queries for its status
    call_id TEXT, -- of its latest call
    sent_at DOUBLE PRECISION,
    ends_by DOUBLE PRECISION, -- when its latest call must have ended
    request_id TEXT,
    activity_id TEXT,
    error_type TEXT,
    message TEXT,
    lead TEXT GENERATED ALWAYS AS ({lead}) STORED,
    batch_name TEXT GENERATED ALWAYS AS ({batch}) STORED, -- the key up to its first slash
    CONSTRAINT leadpost_entries_key UNIQUE (account, key)
);

-- One index for each frequent query, as small as possible.
CREATE INDEX leadpost_entries_pending ON leadpost_entries (account, priority DESC, id)
    WHERE state = 'pending';

CREATE INDEX leadpost_entries_batch ON leadpost_entries (account, state, batch_name, id)
    WHERE batch_name IS NOT NULL;

CREATE INDEX leadpost_entries_sending ON leadpost_entries (account, ends_by)
    WHERE state = 'sending';

-- Unique, so that a claim waits for one of the same call whose COMMIT is not over yet.
CREATE UNIQUE INDEX leadpost_entries_call ON leadpost_entries (call_id)
    WHERE state IN ('sending', 'uncertain');

CREATE INDEX leadpost_entries_accepted ON leadpost_entries (account, due_at)
    WHERE state = 'accepted';

CREATE INDEX leadpost_entries_finished ON leadpost_entries (account, changed_at)
    WHERE state IN ('succeeded', 'failed', 'rejected');

CREATE INDEX leadpost_entries_state ON leadpost_entries (account, state, id);

CREATE INDEX leadpost_entries_lead ON leadpost_entries (lead);

CREATE UNIQUE INDEX leadpost_entries_activity_id ON leadpost_entries (activity_id)
    WHERE activity_id IS NOT NULL;

CREATE TABLE leadpost_changes (
    id {id},
    entry_id BIGINT NOT NULL,
    state TEXT NOT NULL,
    at DOUBLE PRECISION DEFAULT {now} NOT NULL,
    note TEXT
);

CREATE INDEX leadpost_changes_entry ON leadpost_changes (entry_id);

CREATE TABLE leadpost_buckets (
    bucket TEXT NOT NULL PRIMARY KEY,
    period DOUBLE PRECISION NOT NULL,
    version INTEGER NOT NULL, -- of the following five columns
    tokens INTEGER NOT NULL, -- how many to use
    most INTEGER NOT NULL, -- allowed by the limit that LeadSquared named
    rest DOUBLE PRECISION NOT NULL, -- seconds
    named_until DOUBLE PRECISION,
    grow_at DOUBLE PRECISION NOT NULL,
    paused_until DOUBLE PRECISION, -- NULL without a pause
    trial_id TEXT -- of the call that is the trial; it ends the pause
);

CREATE TABLE leadpost_tokens (
    bucket TEXT NOT NULL,
    number INTEGER NOT NULL,
    back_at DOUBLE PRECISION NOT NULL,
    use_id TEXT, -- of the call that has it
    set_at DOUBLE PRECISION NOT NULL, -- when it was taken, or began to rest
    PRIMARY KEY (bucket, number)
);

-- The number of entries in each state, kept by triggers: counting a million takes half a second.
CREATE TABLE leadpost_counts (
    account TEXT NOT NULL,
    state TEXT NOT NULL,
    part {part} NOT NULL, -- on PostgreSQL each change is a row, so that none waits for another
    entries BIGINT NOT NULL,
    PRIMARY KEY (account, state, part)
);
"""

_SQLITE_WORDS = {
    **WORDS["sqlite"],
    "entry_id": "INTEGER PRIMARY KEY AUTOINCREMENT",  # or else ids of pruned entries are reused
    "id": "INTEGER PRIMARY KEY",
    "part": "INTEGER DEFAULT 0",
    "is_json": " CHECK (json_valid(activity))",  # json_extract takes JSON5 too
    "lead": "lower(json_extract(activity, '$.RelatedProspectId'))",
    "batch": "CASE WHEN instr(key, '/') > 0 THEN substr(key, 1, instr(key, '/') - 1) END",
}
_POSTGRESQL_WORDS = {
    **WORDS["postgresql"],
    "entry_id": "BIGSERIAL PRIMARY KEY",
    "id": "BIGSERIAL PRIMARY KEY",
    "part": "BIGINT GENERATED ALWAYS AS IDENTITY",
    "is_json": "",  # the cast below refuses anything else
    # JSON may contain the NUL character, PostgreSQL's text may not.
    "lead": r"lower(CAST(replace(activity, '\u0000', '\u0001') AS json) ->> 'RelatedProspectId')",
    "batch": "CASE WHEN strpos(key, '/') > 0 THEN split_part(key, '/', 1) END",
}

_SQLITE_TRIGGERS = """
CREATE TRIGGER leadpost_counts_insert AFTER INSERT ON leadpost_entries BEGIN
    INSERT INTO leadpost_counts (account, state, entries) VALUES (NEW.account, NEW.state, 1)
    ON CONFLICT (account, state, part) DO UPDATE SET entries = entries + 1;
END;

CREATE TRIGGER leadpost_counts_delete AFTER DELETE ON leadpost_entries BEGIN
    UPDATE leadpost_counts SET entries = entries - 1
    WHERE account = OLD.account AND state = OLD.state;
END;

CREATE TRIGGER leadpost_counts_update AFTER UPDATE OF account, state ON leadpost_entries BEGIN
    UPDATE leadpost_counts SET entries = entries - 1
    WHERE account = OLD.account AND state = OLD.state;
    INSERT INTO leadpost_counts (account, state, entries) VALUES (NEW.account, NEW.state, 1)
    ON CONFLICT (account, state, part) DO UPDATE SET entries = entries + 1;
END;
"""

_POSTGRESQL_TRIGGERS = """
CREATE FUNCTION leadpost_count() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    -- A caller's temporary tables last, or else one of these names could run code as the owner.
    PERFORM set_config('search_path', format('%I, pg_temp', TG_TABLE_SCHEMA), true);
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM leadpost_counts;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO leadpost_counts (account, state, entries)
        SELECT account, state, -count(*) FROM old_rows GROUP BY account, state;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO leadpost_counts (account, state, entries)
        SELECT account, state, count(*) FROM new_rows GROUP BY account, state;
    END IF;
    -- One change in 500 sums up the rows of all. Another isolation level would raise an error if
    -- another transaction had summed up the same.
    IF random() < 0.002 AND current_setting('transaction_isolation') = 'read committed' THEN
        WITH gone AS (
            DELETE FROM leadpost_counts WHERE (account, state, part) IN (
                SELECT account, state, part FROM leadpost_counts FOR UPDATE SKIP LOCKED
            )
            RETURNING account, state, entries
        )
        INSERT INTO leadpost_counts (account, state, entries)
        SELECT account, state, sum(entries) FROM gone GROUP BY account, state;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER leadpost_counts_insert AFTER INSERT ON leadpost_entries
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION leadpost_count();

CREATE TRIGGER leadpost_counts_update AFTER UPDATE ON leadpost_entries
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION leadpost_count();

CREATE TRIGGER leadpost_counts_delete AFTER DELETE ON leadpost_entries
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION leadpost_count();

CREATE TRIGGER leadpost_counts_truncate AFTER TRUNCATE ON leadpost_entries
    FOR EACH STATEMENT EXECUTE FUNCTION leadpost_count();
"""


def ddl(dialect: str) -> str:
    r"""
    Return the statements that create the tables, each with `;\n\n` at its end.

    Args:
        dialect: `sqlite` or `postgresql`.
    """
    tables = {
        "sqlite": _TABLES.format_map(_SQLITE_WORDS) + _SQLITE_TRIGGERS,
        "postgresql": _TABLES.format_map(_POSTGRESQL_WORDS) + _POSTGRESQL_TRIGGERS,
    }[dialect]
    return f"{tables.strip()}\n\nINSERT INTO leadpost_schema (version) VALUES ({VERSION});\n\n"


def check_version(connection: sa.Connection) -> bool:
    """
    Whether the tables exist.

    Raises:
        OutboxError: they have another version.
    """
    if not sa.inspect(connection).has_table("leadpost_schema"):
        return False
    found = execute(connection, "SELECT version FROM leadpost_schema").scalar()
    if found != VERSION:  # None if they were not created in one transaction
        raise OutboxError(
            f"the outbox has tables of version {found}, this leadpost needs version {VERSION}:"
            " install the leadpost that created them, or use another database"
        )
    return True


def create(connection: sa.Connection) -> None:
    """Create the tables, unless another process has just done so."""
    if connection.dialect.name == "postgresql":
        # Two processes that create them at once would collide. The number is leadpost's own.
        execute(connection, "SELECT pg_advisory_xact_lock(:number)", number=0x6C656164)
    if not check_version(connection):
        for statement in ddl(connection.dialect.name).split(";\n\n")[:-1]:
            connection.exec_driver_sql(statement)
