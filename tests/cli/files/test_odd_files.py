"""Files and options at the edge of what can be read, and what is said of them."""

from __future__ import annotations

import json
import sys
import zipfile
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from files_support import Desk, cells, new_workbook, write_csv, write_xlsx
from reading_support import HEAD, LEAD, read

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.own_files import Results, read_results
from leadpost.cli.files.reading.settings import Reading


def said(path: Path, content: str | bytes, reading: Reading | None = None) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        rows = read(path, reading or Reading(timezone="UTC"))
    except InputError as error:
        return str(error)
    return "; ".join(f"{row.place}, {problem}" for row in rows for problem in row.problems)


@pytest.mark.parametrize(
    ("content", "reading", "wanted"),
    [
        (f"{HEAD}\n ,201\n", Reading(), "line 2, Lead Id: is empty; enter the lead's id"),
        (
            f"{HEAD}\n{LEAD},\n",
            Reading(),
            "line 2, ActivityEvent: is empty; enter the activity type's code, or --set Act",
        ),
        (
            f"{HEAD}\n{LEAD},0\n",
            Reading(),
            "line 2, ActivityEvent: 0 is not a positive whole number such as 201",
        ),
        (f"Lead Id,,ActivityEvent\n{LEAD},,\n", Reading(), "line 2, ActivityEvent: is empty"),
        (
            f"{HEAD},Activity Date\n{LEAD},201,0001-01-01 00:00\n",
            Reading(timezone="+05:30"),
            "line 2, Activity Date: 0001-01-01 00:00 is out of range; correct it",
        ),
        (
            f"{HEAD},Activity Date\n{LEAD},201,soon\n",
            Reading(timezone="UTC", date_formats=("%d.%m.%Y",)),
            "line 2, Activity Date: soon is not a date-time; write it as 2026-11-28 14:05, or",
        ),
        (
            f"{HEAD}\n{LEAD},201\n",
            Reading(encoding="klingon"),
            "--encoding: 'klingon' is not a known encoding; try cp1252, utf-16-le or utf-8",
        ),
        (
            f"{HEAD}\n{LEAD},201\n",
            Reading(delimiter=";;"),
            "--delimiter: ';;' is not one character; try ';' or '\\t'",
        ),
        (
            HEAD.encode("utf-16") + b"\n",
            Reading(),
            "a.csv: the file ends in the middle of a character; was it cut off?",
        ),
        (
            f"{HEAD},Note\n".encode() + f"{LEAD},201,x\n".encode() * 5000 + b"\xff",
            Reading(),
            "a.csv: line 5002: byte 0xff is not UTF-8.",
        ),
        (
            f"{HEAD},mx_a,mx_a \n{LEAD},201,1,2\n",
            Reading(),
            "a.csv: the heading 'mx_a' occurs twice; rename or delete one",
        ),
        (
            f"ActivityEvent\n{LEAD}\n",
            Reading(),
            "a.csv: no column is RelatedProspectId; name it with --map 'Heading=RelatedProspectId'",
        ),
        (
            f"{HEAD},ActivityNotess,Agent\n{LEAD},201,1,2\n",
            Reading(),
            "a.csv: 2 columns are unknown. To send such a column: --map ActivityNotess=",
        ),
        ("\n\n", Reading(), "a.csv: the file is empty"),
    ],
)
def test_csv(tmp_path: Path, content: str | bytes, reading: Reading, wanted: str) -> None:
    assert said(tmp_path / "a.csv", content, reading).startswith(wanted)


@pytest.mark.parametrize("delimiter", ["\\t", "tab"])
def test_a_tab_can_be_named(tmp_path: Path, delimiter: str) -> None:
    content = f"{HEAD}\n{LEAD},201\n".replace(",", "\t")
    assert said(tmp_path / "a.csv", content, Reading(delimiter=delimiter)) == ""


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("a.json", b'[{"a": "\xff"}]', "a.json: line 1: byte 0xff is not UTF-8."),
        ("a.json", b"{oops", "a.json: line 1: not JSON: "),
        (
            "a.jsonl",
            b"oops",
            "a.jsonl: line 1: not JSON: Expecting value; write an array of objects",
        ),
        ("a.json", b"[1]", "a.json: line 1: 1 is not a JSON object"),
        (
            "a.json",
            json.dumps([{"RelatedProspectId": LEAD, "ActivityEvent": "x"}]).encode(),
            "line 1, item 1, ActivityEvent: x is not a positive whole number such as 201",
        ),
        (
            "a.json",
            json.dumps([{"RelatedProspectId": LEAD, "ActivityEvent": 201, "Fields": 1}]).encode(),
            "line 1, item 1, Fields: found a value of type int, wanted a list of items",
        ),
        ("a.xlsx", b"text", "a.xlsx: 1 column is unknown. To send such"),
        ("a.xlsx", b"PK\x03\x04rest", "a.xlsx: cannot be read as a workbook"),
    ],
)
def test_json_and_names(tmp_path: Path, name: str, content: bytes, wanted: str) -> None:
    assert wanted in said(tmp_path / name, content)


