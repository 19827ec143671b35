"""Files as people have them: each is posted right, or refused with line, column, value, remedy."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
from attrs import frozen
from files_support import cells, csv_text
from reading_support import INDIA, LEAD, WANTED, read, said_of

from leadpost.cli.files.reading.settings import Reading

CSV = csv_text([cells(0)])
BARE = f"RelatedProspectId,ActivityEvent\n{LEAD},201\n"
BARE_WANTED = {"RelatedProspectId": LEAD, "ActivityEvent": 201}


@frozen
class Case:
    """A file, and what becomes of its one row: what is posted, or what is said of it."""

    name: str
    content: str | bytes
    reading: Reading = INDIA
    posted: dict[str, Any] | None = None
    said: str = ""
    file: str = "calls.csv"


NAMELESS = f"RelatedProspectId,,ActivityEvent\n{LEAD},{{}},201\n"
UTC = BARE_WANTED | {"ActivityDateTime": "2026-11-28 14:05:07"}


def noted(note: str) -> dict[str, Any]:
    return BARE_WANTED | {"ActivityNote": note}


def dated(text: str, heading: str = "ActivityDateTime") -> str:
    return f"RelatedProspectId,ActivityEvent,{heading}\n{LEAD},201,{text}\n"


def at(moment: str) -> dict[str, Any]:
    return BARE_WANTED | {"ActivityDateTime": moment}


def with_field(value: str, heading: str = "mx_Phone") -> str:
    return f"RelatedProspectId,ActivityEvent,{heading}\n{LEAD},201,{value}\n"


CASES = [
    Case("comma", CSV, posted=WANTED),
    Case("semicolon", csv_text([cells(0)], ";"), posted=WANTED),
    Case("tab", csv_text([cells(0)], "\t"), posted=WANTED),
    Case("sep= line", "sep=;\r\n" + csv_text([cells(0)], ";"), posted=WANTED),
    Case(
        "--delimiter",
        csv_text([cells(0)], "|"),
        Reading(timezone="+05:30", delimiter="|"),
        posted=WANTED,
    ),
    Case("UTF-8 with BOM", "\ufeff" + CSV, posted=WANTED),
    Case("UTF-16 by BOM", CSV.encode("utf-16"), posted=WANTED),
    Case(
        "cp1252, unnamed",
        (BARE[:-1] + "\n")
        .replace("Event\n", "Event,Note\n")
        .replace(",201\n", ",201,Caf\xe9\n")
        .encode("cp1252"),
        said="calls.csv: line 2: byte 0xe9 is not UTF-8. Name the file's encoding, often"
        ' --encoding cp1252, or save it as UTF-8 (in Excel: File, Save As, "CSV UTF-8")',
    ),
    Case(
        "cp1252",
        f"RelatedProspectId,ActivityEvent,Note\n{LEAD},201,Caf\xe9\n".encode("cp1252"),
        Reading(encoding="cp1252"),
        posted=noted("Caf\xe9"),
    ),
    Case("CR line ends", BARE.replace("\n", "\r"), posted=BARE_WANTED),
    Case("CRLF line ends", BARE.replace("\n", "\r\n"), posted=BARE_WANTED),
    Case(
        "a cell of 140,000 characters",
        f"RelatedProspectId,ActivityEvent,Note\n{LEAD},201,{'x' * 140_000}\n",
        posted=noted("x" * 140_000),
    ),
    Case("empty unnamed columns", BARE.replace("\n", ",,\n"), posted=BARE_WANTED),
    Case("an empty column without a heading", NAMELESS.format(" "), posted=BARE_WANTED),
    Case(
        "a column without a heading that is left out",
        NAMELESS.format("Ann"),
        Reading(ignore_others=True),
        posted=BARE_WANTED,
    ),
    Case(
        "a column without a heading",
        NAMELESS.format("Ann"),
        said="line 2, row: Ann is in a column without a heading; give it one, or leave out all"
        " such columns with --ignore-others",
    ),
    Case("blank rows", BARE.replace("\n", "\n,\n \n"), posted=BARE_WANTED),
    Case(
        "a cell without a heading",
        BARE[:-1] + ",rest\n",
        said="line 2, row: rest is in a column without a heading; quote cells that contain the"
        " delimiter",
    ),
    Case(
        "a cell too few",
        f"RelatedProspectId,ActivityEvent,Note\n{LEAD},201\n",
        said="line 2, row: has 2 cells, and the header has 3; is a delimiter or a quotation mark"
        " missing?",
    ),
    Case(
        "a broken quote",
        f'RelatedProspectId,ActivityEvent,Note\n{LEAD},201,"a"b\n',
        said="calls.csv: line 2: not CSV: ',' expected after '\"'. Is a quotation mark missing?",
    ),
    Case("blanks around cells", f"Lead Id , Activity Event\n {LEAD} , 201 \n", posted=BARE_WANTED),
    Case(
        "an id in braces, without hyphens",
        f"ProspectId,ActivityEvent\n{{{LEAD.replace('-', '')}}},201\n",
        posted=BARE_WANTED,
    ),
    Case(
        "an id that is none",
        "ProspectId,ActivityEvent\n4711,201\n",
        said="line 2, ProspectId: 4711 is not a lead's id, such as"
        " 00727844-51aa-11e2-9e64-12314004ac6b",
    ),
    Case("201.0", BARE.replace("201", "201.0"), posted=BARE_WANTED),
    Case('"201"', BARE.replace("201", '"""201"""'), posted=BARE_WANTED),
    Case(
        "an event of letters",
        BARE.replace("201", "call"),
        said="line 2, ActivityEvent: call is not a positive whole number such as 201; names of"
        " activity types need your keys: leadpost setup",
    ),
    Case(
        "a shortened phone",
        with_field("9.19812E+11"),
        said="line 2, mx_Phone: 9.19812E+11 was shortened by a spreadsheet; format the column as"
        " text",
    ),
    Case(
        "a shortened id",
        "ProspectId,ActivityEvent\n7.27844E+30,201\n",
        said="line 2, ProspectId: 7.27844E+30 was shortened by a spreadsheet; format the column as"
        " text",
    ),
    Case("ISO without seconds", dated("2026-11-28 14:05"), posted=at("2026-11-28 08:35:00")),
    Case("ISO with T", dated("2026-11-28T14:05:07"), posted=at("2026-11-28 08:35:07")),
    Case(
        "ISO with an offset",
        dated("2026-11-28T14:05:07+05:30"),
        Reading(),
        posted=at("2026-11-28 08:35:07"),
    ),
    Case(
        "no zone",
        dated("2026-11-28 14:05"),
        Reading(),
        said="line 2, ActivityDateTime: 2026-11-28 14:05 has no time zone; name it, such as"
        " --timezone Asia/Kolkata",
    ),
    Case(
        "another date format",
        dated("28/11/2026 14:05"),
        said="line 2, ActivityDateTime: 28/11/2026 14:05 is not in the form 2026-11-28 14:05; add"
        " --date-format '%d/%m/%Y %H:%M'",
    ),
    Case(
        "--date-format",
        dated("28/11/2026 14:05"),
        Reading(timezone="Asia/Kolkata", date_formats=("%d/%m/%Y %H:%M",)),
        posted=at("2026-11-28 08:35:00"),
    ),
    Case(
        "ISO beside --date-format",
        dated("2026-11-28 14:05"),
        Reading(timezone="Asia/Kolkata", date_formats=("%d/%m/%Y %H:%M",)),
        posted=at("2026-11-28 08:35:00"),
    ),
    Case(
        "no date",
        dated("yesterday"),
        said="line 2, ActivityDateTime: yesterday is not a date-time; write it as 2026-11-28"
        " 14:05, or add --date-format",
    ),
    Case(
        "a day that there is not",
        dated("2026-02-30 14:05"),
        said="line 2, ActivityDateTime: 2026-02-30 14:05 is a day or time that does not exist;"
        " correct it",
    ),
    Case(
        "a day that there is not, in another format",
        dated("31/02/2026 14:05"),
        Reading(timezone="UTC", date_formats=("%d/%m/%Y %H:%M",)),
        said="line 2, ActivityDateTime: 31/02/2026 14:05 is a day or time that does not exist;"
        " correct it",
    ),
    Case(
        "a day without a time",
        dated("28/11/2026"),
        said="line 2, ActivityDateTime: 28/11/2026 is not in the form 2026-11-28 14:05; add"
        " --date-format '%d/%m/%Y'",
    ),
    Case(
        "a time that the zone skips",
        dated("2026-03-29 02:30"),
        Reading(timezone="Europe/Berlin"),
        said="line 2, ActivityDateTime: 2026-03-29 02:30 does not exist in Europe/Berlin, where"
        " clocks went forward; correct it, or add the offset",
    ),
    Case(
        "a time that the zone has twice",
        dated("2026-10-25 02:30"),
        Reading(timezone="Europe/Berlin"),
        said="line 2, ActivityDateTime: 2026-10-25 02:30 occurs twice in Europe/Berlin, where"
        " clocks went back; add the offset, +02:00 or +01:00",
    ),
    Case(
        "the screens' names",
        f"Lead Id,Activity Event,Notes,Activity Date\n{LEAD},201,hi,2026-11-28 14:05\n",
        posted=noted("hi") | at("2026-11-28 08:35:00"),
    ),
    Case(
        "two headings for one parameter",
        f"Lead Id,ActivityEvent,Note,Notes\n{LEAD},201,a,b\n",
        said="calls.csv: 'Note' and 'Notes' are both ActivityNote; leave one out with --ignore"
        " Notes",
    ),
    Case(
        "a heading twice",
        f"Lead Id,ActivityEvent,mx_a,mx_a\n{LEAD},201,a,b\n",
        said="calls.csv: the heading 'mx_a' occurs twice; rename or delete one",
    ),
    Case(
        "unknown headings, and what to do with each",
        "Lead Id,Activity Event,Agent,E-mail,Phone No.,Branch,Called by\n",
        said="calls.csv: 5 columns are unknown. To send such a column: --map"
        " Agent=SCHEMANAME --map E-mail=Lead.EmailAddress --map 'Phone No.=Lead.Phone' --map"
        " Branch=SCHEMANAME --map 'Called by=SCHEMANAME'\n"
        "To leave it out: --ignore Agent --ignore E-mail --ignore 'Phone No.' --ignore Branch"
        " --ignore 'Called by'\n"
        "To leave out all that are unknown: --ignore-others",
    ),
    *(
        Case(
            f"an unknown heading like {heading}",
            f"RelatedProspectId,ActivityEvent,Agent,{heading}\n{LEAD},201,Ann,x\n",
            said="calls.csv: 2 columns are unknown. To send such a column: --map"
            f" Agent=SCHEMANAME --map {quote(f'{heading}={target}')}\n"
            f"To leave it out: --ignore Agent --ignore {quote(heading)}\n"
            "To leave out all that are unknown: --ignore-others",
        )
        for heading, target in {
            "Email": "Lead.EmailAddress",
            "E-mail Address": "Lead.EmailAddress",
            "Phone Number": "Lead.Phone",
            "Mobile No.": "Lead.Phone",
            "First Name": "Lead.FirstName",
            "Last Name": "Lead.LastName",
            "Activity Note Text": "ActivityNote",
        }.items()
    ),
    *(
        Case(
            f"the SchemaName {name}",
            with_field("Open", name),
            posted=BARE_WANTED | {"Fields": [{"SchemaName": name, "Value": "Open"}]},
        )
        for name in ("Status", "Owner", "mx_Custom_60")
    ),
    Case(
        "--map",
        with_field("Ann", "Agent"),
        Reading(columns={"agent": "mx_Custom_3"}),
        posted=BARE_WANTED | {"Fields": [{"SchemaName": "mx_Custom_3", "Value": "Ann"}]},
    ),
    Case(
        "--map of no column",
        BARE,
        Reading(columns={"Agent": "mx_Custom_3"}),
        said="calls.csv: --map: it has no column 'Agent', only RelatedProspectId, ActivityEvent",
    ),
    Case("--ignore", with_field("Ann", "Agent"), Reading(ignored=("Agent",)), posted=BARE_WANTED),
    Case(
        "--ignore-others", with_field("x", "Agent"), Reading(ignore_others=True), posted=BARE_WANTED
    ),
    Case(
        "--set",
        BARE,
        Reading(constants={"Activity Event": "202", "mx_a": "b"}),
        posted={
            "RelatedProspectId": LEAD,
            "ActivityEvent": 202,
            "Fields": [{"SchemaName": "mx_a", "Value": "b"}],
        },
    ),
    Case(
        "no event",
        f"Lead Id\n{LEAD}\n",
        said="calls.csv: no column is ActivityEvent; name it with --map 'Heading=ActivityEvent', or"
        " set it with --set ActivityEvent=201",
    ),
    Case("an empty file", "", said="calls.csv: the file is empty"),
    Case(
        "an old workbook",
        b"\xd0\xcf\x11\xe0rest",
        file="calls.xls",
        said="calls.xls: an old or protected workbook; save it as .xlsx without a password",
    ),
    Case("a JSON array", json.dumps([WANTED]), Reading(), posted=WANTED, file="calls.json"),
    Case("UTC in JSON", json.dumps([UTC]), posted=UTC, file="calls.json"),
    Case(
        "JSON with a T, as LeadSquared does not write it",
        json.dumps([UTC | {"ActivityDateTime": "2026-11-28T14:05:07"}]),
        posted=at("2026-11-28 08:35:07"),
        file="calls.json",
    ),
    Case(
        "JSON in another date format",
        json.dumps([UTC | {"ActivityDateTime": "28/11/2026 14:05"}]),
        Reading(timezone="Asia/Kolkata", date_formats=("%d/%m/%Y %H:%M",)),
        posted=at("2026-11-28 08:35:00"),
        file="calls.json",
    ),
    Case("JSON lines", json.dumps(WANTED) + "\n\n", Reading(), posted=WANTED, file="calls.jsonl"),
    Case(
        "JSON over several lines",
        json.dumps(WANTED, indent=1),
        Reading(),
        posted=WANTED,
        file="calls.json",
    ),
    Case(
        "numbers of JSON",
        f'[{{"RelatedProspectId": "{LEAD}", "ActivityEvent": 201, "Fields":'
        ' [{"SchemaName": "mx_a", "Value": 1.50},'
        ' {"SchemaName": "mx_b", "Value": 12345678901234567890}]}]',
        Reading(),
        posted=BARE_WANTED
        | {
            "Fields": [
                {"SchemaName": "mx_a", "Value": "1.50"},
                {"SchemaName": "mx_b", "Value": 12345678901234567890},
            ]
        },
        file="calls.json",
    ),
    Case(
        "a broken line of JSON",
        "{oops}\n",
        said="calls.jsonl: line 1: not JSON: Expecting property name enclosed in double quotes;"
        " write an array of objects, or an object on each line",
        file="calls.jsonl",
    ),
    Case("JSON named CSV", json.dumps([WANTED]), Reading(), posted=WANTED),
    Case(
        "CSV named JSON",
        BARE,
        said="calls.jsonl: line 1: not JSON: Expecting value; write an array of objects, or an"
        " object on each line",
        file="calls.jsonl",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_is_posted_right_or_refused_with_the_remedy(tmp_path: Path, case: Case) -> None:
    path = tmp_path / case.file
    content = case.content
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    posted, said = said_of(path, case.reading)
    assert said == case.said
    assert posted == ([case.posted] if case.posted else [])


@pytest.mark.parametrize(
    ("note", "end"), [("x" * 140_000, "\n"), ("Called back", "\r")], ids=["big cell", "mac"]
)
def test_files_that_were_refused_without_need(tmp_path: Path, note: str, end: str) -> None:
    """A cell of more than 131,072 characters, and the line ends of old Macs."""
    lines = ["RelatedProspectId,ActivityEvent,ActivityNote", f"{LEAD},201,{note}", ""]
    path = tmp_path / "calls.csv"
    path.write_bytes(end.join(lines).encode())
    (row,) = read(path, Reading())
    assert row.payload is not None
    assert row.payload["ActivityNote"] == note
