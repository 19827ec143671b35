"""Shared by the tests of reading files: the rows of a file, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from files_support import lead

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.opening import opened
from leadpost.cli.files.reading.row import Row
from leadpost.cli.files.reading.settings import Reading

INDIA = Reading(timezone="asia/kolkata")
LEAD = lead(0)
HEAD = "Lead Id,ActivityEvent"
WANTED = {
    "RelatedProspectId": LEAD,
    "ActivityEvent": 201,
    "ActivityNote": "Note 0",
    "ActivityDateTime": "2026-11-28 08:30:07",
    "Fields": [{"SchemaName": "mx_Custom_1", "Value": "value 0"}],
}


def read(path: Path, reading: Reading | None = None) -> list[Row]:
    with opened(str(path)) as file:
        source = file.source(reading or Reading(timezone="UTC"))
        return list(source.rows())


def said_of(path: Path, reading: Reading) -> tuple[list[Any], str]:
    """Return the activities, and what is said of the first thing that is wrong."""
    try:
        rows = read(path, reading)
    except InputError as error:
        return [], str(error).replace(f"{path.parent}/", "")
    said = [f"{row.place}, {problem}" for row in rows for problem in row.problems]
    return [row.payload for row in rows if not row.problems], "".join(said[:1])
