"""What `leadpost post` says before it sends: the plan, and the problems of rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from files_support import Desk, cells, lead, write_csv


@pytest.fixture
def calls(desk: Desk) -> Path:
    return write_csv(desk.folder / "calls.csv", [cells(n) for n in range(3)])


def test_the_plan_says_what_goes_where(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(n) | {"Agent": "Ann"} for n in range(3)])
    code, said = desk.post(calls, "--dry-run", "--ignore", "Agent", "--set", "mx_Source=import")
    assert code == 0
    shown = " ".join(said.split())
    for text in (
        "account 127.0.0.1:",
        "(access key …cess)",
        "outbox ~/config/leadpost/outbox.db",
        "batch calls.csv",
        "rows 3: 3 new",
        "columns RelatedProspectId ActivityEvent ActivityNote ActivityDateTime mx_Custom_1",
        "import → mx_Source not sent: Agent",
        f"first line 2: RelatedProspectId: {lead(0)} ActivityEvent: 201 ActivityNote: Note 0",
        "ActivityDateTime: 2026-11-28 14:00:07 UTC mx_Custom_1: value 0 mx_Source: import",
        "time a few seconds, until ",
    ):
        assert text in shown
    assert desk.notes() == []
    assert desk.files() == ["calls.csv"]


def test_the_plan_counts_rows_that_are_posted_possible_duplicates_and_invalid(
    desk: Desk, calls: Path
) -> None:
    assert desk.post(calls)[0] == 0
    rows = [cells(0), cells(1, ActivityNote="edited"), cells(2), cells(3, ActivityEvent="x")]
    code, said = desk.post(write_csv(calls, [*rows, cells(4)]), "--dry-run")
    assert code == 2
    assert "5: 1 new, 2 posted before, 1 possible duplicate, 1 invalid" in said
    code, said = desk.post(calls, "--duplicates", "skip", "--skip-invalid")
    assert code == 1
    assert "3 accepted, not yet processed, 1 skipped as possible duplicates, 1 invalid" in said
    edited, invalid = (desk.results(calls)[n] for n in (1, 3))
    assert (edited["state"], edited["message"]) == ("skipped", "looks like an edit of a posted row")
    assert (invalid["line"], invalid["lead"]) == ("5", lead(3))
    assert invalid["message"].startswith("ActivityEvent: x is not a positive whole number")


def test_the_variable_names_the_time_zone(desk: Desk, calls: Path) -> None:
    done = desk.run("post", calls, LEADPOST_TIMEZONE="+05:30")
    assert done.exit_code == 0, done.output
    assert desk.sandbox.posted()[0]["ActivityDateTime"].startswith("2026-11-28 08:3")


def test_the_plan_as_json(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0), cells(1, ActivityEvent="x")])
    done = desk.run("post", calls, "--timezone", "UTC", "--dry-run", "--json", "--quiet")
    assert done.exit_code == 2
    plan = json.loads(done.stdout)
    assert (plan["rows"], plan["send"], plan["new"], plan["invalid"]) == (2, 1, 1, 1)
    assert plan["problems"] == [
        {
            "problem": {
                "column": "ActivityEvent",
                "value": "x",
                "what": "is not a positive whole number such as 201",
                "remedy": "no activity type has that name",
            },
            "place": "line 3",
            "rows": 1,
        }
    ]


def test_possible_duplicates_are_in_the_json_too(desk: Desk, calls: Path) -> None:
    assert desk.post(calls)[0] == 0
    write_csv(calls, [cells(0, ActivityNote="edited"), cells(1), cells(2)])
    done = desk.run("post", calls, "--timezone", "UTC", "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["possible_duplicates"] == [{"line": 2, "lead": lead(0), "reason": "edit"}]
    assert found["differences"][0]["names"] == ["ActivityNote"]
    done = desk.run("post", calls, "--timezone", "UTC", "--json", "--duplicates", "skip")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["accepted"], found["skipped"]) == (2, 1)
    assert found["possible_duplicates"] == [{"line": 2, "lead": lead(0), "reason": "edit"}]


def test_an_edit_of_a_row_whose_entry_was_pruned_has_no_example(desk: Desk, calls: Path) -> None:
    assert desk.post(calls)[0] == 0
    assert desk.run("verify", calls).exit_code == 0
    assert "deleted: 3" in desk.run("outbox", "prune", "--older-than", "0s").output
    write_csv(calls, [cells(0, ActivityNote="edited"), cells(1), cells(2)])
    code, said = desk.post(calls)
    assert code == 2
    assert "1 row looks like an edit of a posted one" in said
    assert "→" not in said
    assert len(desk.notes()) == 3


def test_an_edit_of_nested_fields_is_a_possible_duplicate_too(desk: Desk) -> None:
    def write(value: str) -> Path:
        nested = [{"SchemaName": "mx_CustomObject_1", "Value": value}]
        fields = [{"SchemaName": "mx_Custom_1", "Value": "", "Fields": nested}]
        path = desk.folder / "calls.json"
        activity = {"RelatedProspectId": lead(0), "ActivityEvent": 201, "Fields": fields}
        path.write_text(json.dumps([activity]))
        return path

    assert desk.post(write("a"))[0] == 0
    code, said = desk.post(write("b"))
    assert (code, len(desk.sandbox.posted())) == (2, 1)
    assert "1 row looks like an edit of a posted one" in said


def test_problems_that_repeat_are_grouped_with_the_option_that_fixes_them(
    desk: Desk, calls: Path
) -> None:
    table = [cells(n, ActivityDateTime=f"28/11/2026 14:{n % 60:02}") for n in range(3000)]
    code, said = desk.post(write_csv(calls, table))
    assert code == 2
    assert (
        'ActivityDateTime: 3,000 rows, such as line 2 "28/11/2026 14:00" is not in the form'
        " 2026-11-28 14:05; add --date-format '%d/%m/%Y %H:%M'" in said
    )
    assert "Nothing was sent. Fix the rows above" in said
    assert len(said.splitlines()) < 20


def test_no_more_than_20_kinds_of_problems_are_listed(desk: Desk, calls: Path) -> None:
    headings = [f"mx_{n}" for n in range(22)]
    write_csv(calls, [cells(0) | dict.fromkeys(headings, "#N/A")])
    code, said = desk.post(calls)
    assert code == 2
    assert said.count("#N/A is an error of the spreadsheet") == 20
    assert "and 2 other kinds of problems" in said
