"""Files of activities: what each format says, and what is said of those that are wrong."""

import io
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cli_support import payload, record, run, write_csv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leadpost.cli.exits import InputError
from leadpost.cli.inputs import base_of, opened, told_by_content
from leadpost.cli.json_values import values_of
from leadpost.cli.options import Format
from leadpost.cli.rows import Row, in_zone


def read(
    path: Path, *, form: Format | None = None, timezone: str | None = None, send_empty: bool = False
) -> list[Row]:
    with opened(str(path), form, timezone, send_empty=send_empty) as source:
        return list(source.rows())


def payloads(rows: list[Row]) -> list[dict[str, Any]]:
    return [row.activity.to_payload() for row in rows if row.activity is not None]


def told(rows: list[Row]) -> list[str]:
    return [f"{row.place}, {problem}" for row in rows for problem in row.problems]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


WANTED = [payload(number) for number in range(3)]


def as_csv(path: Path) -> Path:
    return write_csv(path, map(record, range(3)))


@pytest.mark.parametrize("name", ["leads.csv", "LEADS.CSV", "no-suffix"])
def test_csv_says_the_same_as_the_vendors_json(tmp_path: Path, name: str) -> None:
    rows = read(as_csv(tmp_path / name))
    assert payloads(rows) == WANTED
    assert [row.line for row in rows] == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.json", json.dumps(WANTED), [1, 1, 1]),
        ("a.json", json.dumps(WANTED, indent=1), [2, 14, 26]),
        ("no-suffix", "\n \ufeff"[2:] + json.dumps(WANTED), [1, 1, 1]),
        ("a.json", "\n".join(json.dumps(item, indent=1) for item in WANTED), [1, 13, 25]),
        ("no-suffix", "\n".join(json.dumps(item, indent=1) for item in WANTED), [1, 13, 25]),
        ("a.jsonl", "\n\n".join(map(json.dumps, WANTED)), [1, 3, 5]),
        ("a.ndjson", "\ufeff" + "\r\n".join(map(json.dumps, WANTED)), [1, 2, 3]),
        ("no-suffix", "\n".join(map(json.dumps, WANTED)), [1, 2, 3]),
    ],
)
def test_json_is_the_vendors_shape(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    rows = read(write(tmp_path / name, text))
    assert payloads(rows) == WANTED
    assert [row.line for row in rows] == lines


def test_the_format_can_be_said(tmp_path: Path) -> None:
    path = write(tmp_path / "leads.csv", "\n".join(map(json.dumps, WANTED)))
    assert payloads(read(path, form=Format.JSONL)) == WANTED


def test_an_empty_file_is_taken_for_csv(tmp_path: Path) -> None:
    assert told_by_content(write(tmp_path / "empty", "")) is Format.CSV


def test_csv_as_excel_writes_it(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "leads.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with opened(str(path), None, None, send_empty=False) as source:
        assert payloads(list(source.rows())) == WANTED
        assert source.head([]).startswith(b"\xef\xbb\xbf")


def test_values_go_out_as_they_are_written(tmp_path: Path) -> None:
    cells = {"mx_Custom_1": " 007 ", "mx_Custom_2": 'say "a,b"\r\nand\rc', "mx_Custom_3": "1.50"}
    rows = read(write_csv(tmp_path / "a.csv", [record(0, **cells), record(1)]))
    assert [(item["SchemaName"], item["Value"]) for item in payloads(rows)[0]["Fields"]] == [
        *cells.items()
    ]


def test_a_row_over_several_lines_is_told_by_its_first(tmp_path: Path) -> None:
    rows = [record(0, ActivityNote="a\nb\nc"), record(1), record(2, ActivityEvent="x")]
    assert [row.line for row in read(write_csv(tmp_path / "a.csv", rows))] == [2, 5, 6]


@pytest.mark.parametrize("send_empty", [False, True])
def test_an_empty_cell_is_left_out_unless_it_is_to_be_sent(
    tmp_path: Path, *, send_empty: bool
) -> None:
    empty = record(0, ActivityNote="", ActivityDateTime="", mx_Custom_1="")
    (sent,) = payloads(read(write_csv(tmp_path / "a.csv", [empty]), send_empty=send_empty))
    assert sent == {
        "RelatedProspectId": empty["RelatedProspectId"],
        "ActivityEvent": 201,
        **(
            {"ActivityNote": "", "Fields": [{"SchemaName": "mx_Custom_1", "Value": ""}]}
            if send_empty
            else {}
        ),
    }


@pytest.mark.parametrize("text", ["2025-01-31 17:43:44", "2025-01-31T17:43:44"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_the_time_zone_of_date_times_without_one_can_be_said(
    tmp_path: Path, text: str, form: str
) -> None:
    path = tmp_path / f"a.{form}"
    if form == "csv":
        write_csv(path, [record(0, ActivityDateTime=text)])
    else:
        value: Any = {**payload(0), "ActivityDateTime": text}
        write(path, json.dumps([value] if form == "json" else value))
    (sent,) = payloads(read(path, timezone="Asia/Kolkata"))
    assert sent["ActivityDateTime"] == "2025-01-31 12:13:44"


@pytest.mark.parametrize("value", ["2025-13-31 17:43:44", "2025-01-31", "2025-01-31T01:02:03Z", 7])
def test_all_other_date_times_are_left_to_the_check(value: object) -> None:
    assert in_zone(value, ZoneInfo("Asia/Kolkata")) == value
    assert in_zone("2025-01-31 17:43:44", None) == "2025-01-31 17:43:44"
    assert in_zone("2025-01-31 17:43:44", UTC) == datetime(2025, 1, 31, 17, 43, 44, tzinfo=UTC)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_date_time_that_wants_the_option_is_told_so(tmp_path: Path, form: str) -> None:
    def wanted(text: str) -> str:
        path = tmp_path / f"a.{form}"
        if form == "csv":
            write_csv(path, [record(0, ActivityDateTime=text, ActivityEvent="0")])
        else:
            write(path, json.dumps({**payload(0), "ActivityDateTime": text, "ActivityEvent": 0}))
        event, moment = told(read(path))
        assert event.startswith("line ")
        assert ", ActivityEvent: found 0, wanted a positive integer" in event
        return moment.partition(", wanted ")[2]

    option = "an offset at its end, such as +05:30, or the option --timezone"
    assert wanted("2025-01-31T17:43:44") == option
    for text in ("2025-13-31T17:43:44", "31.01.2025 17:43"):
        assert "'YYYY-MM-DD HH:MM:SS' in UTC, or ISO 8601 with an offset" in wanted(text)


@pytest.mark.parametrize("name", ["Asia/Nowhere", "../x", "", "Asia", "\0"])
def test_an_unknown_time_zone_is_a_wrong_option(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"--timezone: found .*, wanted a name such as"):
        read(as_csv(tmp_path / "a.csv"), timezone=name)


BAD_CELLS = [
    ({"RelatedProspectId": "Jo"}, "line 2, RelatedProspectId: found text of the form 'aa'"),
    ({"RelatedProspectId": ""}, "line 2, RelatedProspectId: found empty text, wanted a GUID"),
    ({"ActivityEvent": "call"}, "line 2, ActivityEvent: found text of the form 'aaaa'"),
    ({"ActivityEvent": "-1"}, "line 2, ActivityEvent: found text of the form '-9'"),
    ({"ActivityEvent": "0"}, "line 2, ActivityEvent: found 0, wanted a positive integer"),
    ({"ActivityEvent": "9" * 40}, "line 2, ActivityEvent: found text of the form '999"),
    ({"ActivityDateTime": "31/01/2025"}, "line 2, ActivityDateTime: found text of the form '99/"),
]


@pytest.mark.parametrize(("cells", "wanted"), BAD_CELLS)
def test_a_bad_cell_is_told_by_line_and_column_and_not_by_its_text(
    tmp_path: Path, cells: dict[str, str], wanted: str
) -> None:
    (problem,) = told(read(write_csv(tmp_path / "a.csv", [record(0, **cells)])))
    assert problem.startswith(wanted)


def test_each_problem_of_a_row_is_told(tmp_path: Path) -> None:
    bad = record(0, RelatedProspectId="Jo", ActivityEvent="x")
    assert len(told(read(write_csv(tmp_path / "a.csv", [bad])))) == 2


@pytest.mark.parametrize("cells", [4, 6])
def test_a_row_has_as_many_cells_as_the_header(tmp_path: Path, cells: int) -> None:
    path = as_csv(tmp_path / "a.csv")
    path.write_text(path.read_text() + ",".join("abcdef"[:cells]) + "\n")
    assert told(read(path)) == [f"line 5, row: found {cells} cells, wanted 5 as in the header"]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "a.csv")
    path.write_text("\n" + path.read_text().replace("\n", "\n\n"))
    assert payloads(read(path)) == WANTED


BAD_FILES = [
    ("", "a.csv: the file is empty"),
    ("\ufeff\n\n", "a.csv: the file is empty"),
    ("Jo,Smith\n", "line 1: missing column RelatedProspectId, ActivityEvent"),
    ("RelatedProspectId;ActivityEvent\n", "are they separated by ';', not ','"),
    ("RelatedProspectId;Event\n", "the first line names the columns; are they separated by ';'"),
    ("RelatedProspectId,ActivityNote\n", "line 1: missing column ActivityEvent:"),
    (
        "Jo,relatedprospectid, ActivityEvent\n",
        "; column 2 is nearly named RelatedProspectId: name it exactly so; column 3 is nearly",
    ),
    (
        "Jo,RelatedProspectId, ActivityEvent,ActivityNotes\n",
        "names the columns; column 3 is nearly named ActivityEvent: name it exactly so",
    ),
    ("RelatedProspectId,ActivityEvent,,x\n", "line 1: column 3 has no name"),
    ("RelatedProspectId,ActivityEvent,x,x\n", "line 1: column 4, 'x', is there twice"),
    (
        "RelatedProspectId,ActivityEvent,ActivityNotes\n",
        "line 1: column 3, 'ActivityNotes', is like ActivityNote,",
    ),
    (
        "RelatedProspectId,ActivityEvent, Activity_date time\n",
        "column 3, ' Activity_date time', is like ActivityDateTime,",
    ),
    ('RelatedProspectId,ActivityEvent\na,1\n"b,2\nc,3', "line 3: not CSV: unexpected end"),
    (b"RelatedProspectId,ActivityEvent\na,1\n\xe9,2\n", "line 3: found byte 0xe9, wanted UTF-8"),
]


@pytest.mark.parametrize(("text", "wanted"), BAD_FILES)
def test_a_broken_csv_file_is_told_by_line(tmp_path: Path, text: str | bytes, wanted: str) -> None:
    with pytest.raises(InputError) as raised:
        read(write(tmp_path / "a.csv", text))
    assert wanted in str(raised.value)
    assert "Jo" not in str(raised.value)


BAD_JSON = [
    ("a.json", "[1 2]", "line 1: wanted ',' or ']' after an item"),
    ("a.json", '[\n{"a": 1},\n{"b": }]', "line 3: an item is not JSON: Expecting value"),
    ("a.json", "[1", "line 1: wanted ',' or ']' after an item"),
    ("a.json", "[\n1]\n]", "line 3: wanted nothing after the array"),
    ("a.json", "[1," + "[" * 100_000, "line 1: an item is not JSON: no value"),
    ("a.json", b"[\xe9]", "found byte 0xe9, wanted UTF-8 text"),
    ("a.jsonl", b"{}\n\xe9", "line 2: found byte 0xe9, wanted UTF-8 text"),
]


@pytest.mark.parametrize(("name", "text", "wanted"), BAD_JSON)
def test_broken_json_is_told_by_line(
    tmp_path: Path, name: str, text: str | bytes, wanted: str
) -> None:
    with pytest.raises(InputError) as raised:
        read(write(tmp_path / name, text))
    assert str(raised.value).endswith(wanted)


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "a.jsonl", "a"])
@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"PK\x03\x04", "an Excel workbook or another ZIP archive"),
        (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
        ("\ufeffRelatedProspectId".encode("utf-16-le"), "UTF-16"),
        ("\ufeffRelatedProspectId".encode("utf-16-be"), "UTF-16"),
    ],
)
def test_what_excel_saves_is_told_as_such(
    tmp_path: Path, name: str, start: bytes, found: str
) -> None:
    path = write(tmp_path / name, start + b"\x00")
    with pytest.raises(InputError) as raised:
        read(path)
    assert str(raised.value) == (
        f"{path}: found {found}, wanted CSV or JSON in UTF-8: save it as that (in Excel,"
        ' "CSV UTF-8")'
    )


