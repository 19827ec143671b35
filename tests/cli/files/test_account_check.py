"""Rows checked against the account before anything is sent, and activity types by name."""

from __future__ import annotations

import pytest
from files_support import Desk, lead, write_csv
from reach_support import plan, row, sent

from leadpost.sandbox import Answer, activity_types
from leadpost.sandbox.activity_types import NAMES

HEADER_OF_A_TEMPLATE = ["RelatedProspectId", "ActivityEvent", "ActivityNote", "ActivityDateTime"]


@pytest.fixture(autouse=True)
def checked(desk: Desk) -> None:
    del desk.environment["LEADPOST_ACCOUNT_CHECK"]


def test_what_the_account_refused_is_checked_again_and_may_be_posted_as_it_is(desk: Desk) -> None:
    rows = [row(n, RelatedProspectId=lead(n), mx_Custom_1=("Bussy", "Busy")[n]) for n in range(2)]
    path = write_csv(desk.folder / "a.csv", rows)
    strict = ("--account-check", "strict")
    assert desk.post(path, *strict, "--skip-invalid")[0] == 1
    assert desk.states(path) == ["invalid", "accepted"]
    code, said = desk.post(path, *strict)
    assert (code, len(desk.notes())) == (1, 1)
    assert "line 2, mx_Custom_1: Bussy is not among its 4 options" in said
    assert desk.post(path)[0] == 0
    assert desk.post(path, *strict)[0] == 0
    assert desk.states(path) == ["accepted", "accepted"]
    assert len(desk.notes()) == 2


def test_in_warn_only_unknown_types_and_fields_are_invalid(desk: Desk) -> None:
    rows = [
        row(0, RelatedProspectId=lead(0), mx_Custom_2="many"),
        row(1, RelatedProspectId=lead(1), mx_Custom_2="few", mx_Custom_5="x" * 60),
        row(2, RelatedProspectId=lead(2), mx_Custom_1="Bussy", ActivityNote="n" * 1900),
    ]
    path = write_csv(desk.folder / "a.csv", rows)
    code, said = desk.post(path)
    assert (code, len(desk.notes())) == (0, 3)
    assert "warning: line 4, ActivityNote: nnn" in said
    assert "is too long; it has 1900 characters, and LeadSquared may cut or reject more" in said
    assert (
        'warning: mx_Custom_2: 2 rows, such as line 2 "many" is not a number such as 12.5' in said
    )
    assert "is too long; it has 60 characters, and the maximum is 50" in said
    rows = [row(3, RelatedProspectId=lead(3), ActivityEvent="208")]
    code, said = desk.post(write_csv(desk.folder / "b.csv", rows))
    assert (code, len(desk.notes())) == (2, 3)


def test_each_activity_type_is_asked_for_once(desk: Desk) -> None:
    rows = [row(n % 50, RelatedProspectId=lead(n), mx_Custom_1="Busy") for n in range(1200)]
    for each in rows[::2]:
        each["ActivityEvent"] = "207"
    path = write_csv(desk.folder / "a.csv", rows)
    code, found = plan(desk, path)
    assert (code, found["send"], desk.sandbox.report().arrivals) == (0, 1200, 2)


def test_strict_asks_for_each_dropdown_once(desk: Desk) -> None:
    rows = [row(n, RelatedProspectId=lead(n), mx_Custom_1="Busy") for n in range(3)]
    code, _ = plan(desk, write_csv(desk.folder / "a.csv", rows), "--account-check", "strict")
    assert (code, desk.sandbox.report().arrivals) == (0, 1 + 3)


def test_off_asks_nothing(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [row(0, RelatedProspectId=lead(0), mx_Custom_60="x")])
    assert desk.post(path, "--account-check", "off")[0] == 0
    assert desk.sandbox.report().arrivals == 1


@pytest.mark.parametrize(("mode", "code"), [("warn", 0), ("strict", 2)])
def test_a_check_that_cannot_be_made(desk: Desk, mode: str, code: int) -> None:
    path = write_csv(desk.folder / "a.csv", [row(0, RelatedProspectId=lead(0))])
    for dry_run in (["--dry-run"], []):
        desk.sandbox.fail(Answer(404, "", {}))
        found, said = desk.post(path, "--account-check", mode, *dry_run)
        assert found == code
        assert "not checked: ActivityEvent: type 210 could not be read: NotFound, HTTP 404" in said
    assert len(desk.notes()) == (0 if code else 1)