def test_json_without_a_name(tmp_path: Path) -> None:
    activity = {"RelatedProspectId": LEAD, "ActivityEvent": 201}
    for content in (
        json.dumps([activity]),
        json.dumps(activity),
        json.dumps(activity, indent=1),
        f"{json.dumps(activity)}\n",
    ):
        assert said(tmp_path / "calls", content) == ""
        assert len(read(tmp_path / "calls")) == 1


def test_constants_of_json_are_parameters_or_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    fields = [{"SchemaName": "mx_a", "Value": "old"}, {"SchemaName": "mx_b", "Value": "kept"}]
    path.write_text(json.dumps([{"RelatedProspectId": LEAD, "Fields": fields}]))
    reading = Reading(constants={"Activity Event": "202", "mx_a": "new"})
    (row,) = read(path, reading)
    assert row.payload == {
        "RelatedProspectId": LEAD,
        "ActivityEvent": 202,
        "Fields": [
            {"SchemaName": "mx_b", "Value": "kept"},
            {"SchemaName": "mx_a", "Value": "new"},
        ],
    }


def test_a_constant_of_json_leaves_what_is_no_list_of_fields_as_it_is(tmp_path: Path) -> None:
    content = json.dumps([{"RelatedProspectId": LEAD, "ActivityEvent": 201, "Fields": 1}])
    problem = "Fields: found a value of type int, wanted a list of items"
    assert problem in said(tmp_path / "a.json", content, Reading(constants={"mx_a": "new"}))


def test_a_constant_of_a_lead_is_for_tables_only(tmp_path: Path) -> None:
    wanted = "--set Lead.FirstName: for tables only; in JSON, use LeadDetails"
    assert said(tmp_path / "a.json", "[]", Reading(constants={"Lead.FirstName": "x"})) == wanted


def test_nested_fields_have_a_digest_of_their_own(tmp_path: Path) -> None:
    def digest(value: Any) -> str:
        activity = {"RelatedProspectId": LEAD, "ActivityEvent": 201, "Fields": [value]}
        path = tmp_path / "a.json"
        path.write_text(json.dumps([activity | {"ProcessFilesAsync": True}]))
        (row,) = read(path)
        return row.digest_read

    nested = [{"SchemaName": "mx_CustomObject_1", "Value": "a"}]
    item = {"SchemaName": "mx_a", "Value": "", "Fields": nested}
    assert digest(item) == digest(item)
    other = [{"SchemaName": "mx_CustomObject_1", "Value": "b"}]
    assert digest(item) != digest(item | {"Fields": other})
    assert digest({"SchemaName": "mx_a", "Value": 5.0}) == digest(
        {"Attribute": "mx_a", "Value": "5"}
    )
    assert digest({"SchemaName": "mx_a", "Value": 5.5}) != digest(
        {"SchemaName": "mx_a", "Value": 5}
    )


def sheet_as_excel_writes_it(path: Path) -> Path:
    """A workbook with shared strings, styles and rows that are hidden below the data."""
    parts = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/'
        'content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-'
        'package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
        '<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-'
        'officedocument.spreadsheetml.sheet.main+xml"/></Types>',
        "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
        'relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/'
        'officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/>'
        "</Relationships>",
        "xl/workbook.xml": '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/'
        'main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
        '<sheets><sheet name="Calls" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/'
        'package/2006/relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.'
        'org/officeDocument/2006/relationships/worksheet" Target="/xl/worksheets/sheet1.xml"/>'
        '<Relationship Id="rId2" Type="http://schemas.openxmlformats.org/officeDocument/2006/'
        'relationships/sharedStrings" Target="sharedStrings.xml"/><Relationship Id="rId3"'
        ' Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/styles"'
        ' Target="styles.xml"/></Relationships>',
        "xl/sharedStrings.xml": '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/'
        f'main"><si><t>Lead Id</t></si><si><t>ActivityEvent</t></si><si><t>Activity Date</t></si>'
        f"<si><t>{LEAD}</t></si></sst>",
        "xl/styles.xml": '<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/'
        'main"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="22"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": '<x:worksheet xmlns:x="http://schemas.openxmlformats.org/'
        'spreadsheetml/2006/main"><x:sheetData><x:row r="3" spans="1:3"><x:c r="A3" t="s"><x:v>0'
        '</x:v></x:c><x:c r="B3" t="s"><x:v>1</x:v></x:c><x:c r="C3" t="s"><x:v>2</x:v></x:c>'
        '</x:row><x:row r="4"><x:c r="A4" t="s"><x:v>3</x:v></x:c><x:c r="B4"><x:f>200+1</x:f>'
        '<x:v>201</x:v></x:c><x:c r="C4" s="1"><x:v>46354.5868055556</x:v></x:c></x:row>'
        '<x:row r="9" hidden="1"/></x:sheetData></x:worksheet>',
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return path


def test_a_workbook_as_excel_writes_it(tmp_path: Path) -> None:
    (row,) = read(sheet_as_excel_writes_it(tmp_path / "calls.xlsx"))
    assert row.line == 4
    assert row.payload == {
        "RelatedProspectId": LEAD,
        "ActivityEvent": 201,
        "ActivityDateTime": "2026-11-28 14:05:00",
    }


