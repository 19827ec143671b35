"""Shared by the tests of leads looked up and rows checked: rows, and what was sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from files_support import Desk, cells

from leadpost.sandbox import Sandbox

HEADER = (
    *("RelatedProspectId", "Lead.EmailAddress", "Lead.Phone", "Lead.FirstName", "ActivityEvent"),
    *("ActivityNote", "ActivityDateTime", "mx_Custom_1", "mx_Custom_2", "mx_Custom_3"),
    *("mx_Custom_5", "mx_Custom_60"),
)
ADA, BOB = "ada@example.com", "+91-9812345678"


def row(number: int, **changes: str) -> dict[str, str]:
    """Return a row that says nothing of its lead."""
    given = cells(number, RelatedProspectId="", ActivityEvent="210", mx_Custom_1="Busy")
    return (
        dict.fromkeys(HEADER, "")
        | given
        | {k.replace("Lead_", "Lead."): v for k, v in changes.items()}
    )


def by_email(number: int, address: str = ADA, **changes: str) -> dict[str, str]:
    return row(number, Lead_EmailAddress=address, **changes)


def sent(sandbox: Sandbox) -> list[dict[str, Any]]:
    return [dict(posted) for posted in sandbox.posted()]


def changed(sandbox: Sandbox) -> tuple[int, int]:
    """Return how many leads were created, and how many updated."""
    report = sandbox.report()
    return report.leads_created, report.leads_updated


def leads_of(sandbox: Sandbox) -> list[str]:
    return [str(posted.get("RelatedProspectId")) for posted in sandbox.posted()]


def plan(desk: Desk, path: Path, *args: object) -> tuple[int, dict[str, Any]]:
    done = desk.run("post", path, "--timezone", "UTC", "--dry-run", "--json", *args)
    return done.exit_code, json.loads(done.stdout)
