"""Shared by the tests of files: rows, files of every kind, and what the sandbox received."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from typer.testing import CliRunner, Result

from leadpost.bucket import OpenBucket
from leadpost.cli import app as the_app
from leadpost.sandbox import Sandbox

# A process of a user builds its command once; one of the tests runs hundreds.
imported = cache(the_app._imported)
the_app._imported = imported

HEADER = ("RelatedProspectId", "ActivityEvent", "ActivityNote", "ActivityDateTime", "mx_Custom_1")


def lead(number: int) -> str:
    return str(uuid5(NAMESPACE_URL, f"lead:{number}"))


def cells(number: int, **changes: str) -> dict[str, str]:
    """Return a row of CSV."""
    written = f"2026-11-28 14:{number % 60:02}:07"
    values = (lead(number), "201", f"Note {number}", written, f"value {number}")
    return dict(zip(HEADER, values, strict=True)) | changes


def csv_text(rows: Sequence[Mapping[str, str]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], delimiter: str = ",") -> Path:
    path.write_text(csv_text(rows, delimiter), newline="", encoding="utf-8")
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        delimiter = max(",;\t", key=file.readline().count)
        file.seek(0)
        return list(csv.DictReader(file, delimiter=delimiter))


def new_workbook() -> Any:
    """Import openpyxl, and with it numpy: not in every process that only collects the tests."""
    return import_module("openpyxl").Workbook()


def write_xlsx(path: Path, rows: Sequence[Any], hidden: Sequence[int] = ()) -> Path:
    book = new_workbook()
    sheet = book.active
    for row in rows:
        sheet.append(list(row))
    for number in hidden:
        sheet.row_dimensions[number].hidden = True
    book.save(path)
    return path


def keys_of(sandbox: Sandbox) -> dict[str, str]:
    """Return the variables for posting to a sandbox."""
    return {
        "LEADPOST_HOST": sandbox.url,
        "LEADPOST_ACCESS_KEY": sandbox.access_key,
        "LEADPOST_SECRET_KEY": sandbox.secret_key,
        "LEADPOST_API_KEY": sandbox.api_key,
    }


def run(
    *args: object, env: Mapping[str, str] | None = None, stdin: str | bytes | None = None
) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(
        the_app.app,
        [str(arg) for arg in args],
        input=stdin,
        env={"COLUMNS": "100", "NO_COLOR": "1", **(env or {})},
        prog_name="leadpost",
    )


def open_bucket(*_: object, **__: object) -> OpenBucket:
    """Return a bucket without a limit, instead of the one that all runs share."""
    return OpenBucket()


class Desk:
    """The place where the command runs: a directory, and the keys of a sandbox."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.environment = {"COLUMNS": "200", "NO_COLOR": "1", **keys_of(sandbox)}
        # The checks make calls before any post; test_account_check.py is about them.
        self.environment["LEADPOST_ACCOUNT_CHECK"] = "off"

    @property
    def outbox(self) -> Path:
        """The user's own outbox."""
        return self.folder.parent / "config" / "leadpost" / "outbox.db"

    def run(self, *args: object, stdin: str | None = None, **environment: str) -> Result:
        """Run the command in this process."""
        return run(*args, env={**self.environment, **environment}, stdin=stdin)

    def post(self, path: Path, *args: object, **environment: str) -> tuple[int, str]:
        """Post a file, and return the exit code and the output."""
        done = self.run("post", path, "--timezone", "UTC", *args, **environment)
        return done.exit_code, done.output

    def files(self) -> list[str]:
        """Return the names of all files on the desk, sorted."""
        return sorted(path.name for path in self.folder.iterdir())

    def notes(self) -> list[str]:
        """Return the notes of all activities that the sandbox has accepted, sorted."""
        return sorted(str(p.get("ActivityNote")) for p in self.sandbox.posted())

    def results(self, path: Path) -> list[dict[str, str]]:
        return read_csv(path.with_name(f"{path.name}.results.csv"))

    def states(self, path: Path) -> list[str]:
        return [row["state"] for row in self.results(path)]

    def stopped_after(self, count: int, path: Path, *args: object) -> None:
        """Post `count` rows of a file, then be stopped: the others remain in the outbox."""
        self.sandbox.fail(*["ok"] * count, *["keys-refused"] * 50)
        code, _ = self.post(path, *args)
        assert code == 3
        self.sandbox._gateway.next_fates.clear()
        assert len(self.sandbox.posted()) >= count


def rows(*numbers: int) -> list[dict[str, str]]:
    return [cells(number) for number in numbers]


def notes(*numbers: int) -> list[str]:
    return sorted(f"Note {number}" for number in numbers)


def bad(number: int) -> dict[str, str]:
    return cells(number, ActivityEvent="x")


def posted(desk: Desk, path: Path, *numbers: int) -> Path:
    """A file of these rows, posted."""
    assert desk.post(write_csv(path, rows(*numbers)))[0] == 0
    return path


def rejects_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.rejects.csv")


def with_rejects(desk: Desk, calls: Path, *numbers: int) -> list[dict[str, str]]:
    """Post three rows, of which these are bad, and return the rejects."""
    write_csv(calls, [bad(n) if n in numbers else cells(n) for n in range(3)])
    assert desk.post(calls, "--skip-invalid")[0] == 1
    return read_csv(rejects_of(calls))
