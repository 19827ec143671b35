"""What the tests of rejects share: ways to make, correct and read them."""

import sqlite3
from contextlib import closing
from pathlib import Path

from cli_support import (
    bad,
    keys_of,
    read_csv,
    record,
    run,
    write_csv,
)

from leadpost.cli.versions import Version
from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox


def corrected(rejects: Path, **changes: str) -> Path:
    """Correct all rows of a file of rejects, as a person would."""
    rows = read_csv(rejects)
    numbers = [int(row["leadpost_key"].rpartition(":")[2]) for row in rows]
    return write_csv(
        rejects, [row | record(n, **changes) for n, row in zip(numbers, rows, strict=True)]
    )


def rejects_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.rejects.csv")


def states(path: Path) -> list[str]:
    return [row["state"] for row in read_csv(path.with_name(f"{path.name}.results.csv"))]


def posted_with_bad_rows(path: Path, sandbox: Sandbox, *numbers: int, rows: int = 3) -> list[str]:
    """Post a file of which some rows are bad, and give the command that did."""
    write_csv(path, [bad(n) if n in numbers else record(n) for n in range(rows)])
    command = ["post", str(path), "--skip-invalid"]
    assert run(*command, env=keys_of(sandbox)).exit_code == 1
    return command


def notes(sandbox: Sandbox) -> list[str]:
    return sorted(taken.payload["ActivityNote"] for taken in sandbox.taken)


async def version_in(outbox: Outbox, key: str) -> Version:
    entry = (await outbox.find([key]))[key]
    identity = await outbox.identity()
    return Version.of(identity, key, entry.calls, entry.payload, sends_empty=False)


def entries_become(path: Path, **values: object) -> None:
    """Set what became of all entries of a file that were not accepted."""
    columns = ", ".join(f"{name} = ?" for name in values)
    update = f"UPDATE leadpost_entries SET {columns} WHERE state != 'accepted'"
    with closing(sqlite3.connect(f"{path}.outbox.db")) as connection, connection:
        connection.execute(update, tuple(values.values()))