def test_an_error_early_in_a_long_file_does_not_need_all_of_it() -> None:
    file = io.StringIO('["' + "a" * 20_000_000)
    with pytest.raises(InputError, match="Unterminated string"):
        list(values_of(file, "a.json"))
    assert file.tell() < 10_000_000


def test_a_bad_line_of_json_lines_spoils_no_other(tmp_path: Path) -> None:
    lines = [
        json.dumps(WANTED[0]),
        "{oops",
        "7",
        json.dumps(WANTED[1]),
        "9" * 5000,
        '{"a":"\\ud800"}',
    ]
    rows = read(write(tmp_path / "a.jsonl", "\n".join(lines)))
    assert payloads(rows) == WANTED[:2]
    assert [problem.partition(", wanted")[0] for problem in told(rows)] == [
        "line 2, row: found text that is not JSON (at character 2)",
        "line 3, activity: found a value of type int",
        "line 5, row: found text that is not JSON",
        "line 6, RelatedProspectId: found nothing",
        "line 6, ActivityEvent: found nothing",
        "line 6, a: found text with half a surrogate pair",
    ]


def test_an_item_of_an_array_is_told_by_its_number_too(tmp_path: Path) -> None:
    (problem,) = told(read(write(tmp_path / "a.json", json.dumps([*WANTED, None]))))
    assert problem.startswith("line 1, item 4, activity: found nothing")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", json.dumps(WANTED), "found json, wanted csv as its name says: --format json "),
        ("a.CSV", json.dumps(WANTED[0]), "found jsonl, wanted csv as its name says: --format jso"),
        ("a.jsonl", "ActivityEvent,RelatedProspectId\n", "found csv, wanted jsonl as its name"),
        ("a.json", "ActivityEvent;RelatedProspectId\n", "found csv, wanted json as its name says"),
    ],
)
def test_a_name_that_does_not_fit_the_content_is_told(
    tmp_path: Path, name: str, text: str, told: str
) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {told}")