def test_activity_types_by_name(desk: Desk) -> None:
    ids = [lead(n) for n in range(3)]
    names = ("phone  call", "210", "Demo Call")
    rows = [row(n, RelatedProspectId=ids[n], ActivityEvent=names[n]) for n in range(3)]
    path = write_csv(desk.folder / "a.csv", rows)
    assert desk.post(path)[0] == 0
    assert [posted["ActivityEvent"] for posted in sent(desk.sandbox)] == [210, 210, 207]
    calls = desk.sandbox.report().arrivals
    assert calls == 1 + 2 + 3
    write_csv(path, [{**each, "ActivityEvent": "210"} for each in rows[:2]] + rows[2:])
    assert desk.post(path)[0] == 0
    assert len(desk.notes()) == 3
    assert desk.run("results", path).exit_code == 0
    assert desk.states(path) == ["accepted"] * 3
    rows = [row(9, RelatedProspectId=lead(9), ActivityEvent="Call")]
    code, said = desk.post(write_csv(desk.folder / "b.csv", rows))
    assert code == 2
    assert "Call is not a positive whole number such as 201; no activity type has that name" in said


def test_an_activity_type_for_all_rows_by_name(desk: Desk) -> None:
    rows = [row(n, RelatedProspectId=lead(n)) for n in range(3)]
    for each in rows:
        del each["ActivityEvent"]
    path = write_csv(desk.folder / "a.csv", rows)
    code, said = desk.post(path, "--set", "ActivityEvent=Phone Call")
    assert code == 0, said
    assert [posted["ActivityEvent"] for posted in sent(desk.sandbox)] == [210] * 3


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (Answer(404, "", {}), "the names of types could not be read: NotFound"),
        (
            Answer(200, '[{"Id": "7"}]', {"content-type": "application/json"}),
            "no activity type has that name",
        ),
    ],
)
def test_names_of_activity_types_that_are_not_in_the_answer(
    desk: Desk, answer: Answer, remedy: str
) -> None:
    desk.sandbox.fail(answer)
    rows = [row(0, RelatedProspectId=lead(0), ActivityEvent="Phone Call")]
    code, said = desk.post(write_csv(desk.folder / "a.csv", rows))
    assert (code, desk.notes()) == (2, [])
    assert f"Phone Call is not a positive whole number such as 201; {remedy}" in said


def test_a_name_that_two_types_have(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES, 207, "Phone Call")
    rows = [row(0, RelatedProspectId=lead(0), ActivityEvent="Phone Call")]
    code, said = desk.post(write_csv(desk.folder / "a.csv", rows))
    assert code == 2
    assert "is the name of 2 activity types; enter a code: 207, 210" in said


def test_the_accounts_time_zone_is_offered(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [row(0, RelatedProspectId=lead(0))])
    done = desk.run("post", path)
    assert done.exit_code == 2
    assert "has no time zone; the account's is --timezone Asia/Kolkata" in done.output


def test_a_type_is_shown_with_all_that_is_known_of_it(desk: Desk) -> None:
    done = desk.run("types", 210)
    assert done.exit_code == 0
    assert done.stdout.startswith("210 Phone Call\n")
    for cells_of_a_line in (
        ("mx_Custom_1", "Dropdown", "Connected, Busy, No answer, Wrong number", "mandatory"),
        ("mx_Custom_5", "Remark", "50"),
        ("mx_Custom_6", "Price, Demo, Contract", "several, separated by ;"),
        ("mx_Custom_7", "Web, Referral, or others"),
        ("mx_Custom_8", "read-only"),
    ):
        (line,) = (line for line in done.stdout.splitlines() if cells_of_a_line[0] in line)
        assert all(text in line for text in cells_of_a_line)


def test_a_type_takes_a_call_and_one_for_each_dropdown(desk: Desk) -> None:
    assert desk.run("types", 210).exit_code == 0
    assert desk.sandbox.report().arrivals == 1 + 3
    assert desk.run("types", 210, "--csv").exit_code == 0
    assert desk.sandbox.report().arrivals == 1 + 3 + 1


def test_options_that_cannot_be_read_leave_the_rest_of_a_type(desk: Desk) -> None:
    desk.sandbox.fail("ok", Answer(404, "", {}))
    done = desk.run("types", 210)
    assert done.exit_code == 0
    assert "mx_Custom_5" in done.stdout
    assert "warning: no options of activity type 210: NotFound" in done.stderr
    desk.sandbox.fail(Answer(404, "", {}))
    template = desk.run("types", 210, "--csv")
    assert template.exit_code == 1
    assert "no options" not in template.stderr


def test_a_template_can_be_filled_and_posted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    note = {"SchemaName": "ActivityEvent_Note", "DataType": "String", "IsMandatory": True}
    monkeypatch.setitem(activity_types._FIELDS, 210, [note, *activity_types._FIELDS[210]])
    done = desk.run("types", 210, "--csv")
    assert done.exit_code == 0
    (header,) = done.stdout.splitlines()
    columns = header.split(",")
    assert columns[:5] == [*HEADER_OF_A_TEMPLATE, "mx_Custom_1"]
    assert "mx_Custom_8" not in columns  # read-only
    given = {name: value for name, value in row(0, RelatedProspectId=lead(0)).items() if value}
    path = write_csv(desk.folder / "calls.csv", [dict.fromkeys(columns, "") | given])
    assert desk.post(path, "--account-check", "strict")[0] == 0
    assert desk.run("types", "--csv").exit_code == 2
