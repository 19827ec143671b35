"""
Files as LibreOffice 7.4 wrote them, in `recorded/`: one sheet, saved in several ways.

The sheet has three rows, dates in a format of its own, a formula, a line break within a cell. Then
the same with a filter that hides a row, and with errors (`=NA()`, `=1/0`, a VLOOKUP in vain).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.opening import opened
from leadpost.cli.files.reading.row import Row
from leadpost.cli.files.reading.settings import Reading

RECORDED = Path(__file__).parent / "recorded"
SHEET = Reading(timezone="Asia/Kolkata")
TEXT = Reading(timezone="Asia/Kolkata", date_formats=("%d/%m/%Y %H:%M:%S",))


def rows_of(name: str, reading: Reading) -> list[Row]:
    with opened(str(RECORDED / name)) as file:
        return list(file.source(reading).rows())


def activity(number: int, event: int, note: str, moment: str, value: str) -> dict[str, Any]:
    return {
        "RelatedProspectId": f"3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a1{number}",
        "ActivityEvent": event,
        "ActivityNote": note,
        "ActivityDateTime": moment,
        "Fields": [
            {"SchemaName": "mx_Custom_1", "Value": value},
            {"SchemaName": "mx_Phone", "Value": f"+91-981234567{number}"},
        ],
    }


WANTED = [
    activity(1, 201, "Called back", "2026-11-28 08:30:07", "12.5"),
    activity(2, 202, 'Said "yes", then\nhung up', "2026-11-29 04:00:00", "7"),
    activity(3, 201, "Caf\xe9 \u2014 ok", "2026-11-30 18:30:00", "1000000"),
]


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("libreoffice.xlsx", SHEET),
        ("libreoffice_comma_utf8.csv", TEXT),
        (
            "libreoffice_semicolon_cp1252.csv",
            Reading(timezone="+05:30", date_formats=TEXT.date_formats, encoding="cp1252"),
        ),
        ("libreoffice_tab_utf16.csv", TEXT),
    ],
)
def test_the_sheet_is_read_the_same_however_it_was_saved(name: str, reading: Reading) -> None:
    rows = rows_of(name, reading)
    assert [row.payload for row in rows] == WANTED


def test_a_row_that_a_filter_hides_is_refused_unless_it_is_wanted() -> None:
    with pytest.raises(InputError, match="1 row is hidden, such as row 3"):
        rows_of("libreoffice_filtered.xlsx", SHEET)
    hidden_too = Reading(timezone="Asia/Kolkata", include_hidden=True)
    assert [row.payload for row in rows_of("libreoffice_filtered.xlsx", hidden_too)] == WANTED


@pytest.mark.parametrize(
    ("name", "reading", "third"),
    [
        ("libreoffice_errors.xlsx", SHEET, 4),
        ("libreoffice_errors.csv", TEXT, 5),  # the second row has two lines
    ],
)
def test_errors_of_the_spreadsheet_are_refused_by_cell(
    name: str, reading: Reading, third: int
) -> None:
    rows = rows_of(name, reading)
    said = [f"{row.place}, {problem}" for row in rows for problem in row.problems]
    remedy = "is an error of the spreadsheet; correct the formula, or delete the cell"
    assert said == [
        f"line 2, mx_Custom_1: #N/A {remedy}",
        f"line 3, mx_Custom_1: #DIV/0! {remedy}",
        f"line {third}, Note: #N/A {remedy}",
    ]
    assert not any(row.payload for row in rows)