def test_a_line_that_is_no_json_does_not_make_it_csv(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", f"PERSONAL\n{json.dumps(WANTED[0])}"))
    assert [row.activity is None for row in rows] == [True, False]


@pytest.mark.parametrize("lines", [True, False])
def test_a_key_that_is_nearly_a_parameter_is_refused(tmp_path: Path, *, lines: bool) -> None:
    misspelt = dict(WANTED[1])
    misspelt["ActivityNotes"] = misspelt.pop("ActivityNote")
    both = {**WANTED[2], "ActivtyNote": "PERSONAL"}
    blank = dict(WANTED[0])
    blank[" relatedprospectid"] = blank.pop("RelatedProspectId")
    other = {**WANTED[0], "ProcessFilesAsync": True, "mx_Custom_2": "x", "ActivityType": 1}
    values = [WANTED[0], misspelt, both, blank, other]
    text = "\n".join(map(json.dumps, values)) if lines else json.dumps(values, indent=0)
    rows = read(write(tmp_path / ("a.jsonl" if lines else "a.json"), text))
    assert payloads(rows) == [WANTED[0], other]
    assert [row.line if lines else row.item for row in rows if row.problems] == [2, 3, 4]
    or_field = "or an item of Fields if there is such a field"
    first, second, third, fourth = (str(problem) for row in rows for problem in row.problems)
    assert (
        first == f"ActivityNote: found the key 'ActivityNotes', wanted 'ActivityNote', {or_field}"
    )
    assert second == f"ActivityNote: found the key 'ActivtyNote', wanted 'ActivityNote', {or_field}"
    assert third.startswith("RelatedProspectId: found nothing, wanted a GUID")
    assert fourth.startswith("RelatedProspectId: found the key ' relatedprospectid', wanted 'Rel")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Drip(io.StringIO):
    """Text that comes a few characters at a time."""

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step

    def read(self, size: int | None = -1, /) -> str:
        del size
        return super().read(self.step)


@patient
@given(st.lists(values, max_size=5), st.sampled_from([None, 1]), st.integers(1, 9))
def test_an_array_is_read_the_same_however_it_is_cut(
    items: list[Any], indent: int | None, step: int
) -> None:
    text = json.dumps(items, indent=indent)
    assert [value for _, value in values_of(Drip(text, step), "-")] == items


@patient
@given(st.lists(values, max_size=5), st.integers(1, 9))
def test_values_one_after_another_are_read_too(items: list[Any], step: int) -> None:
    items = [{}, *items]  # a list first would be the array
    text = "\n".join(map(json.dumps, items))
    assert [value for _, value in values_of(Drip(text, step), "-")] == items


def test_an_array_is_read_no_further_than_it_is_needed() -> None:
    drawn = 0

    def chunks() -> Iterator[str]:
        nonlocal drawn
        yield "["
        while True:
            drawn += 1
            yield json.dumps(WANTED[0]) + ","

    class Endless(io.StringIO):
        source = chunks()

        def read(self, size: int | None = -1, /) -> str:
            del size
            return next(self.source)

    found = values_of(Endless(), "-")
    for _ in range(100):
        next(found)
    assert drawn < 110


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    text = as_csv(tmp_path / "a.csv").read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    assert payloads(read(pipe)) == WANTED
    writer.join()


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n".join(map(json.dumps, WANTED)).encode()
    result = run("post", "-", "--dry-run", stdin=text)
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)  # about the time zone
    assert result.stdout.startswith("-: 3 rows, 3 good, 0 bad\n")


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    result = run("post", tmp_path / name, "--dry-run")
    assert result.exit_code == 2
    why = "No such file or directory" if name == "missing.csv" else "Is a directory"
    assert result.stderr == f"error: {tmp_path / name}: {why}\n"


def test_many_values_with_nothing_between_are_read() -> None:
    item = json.dumps({"a": "b" * 90})
    found = values_of(io.StringIO(item * 90_000), "a.json")
    assert sum(value == {"a": "b" * 90} for _, value in found) == 90_000


def test_a_name_that_no_database_takes_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no UTF-8, wanted one: choose an --output-base"):
        base_of(f"{tmp_path}/caf\udce9.csv", None)
    assert base_of("caf\udce9.csv", "cafe") == "cafe"
    assert base_of("-", None) == "stdin"