def test_a_chart_is_no_sheet_of_rows(tmp_path: Path) -> None:
    book = new_workbook()
    book.create_chartsheet("Chart", 0)
    book["Sheet"].append(HEAD.split(","))
    book["Sheet"].append([LEAD, 201])
    book.save(tmp_path / "a.xlsx")
    (row,) = read(tmp_path / "a.xlsx")
    assert (row.line, row.own[0]) == (2, LEAD)


def test_cells_of_every_kind(tmp_path: Path) -> None:
    header = ["Lead Id", "ActivityEvent", *(f"mx_{n}" for n in range(5))]
    values = [date(2026, 11, 28), time(14, 5), timedelta(hours=30), 1.5, False]
    path = write_xlsx(tmp_path / "a.xlsx", [header, [LEAD, 201, *values]])
    (row,) = read(path)
    assert row.payload is not None
    found = [item["Value"] for item in row.payload["Fields"]]
    assert found[0] == "2026-11-28 00:00:00"
    assert found[1] == "14:05:00"
    assert found[3:] == ["1.5", "FALSE"]


def test_an_empty_sheet(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", [])
    with pytest.raises(InputError, match=r"a\.xlsx, sheet Sheet: the sheet is empty"):
        read(path)


def test_a_cell_behind_the_last_heading_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", [["Lead Id", "ActivityEvent"], [LEAD, 201, "#N/A"]])
    (row,) = read(path)
    assert str(row.problems[0]).startswith("row: #N/A is in a column without a heading")


def test_without_the_extra_a_workbook_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_xlsx(tmp_path / "a.xlsx", [["a"]])
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    with pytest.raises(InputError, match=r"pip install 'leadpost\[excel\]'"):
        read(path)


def test_results_that_were_edited_say_what_they_can(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.results.csv"
    path.write_text("line;state\n2;accepted\n3;skipped\n")
    assert read_results(path) == Results(1)
    table = "".join(f"{n},accepted,r{n}\n" for n in range(1001))
    path.write_text(f"line,state,request_id\n{table}1,uncertain,\n")
    results = read_results(path)
    assert results.posted == 1002
    assert results.request_ids == tuple(f"r{n}" for n in range(0, 1001, 3))
    path.write_bytes(b"\xff\xfe\xff")
    assert read_results(path) == Results()


def test_results_as_json(desk: Desk) -> None:
    path = write_csv(desk.folder / "calls.csv", [cells(0)])
    assert desk.post(path)[0] == 0
    found = json.loads(desk.run("results", path, "--json").stdout)
    assert (found["rows"], found["accepted"], found["seconds"]) == (1, 1, None)
    again = desk.run("post", path, "--timezone", "UTC", "--json")
    assert json.loads(again.stdout)["accepted"] == 1


def test_a_dry_run_leaves_no_outbox(desk: Desk) -> None:
    path = write_csv(desk.folder / "calls.csv", [cells(0)])
    code, text = desk.post(path, "--dry-run", "--outbox", "new.db")
    assert code == 0
    assert "1 new" in text
    assert not Path("new.db").exists()


def test_a_renamed_file_of_which_nothing_is_known_else(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [cells(0)])
    assert desk.post(path)[0] == 0
    other = write_csv(desk.folder / "b.csv", [cells(1)])
    assert desk.post(other)[0] == 0
    assert desk.notes() == ["Note 0", "Note 1"]


@pytest.mark.parametrize("url_of_store", ["postgresql_url"])
def test_a_file_through_postgresql(
    desk: Desk, request: pytest.FixtureRequest, url_of_store: str
) -> None:
    url: str = request.getfixturevalue(url_of_store)
    path = write_csv(desk.folder / "calls.csv", [cells(0), cells(1), cells(1), cells(2)])
    assert desk.post(path, "--first", "2", "--outbox", url)[0] == 0
    renamed = path.rename(desk.folder / "november.csv")
    write_csv(renamed, [cells(0), cells(1), cells(1, ActivityEvent="x")])
    options = ("--outbox", url, "--skip-invalid", "--duplicates", "skip")
    assert desk.post(renamed, *options)[0] == 1
    rejects = desk.folder / "november.csv.rejects.csv"
    rejects.write_text(rejects.read_text(encoding="utf-8").replace(",x,", ",207,"))
    code, text = desk.post(rejects, "--outbox", url)
    assert code == 0, text
    assert desk.notes() == ["Note 0", "Note 1", "Note 1"]
    assert desk.run("verify", renamed, "--outbox", url).exit_code == 0
    assert desk.run("outbox", "prune", "--older-than", "0s", "--outbox", url).exit_code == 0
    assert desk.post(rejects, "--outbox", url)[0] == 0
    assert len(desk.notes()) == 3


def test_a_heading_with_an_apostrophe_is_quoted_for_the_shell(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [cells(0) | {"Agent's name": "Ada"}])
    code, said = desk.post(path)
    assert code == 2
    assert """: --ignore 'Agent'"'"'s name'\n""" in said
