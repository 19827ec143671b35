"""Workbooks as Excel and LibreOffice write them; see `workbooks/README.md`."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from files_support import lead

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.opening import opened
from leadpost.cli.files.reading.row import Row
from leadpost.cli.files.reading.settings import Reading
from leadpost.cli.files.reading.workbook import workbook_grid

FOLDER = Path(__file__).parent / "workbooks"
HEADER = ("Lead Id", "Activity Event", "Activity Date", "Notes")
INDIA = Reading(timezone="Asia/Kolkata")
WANTED = {
    "RelatedProspectId": lead(0),
    "ActivityEvent": 201,
    "ActivityDateTime": "2026-11-28 08:35:00",
    "ActivityNote": "Called & agreed",
}


def records(name: str) -> list[tuple[int, list[str]]]:
    with (FOLDER / name).open("rb") as file:
        grid = workbook_grid(file, name, Reading())
        return [(1, grid.header), *grid.records]


@pytest.mark.parametrize("name", ["libreoffice_7_dates.xlsx", "libreoffice_7_dates_1904.xlsx"])
def test_dates_are_dates_whichever_year_they_are_counted_from(name: str) -> None:
    assert records(name) == [
        (1, ["2021-01-01 00:00:00", "15"]),
        (2, ["2021-01-02 00:00:00", "16"]),
        (3, ["10 days, 15:10:10", "17"]),  # a duration, which no date-time column takes
    ]


def test_numbers_of_excel_are_written_as_they_are_shown() -> None:
    assert records("excel_16_readings.xlsx") == [
        (1, ["Station", "Celsius", "Humidity", "Pressure"]),
        (2, ["London", "15", "72", "1013"]),
        (3, ["Paris", "18.5", "65", "1009"]),
        (4, ["Berlin", "12", "80", "1017"]),
    ]


def test_errors_of_excel_are_seen_and_hidden_rows_below_the_data_are_not_missed() -> None:
    errors = ("#DIV/0!", "#NAME?", "#VALUE!", "#NULL!", "#REF!", "#NUM!", "#N/A")
    assert records("excel_2007_errors.xlsx") == [(n, [text]) for n, text in enumerate(errors, 1)]


# Rows of calls, each cell as the program writes it.

EXCEL = "excel_16_readings.xlsx"
LIBREOFFICE = "libreoffice_7_dates.xlsx"
TEXT = {
    EXCEL: '<c r="{at}" t="s"><v>{value}</v></c>',
    LIBREOFFICE: '<c r="{at}" s="0" t="s"><v>{value}</v></c>',
}
NUMBER = {
    EXCEL: '<c r="{at}"><v>{value}</v></c>',
    LIBREOFFICE: '<c r="{at}" s="0" t="n"><v>{value}</v></c>',
}
FORMULA = {
    EXCEL: '<c r="{at}"><f>200+1</f><v>{value}</v></c>',
    LIBREOFFICE: '<c r="{at}" s="0"><f aca="false">200+1</f><v>{value}</v></c>',
}
ERROR = {
    EXCEL: '<c r="{at}" t="e"><f>VLOOKUP(A1,A1,A1,3)</f><v>{value}</v></c>',
    LIBREOFFICE: '<c r="{at}" s="0" t="e"><f aca="false">VLOOKUP(A1,A1,A1,3)</f><v>{value}</v></c>',
}
DATE = {
    EXCEL: '<c r="{at}" s="1"><v>{value}</v></c>',
    LIBREOFFICE: '<c r="{at}" s="4" t="n"><v>{value}</v></c>',
}
ROW = {
    EXCEL: '<row r="{row}" spans="1:4"{hidden} x14ac:dyDescent="0.2">{cells}</row>',
    LIBREOFFICE: (
        '<row r="{row}" customFormat="false" ht="12.8"{hidden} customHeight="false"'
        ' outlineLevel="0" collapsed="false">{cells}</row>'
    ),
}
HIDDEN = {EXCEL: ("", ' hidden="1"'), LIBREOFFICE: (' hidden="false"', ' hidden="true"')}
DATE_FORMAT = '<xf numFmtId="22" fontId="0" fillId="0" borderId="0" xfId="0"/></cellXfs>'
"""A format of a date and time, to be added to the cell formats that the program wrote."""
MOMENT = "46354.5868055556"
"""2026-11-28 14:05 in days since 1900: not exact, as a spreadsheet stores it."""

Cell = tuple[dict[str, str], str]
Change = Callable[[str, str], str]


def written_by(
    program: str,
    path: Path,
    rows: Sequence[Sequence[Cell]],
    hidden: Sequence[int] = (),
    change: Change | None = None,
) -> Path:
    """Put rows below the header into a workbook that a program wrote, in its own XML."""
    texts: list[str] = []

    def cell(place: int, number: int, kind: dict[str, str], value: str) -> str:
        if kind is TEXT:
            texts.append(f"<si><t>{value.replace('&', '&amp;')}</t></si>")
            value = str(len(texts) - 1)
        return kind[program].format(at=f"{'ABCD'[place]}{number}", value=value)

    header: list[Cell] = [(TEXT, text) for text in HEADER]
    sheet = "".join(
        ROW[program].format(
            row=number,
            hidden=HIDDEN[program][number in hidden],
            cells="".join(cell(place, number, *each) for place, each in enumerate(row)),
        )
        for number, row in enumerate([header, *rows], 1)
    )
    strings = (
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
        '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
        f' count="{len(texts)}" uniqueCount="{len(texts)}">{"".join(texts)}</sst>'
    )
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings"
    with zipfile.ZipFile(FOLDER / program) as old:
        parts = {name: old.read(name).decode() for name in old.namelist()}
    parts["xl/worksheets/sheet1.xml"] = re.sub(
        r"(<sheetData>).*(</sheetData>)",
        lambda found: f"{found[1]}{sheet}{found[2]}",
        parts["xl/worksheets/sheet1.xml"],
        flags=re.DOTALL,
    )
    parts["xl/styles.xml"] = parts["xl/styles.xml"].replace("</cellXfs>", DATE_FORMAT)
    if "xl/sharedStrings.xml" not in parts:
        # This workbook of LibreOffice has no text.
        parts["xl/_rels/workbook.xml.rels"] = parts["xl/_rels/workbook.xml.rels"].replace(
            "</Relationships>",
            f'<Relationship Id="rId9" Type="{relation}" Target="sharedStrings.xml"/>'
            "</Relationships>",
        )
        parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(
            "</Types>",
            f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>',
        )
    parts["xl/sharedStrings.xml"] = strings
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, text in parts.items():
            new.writestr(name, change(name, text) if change else text)
    return path


def read(path: Path, reading: Reading = INDIA) -> list[Row]:
    with opened(str(path)) as file:
        return list(file.source(reading).rows())


def call(number: int = 0, event: Cell = (NUMBER, "201")) -> list[Cell]:
    return [(TEXT, lead(number)), event, (DATE, MOMENT), (TEXT, "Called & agreed")]


@pytest.mark.parametrize("program", [EXCEL, LIBREOFFICE])
@pytest.mark.parametrize("event", [(NUMBER, "201"), (FORMULA, "201"), (TEXT, "201")])
def test_a_call_is_read(tmp_path: Path, program: str, event: Cell) -> None:
    (row,) = read(written_by(program, tmp_path / "calls.xlsx", [call(event=event)]))
    assert (row.line, row.payload) == (2, WANTED)


@pytest.mark.parametrize("program", [EXCEL, LIBREOFFICE])
def test_a_formula_that_failed_is_refused_by_its_cell(tmp_path: Path, program: str) -> None:
    rows = [call(0), call(1, (ERROR, "#N/A"))]
    first, second = read(written_by(program, tmp_path / "calls.xlsx", rows))
    assert first.payload == WANTED
    assert str(second.problems[0]).startswith("Activity Event: #N/A is an error of the spreadsheet")


@pytest.mark.parametrize("program", [EXCEL, LIBREOFFICE])
def test_rows_that_a_filter_hides_are_refused(tmp_path: Path, program: str) -> None:
    path = written_by(program, tmp_path / "calls.xlsx", [call(0), call(1)], hidden=[3])
    with pytest.raises(InputError, match="1 row is hidden, such as row 3"):
        read(path)
    assert len(read(path, Reading(timezone="UTC", include_hidden=True))) == 2


def test_what_excel_saves_as_strict_open_xml_is_read(tmp_path: Path) -> None:
    """Its namespaces are others."""

    def strict(name: str, text: str) -> str:
        if not name.startswith("xl/") and name != "_rels/.rels":
            return text
        for old, new in (
            ("schemas.openxmlformats.org/spreadsheetml/2006/main", "spreadsheetml/main"),
            (
                "schemas.openxmlformats.org/officeDocument/2006/relationships",
                "officeDocument/relationships",
            ),
        ):
            text = text.replace(f"http://{old}", f"http://purl.oclc.org/ooxml/{new}")
        return text

    (row,) = read(written_by(EXCEL, tmp_path / "calls.xlsx", [call()], change=strict))
    assert row.payload == WANTED
