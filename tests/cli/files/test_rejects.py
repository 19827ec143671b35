"""Rejects: the rows to correct, in a file that can be posted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from files_support import (
    HEADER,
    Desk,
    bad,
    cells,
    lead,
    new_workbook,
    notes,
    posted,
    read_csv,
    rejects_of,
    rows,
    with_rejects,
    write_csv,
    write_xlsx,
)
from reading_support import HEAD, LEAD

from leadpost.cli.files.sending import entries


@pytest.fixture
def calls(desk: Desk) -> Path:
    return write_csv(desk.folder / "calls.csv", [cells(n) for n in range(3)])


def test_rejects_that_were_edited_meanwhile_are_kept(desk: Desk, calls: Path) -> None:
    table = [cells(0), cells(1, ActivityEvent="x")]
    write_csv(calls, table)
    rejects = calls.with_name("calls.csv.rejects.csv")
    assert desk.post(calls, "--skip-invalid")[0] == 1
    untouched = rejects.read_bytes()
    assert desk.post(calls, "--skip-invalid")[0] == 1
    assert rejects.read_bytes() == untouched
    rejects.write_bytes(untouched.replace(b",x,", b",20,"))
    _, said = desk.post(calls, "--skip-invalid")
    assert "calls.csv.rejects.2.csv" in said
    assert b",20," in rejects.read_bytes()
    assert calls.with_name("calls.csv.rejects.2.csv").read_bytes() == untouched
    assert desk.post(write_csv(calls, [cells(0), cells(1)]))[0] == 0
    assert desk.files() == ["calls.csv", "calls.csv.rejects.csv", "calls.csv.results.csv"]


def test_lines_and_rejects_are_those_of_the_file_as_it_was_read(
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(calls, [cells(0), cells(1, ActivityEvent="x"), cells(2)])
    put = entries.put

    async def overwriting(*args: Any) -> None:
        write_csv(calls, [cells(9), cells(0)])
        await put(*args)

    monkeypatch.setattr(entries, "put", overwriting)
    assert desk.post(calls, "--skip-invalid")[0] == 1
    found = [(row["line"], row["lead"], row["state"]) for row in desk.results(calls)]
    states = ("accepted", "invalid", "accepted")
    assert found == [(str(n + 2), lead(n), state) for n, state in enumerate(states)]
    (rejected,) = read_csv(calls.with_name("calls.csv.rejects.csv"))
    assert rejected["RelatedProspectId"] == lead(1)


def test_rejects_of_json_are_json_lines(desk: Desk) -> None:
    path = desk.folder / "calls.json"
    good = {"RelatedProspectId": lead(0), "ActivityEvent": 201}
    path.write_text(json.dumps([good, good | {"ActivityEvent": "x"}, {"mx_a": "text"}]))
    assert desk.post(path, "--skip-invalid")[0] == 1
    rejects = path.with_name("calls.json.rejects.jsonl")
    first, second = (json.loads(line) for line in rejects.read_text().splitlines())
    assert first["leadpost_reason"].startswith("ActivityEvent: x is not")
    assert first["ActivityEvent"] == "x"
    assert second["mx_a"] == "text"
    fixed = first | {"ActivityEvent": 201, "ActivityNote": "fixed"}
    rejects.write_text(json.dumps(fixed) + "\n" + json.dumps(second) + "\n")
    assert desk.post(rejects)[0] == 1
    assert len(desk.notes()) == 2
    assert desk.post(path)[0] == 1
    assert desk.states(path) == ["accepted", "accepted", "invalid"]


def test_rejects_of_a_workbook_are_csv_with_its_options(desk: Desk) -> None:
    path = desk.folder / "calls.xlsx"
    rows = [["Lead", "ActivityEvent"], [lead(0), 201], [lead(1), "x"]]
    write_xlsx(path, rows, hidden=[2])
    options = ("--map", "Lead=Lead Id", "--include-hidden", "--skip-invalid", "--sheet", "Sheet")
    assert desk.post(path, *options)[0] == 1
    rejects = path.with_name("calls.xlsx.rejects.csv")
    assert [row["Lead"] for row in read_csv(rejects)] == [lead(1)]
    rejects.write_bytes(rejects.read_bytes().replace(b",x", b",201"))
    assert desk.run("post", rejects).exit_code == 0
    assert desk.run("results", path).exit_code == 0
    assert desk.states(path) == ["accepted", "accepted"]


def test_rejects_of_a_file_with_another_delimiter_need_no_option(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0), bad(1)], "|")
    assert desk.post(calls, "--skip-invalid", "--delimiter", "|")[0] == 1
    rejects = rejects_of(calls)
    rejects.write_bytes(rejects.read_bytes().replace(b",x,", b",201,"))
    assert desk.run("post", rejects).exit_code == 0
    assert desk.notes() == notes(0, 1)


def test_a_row_with_too_many_cells_stays_as_it_is_in_rejects_of_rejects(desk: Desk) -> None:
    path = desk.folder / "calls.csv"
    path.write_text(f"{HEAD}\n{LEAD},201,rest\n{lead(1)},201\n")
    assert desk.post(path, "--skip-invalid")[0] == 1
    rejects = path.with_name("calls.csv.rejects.csv")
    assert desk.post(rejects, "--skip-invalid")[0] == 1
    assert path.with_name("calls.csv.rejects.2.csv").read_bytes() == rejects.read_bytes()


def test_a_formula_without_a_value_is_refused_in_the_rejects_too(desk: Desk) -> None:
    path = write_xlsx(desk.folder / "calls.xlsx", [[*HEAD.split(","), "Note"], [LEAD, 201, "=1+1"]])
    assert desk.post(path, "--skip-invalid")[0] == 1
    _, said = desk.post(path.with_name("calls.xlsx.rejects.csv"))
    assert "Note: #FORMULA! has no stored value; open the file in a spreadsheet" in said
    assert desk.notes() == []


def test_rows_that_are_added_to_rejects_are_new_rows(desk: Desk) -> None:
    path = write_csv(desk.folder / "calls.csv", [cells(0), cells(1, ActivityEvent="x")])
    assert desk.post(path, "--skip-invalid")[0] == 1
    rejects = desk.folder / "calls.csv.rejects.csv"
    (row,) = read_csv(rejects)
    added = {"leadpost_reason": "", "leadpost_key": ""} | cells(5)
    assert desk.post(write_csv(rejects, [row | cells(1), added]))[0] == 0
    assert desk.notes() == ["Note 0", "Note 1", "Note 5"]


def test_an_object_that_is_added_to_rejects_may_have_null_for_a_key(desk: Desk) -> None:
    path = desk.folder / "calls.json"
    values = [
        {"RelatedProspectId": lead(n), "ActivityEvent": event} for n, event in ((0, "x"), (1, 201))
    ]
    path.write_text(json.dumps(values[:1]))
    assert desk.post(path, "--skip-invalid")[0] == 1
    rejects = path.with_name("calls.json.rejects.jsonl")
    fixed = json.loads(rejects.read_text()) | {"ActivityEvent": 201}
    lines = [fixed, {"leadpost_reason": None, "leadpost_key": None} | values[1]]
    rejects.write_text("\n".join(map(json.dumps, lines)))
    code, said = desk.post(rejects)
    assert (code, len(desk.notes())) == (0, 2), said


def test_rejects_stay_when_the_next_file_of_that_name_is_posted(desk: Desk, calls: Path) -> None:
    with_rejects(desk, calls, 1)
    before = rejects_of(calls).read_bytes()
    write_csv(calls, rows(5, 6))
    for _ in range(2):
        code, said = desk.post(calls)
        assert (code, rejects_of(calls).read_bytes()) == (0, before)
        assert "calls.csv.rejects.csv stays: 1 row to fix that this file lacks" in said
    write_csv(calls, [*rows(5, 6), bad(7)])
    assert desk.post(calls, "--skip-invalid")[0] == 1
    (other,) = read_csv(calls.with_name("calls.csv.rejects.2.csv"))
    assert (other["RelatedProspectId"], rejects_of(calls).read_bytes()) == (lead(7), before)


def test_rejects_of_one_sheet_stay_while_another_is_posted(desk: Desk) -> None:
    path = desk.folder / "calls.xlsx"
    book = new_workbook()
    for name, table in (("Mon", [cells(0), bad(1)]), ("Tue", rows(5, 6))):
        sheet = book.create_sheet(name)
        for row in ([*HEADER], *(list(row.values()) for row in table)):
            sheet.append(row)
    book.save(path)
    assert desk.post(path, "--sheet", "Mon", "--skip-invalid")[0] == 1
    before = rejects_of(path).read_bytes()
    assert desk.post(path, "--sheet", "Tue")[0] == 0
    assert rejects_of(path).read_bytes() == before
    assert desk.post(path, "--sheet", "Mon")[0] == 1
    assert rejects_of(path).read_bytes() == before
    assert desk.files() == ["calls.xlsx", "calls.xlsx.rejects.csv", "calls.xlsx.results.csv"]


def test_rejects_of_a_batch_stay_while_the_file_has_the_rows_of_another(
    desk: Desk, calls: Path
) -> None:
    for batch, number in (("1", 0), ("2", 2)):
        write_csv(calls, [cells(number), bad(number + 1)])
        assert desk.post(calls, "--skip-invalid", "--batch", batch)[0] == 1
    before = rejects_of(calls).read_bytes()
    assert desk.run("results", calls, "--batch", "1").exit_code == 1
    assert rejects_of(calls).read_bytes() == before


def test_rejects_stay_until_the_last_of_their_rows_is_posted(desk: Desk, calls: Path) -> None:
    first, second = with_rejects(desk, calls, 1, 2)
    one, other = calls.with_name("calls.csv.rejects.xlsx"), desk.folder / "other.csv"
    write_xlsx(one, [[*first], [*(first | cells(1)).values()]])
    assert desk.post(one)[0] == 0
    assert read_csv(rejects_of(calls)) == [first, second]
    assert desk.post(write_csv(other, [second | cells(2)]))[0] == 0
    assert desk.post(calls)[0] == 0
    assert not rejects_of(calls).exists()


def test_rejects_stay_until_a_fix_in_the_input_is_posted(desk: Desk, calls: Path) -> None:
    with_rejects(desk, calls, 1)
    write_csv(calls, rows(0, 1, 2))
    assert desk.run("results", calls).exit_code == 1
    assert rejects_of(calls).exists()
    assert desk.post(calls)[0] == 0
    assert not rejects_of(calls).exists()


def test_rejects_of_yesterday_are_posted_after_the_file_of_today(desk: Desk, calls: Path) -> None:
    (reject,) = with_rejects(desk, calls, 1)
    fixed = write_csv(desk.folder / "fixed.csv", [reject | cells(1)])
    posted(desk, calls, 5, 6)
    code, said = desk.post(fixed)
    assert (code, desk.notes()) == (0, notes(0, 1, 2, 5, 6)), said


def test_rejects_of_two_files_are_posted_one_by_one(desk: Desk) -> None:
    rows: list[dict[str, str]] = []
    for number, name in enumerate(("a.csv", "b.csv")):
        path = write_csv(desk.folder / name, [cells(number, ActivityEvent="x")])
        assert desk.post(path, "--skip-invalid")[0] == 1
        rows += read_csv(desk.folder / f"{name}.rejects.csv")
    code, text = desk.post(write_csv(desk.folder / "both.csv", rows))
    assert code == 2
    assert "both.csv: it has rows of a.csv and of b.csv. Save the rows of each in a file" in text


def test_rejects_without_keys_whose_input_nobody_knows(desk: Desk) -> None:
    row = {"leadpost_reason": "x"} | cells(0)
    code, text = desk.post(write_csv(desk.folder / "fixed.csv", [row]))
    assert code == 2
    assert "it has the column leadpost_reason of a rejects file, but no leadpost_key" in text


def test_a_refused_row_corrected_in_the_rejects_replaces_its_entry(desk: Desk) -> None:
    path = write_csv(desk.folder / "calls.csv", [cells(0)])
    desk.sandbox.fail("500-mx")
    assert desk.post(path)[0] == 1
    rejects = desk.folder / "calls.csv.rejects.csv"
    (row,) = read_csv(rejects)
    assert desk.post(write_csv(rejects, [row | cells(0, ActivityNote="fixed")]))[0] == 0
    assert desk.notes() == ["fixed"]
    assert desk.post(path)[0] == 0
    assert desk.notes() == ["fixed"]
    other = write_csv(desk.folder / "other.csv", [cells(0)])
    code, said = desk.post(other)  # the same row was posted, with a fix
    assert code == 2
    assert "1 row was posted before, in batch calls.csv" in said
    assert desk.post(write_csv(other, [cells(0, ActivityNote="fixed")]))[0] == 2
