"""Workbooks as openpyxl makes them: cells, sheets and hidden rows."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from files_support import HEADER, lead, new_workbook, write_xlsx
from reading_support import INDIA, LEAD, WANTED, read, said_of

from leadpost.cli.files.reading.settings import Reading


def test_a_workbook_as_openpyxl_writes_it(tmp_path: Path) -> None:
    moment = datetime(2026, 11, 28, 14, 0, 7)  # noqa: DTZ001  as a sheet has it
    row = [LEAD, 201.0, "Note 0", moment, "value 0"]
    path = write_xlsx(tmp_path / "calls.xlsx", [HEADER, row, [], [LEAD, 201, 5, None, True]])
    first, second = (row.payload for row in read(path, INDIA))
    assert first == WANTED
    assert second is not None
    assert second["ActivityNote"] == "5"
    assert second["Fields"] == [{"SchemaName": "mx_Custom_1", "Value": "TRUE"}]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            "#N/A",
            (
                "line 2, mx_a: #N/A is an error of the spreadsheet; correct the formula, or delete"
                " the cell"
            ),
        ),
        (
            "#REF!",
            (
                "line 2, mx_a: #REF! is an error of the spreadsheet; correct the formula, or"
                " delete the cell"
            ),
        ),
        (
            "=1+1",
            (
                "line 2, mx_a: #FORMULA! has no stored value; open the file in a spreadsheet and"
                " save it"
            ),
        ),
        (
            9198123456781234,
            "line 2, mx_a: 9.19812E+15 was shortened by a spreadsheet; format the column as text",
        ),
    ],
)
def test_a_cell_that_a_workbook_cannot_vouch_for_is_refused(
    tmp_path: Path, cell: object, said: str
) -> None:
    header = ["RelatedProspectId", "ActivityEvent", "mx_a"]
    path = write_xlsx(tmp_path / "calls.xlsx", [header, [LEAD, 201, cell], [LEAD, 201, "x"]])
    posted, found = said_of(path, INDIA)
    assert found == said
    assert len(posted) == 1


def test_rows_hidden_by_a_filter_are_refused_unless_they_are_wanted(tmp_path: Path) -> None:
    rows = [["RelatedProspectId", "ActivityEvent"], *([lead(n), 201] for n in range(3))]
    path = write_xlsx(tmp_path / "calls.xlsx", rows, hidden=[3, 9])
    posted, said = said_of(path, Reading())
    assert not posted
    assert said == (
        "calls.xlsx, sheet Sheet: 1 row is hidden, such as row 3. Show them (Data, Clear"
        " filter), or read them with --include-hidden"
    )
    assert len(read(path, Reading(include_hidden=True))) == 3


def test_the_first_sheet_is_read_or_the_one_that_is_named(tmp_path: Path) -> None:
    book = new_workbook()
    for sheet, events in ((book["Sheet"], (201,)), (book.create_sheet("Old"), (202, 203))):
        sheet.append(["RelatedProspectId", "ActivityEvent"])
        for event in events:
            sheet.append([LEAD, event])
    path = tmp_path / "calls.xlsx"
    book.save(path)
    for reading, wanted in ((Reading(), [201]), (Reading(sheet="Old"), [202, 203])):
        found = [row.payload["ActivityEvent"] for row in read(path, reading) if row.payload]
        assert found == wanted
    _, said = said_of(path, Reading(sheet="Calls"))
    assert said == "calls.xlsx: it has no sheet 'Calls', only Sheet, Old"


@pytest.mark.parametrize(
    ("row", "refused"),
    [
        ([910000000000, 201, "x"], "RelatedProspectId: 910000000000"),
        (["", 201, 919812000000], "Lead.Phone: 919812000000"),
        (["", 201, 919812345678], ""),
        (["", 201, "910000000000"], ""),
    ],
)
def test_a_number_that_was_saved_as_it_was_shown_is_refused(
    tmp_path: Path, row: list[object], refused: str
) -> None:
    """9.1E+11 in a workbook is 910000000000: its other digits are lost."""
    path = tmp_path / "calls.xlsx"
    write_xlsx(path, [["RelatedProspectId", "ActivityEvent", "Lead.Phone"], row])
    why = "was probably shortened by a spreadsheet; enter it again, in a column that is formatted"
    assert said_of(path, Reading())[1] == (refused and f"line 2, {refused} {why} as text")


def test_a_date_of_a_workbook_needs_a_zone_too(tmp_path: Path) -> None:
    moment = datetime(2026, 11, 28, 14, 5)  # noqa: DTZ001  as a sheet has it
    rows = [["RelatedProspectId", "ActivityEvent", "Activity Date"], [LEAD, 201, moment]]
    _, said = said_of(write_xlsx(tmp_path / "calls.xlsx", rows), Reading())
    assert said == (
        "line 2, Activity Date: 2026-11-28 14:05:00 has no time zone; name it, such as"
        " --timezone Asia/Kolkata"
    )
