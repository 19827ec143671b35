"""What makes two rows the same: the activity, not how a file writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from files_support import HEADER, cells, csv_text, lead, write_xlsx
from hypothesis import given
from hypothesis import strategies as st

from leadpost.cli.files.reading.identity import is_whole_key, new_key
from leadpost.cli.files.reading.opening import opened
from leadpost.cli.files.reading.settings import Reading

INDIA = Reading(timezone="Asia/Kolkata")
PHONE = "+91-9812345678"
ROW = cells(0, ActivityNote="Café\nagreed")


def digest(path: Path, content: str | None = None, reading: Reading = INDIA) -> str:
    if content is not None:
        path.write_bytes(content.encode())
    with opened(str(path)) as file:
        source = file.source(reading)
        (row,) = source.rows()
    return row.digest_read


@pytest.fixture
def wanted(tmp_path: Path) -> str:
    return digest(tmp_path / "wanted.csv", csv_text([ROW]))


@pytest.mark.parametrize(
    "row",
    [
        {**ROW, "RelatedProspectId": lead(0).upper()},
        {**ROW, "RelatedProspectId": f" {{{lead(0).replace('-', '')}}} "},
        {**ROW, "ActivityNote": "  Cafe\u0301\r\nagreed\t"},
        {**ROW, "ActivityEvent": "201.0"},
        {**ROW, "ActivityDateTime": "2026-11-28T08:30:07Z"},
        {**ROW, "mx_Custom_1": " value 0 "},
        dict(reversed(ROW.items())),
        {"Lead Id" if name == "RelatedProspectId" else name: ROW[name] for name in ROW},
        {**ROW, "mx_empty": ""},
    ],
)
def test_how_a_row_is_written_does_not_matter(
    tmp_path: Path, wanted: str, row: dict[str, str]
) -> None:
    assert digest(tmp_path / "calls.csv", csv_text([row])) == wanted


@pytest.mark.parametrize(
    "changes",
    [
        {"RelatedProspectId": lead(1)},
        {"ActivityEvent": "202"},
        {"ActivityNote": "Café\nagreed."},
        {"ActivityNote": "café\nagreed"},
        {"ActivityDateTime": "2026-11-28 14:00:08"},
        {"mx_Custom_1": ""},
    ],
)
def test_another_activity_is_another_row(
    tmp_path: Path, wanted: str, changes: dict[str, str]
) -> None:
    assert digest(tmp_path / "calls.csv", csv_text([{**ROW, **changes}])) != wanted


def test_options_do_not_matter_where_the_activity_is_the_same(tmp_path: Path, wanted: str) -> None:
    helper = {**ROW, "Agent": "Ann", "ActivityDateTime": "28/11/2026 08:30:07"}
    del helper["ActivityEvent"]
    reading = Reading(
        timezone="UTC",
        date_formats=("%d/%m/%Y %H:%M:%S",),
        constants={"ActivityEvent": "201"},
        ignored=("agent",),
    )
    assert digest(tmp_path / "calls.csv", csv_text([helper]), reading) == wanted


def test_the_format_of_the_file_does_not_matter(tmp_path: Path, wanted: str) -> None:
    values = [ROW[name] for name in HEADER]
    assert digest(write_xlsx(tmp_path / "calls.xlsx", [HEADER, values])) == wanted
    activity = {name: ROW[name] for name in HEADER[:3]} | {
        "ActivityEvent": 201,
        "ActivityDateTime": "2026-11-28 08:30:07",
        "Fields": [{"SchemaName": "mx_Custom_1", "Value": "value 0"}],
    }
    assert digest(tmp_path / "calls.json", json.dumps([activity]), Reading()) == wanted
    assert digest(tmp_path / "calls.jsonl", json.dumps(activity), Reading()) == wanted


def test_a_digest_ends_with_the_seconds(tmp_path: Path) -> None:
    def at(time: str) -> str:
        activity = {"ActivityEvent": 201, "RelatedProspectId": lead(0), "ActivityDateTime": time}
        return digest(tmp_path / "calls.json", json.dumps(activity), Reading())

    wanted = at("2026-11-28 08:35:20")
    assert wanted.endswith("20")
    assert at("2026-11-28 08:35:00") == f"{wanted[:-2]}00"
    assert at("2026-11-28 08:36:20")[:-2] != wanted[:-2] != at("")[:-2]
    assert at("").endswith("--")


def test_a_digest_has_the_lead(tmp_path: Path) -> None:
    """With a question mark first, if its id is not known."""

    def of(**lead: object) -> str:
        return digest(
            tmp_path / "calls.json", json.dumps({"ActivityEvent": 201, **lead}), Reading()
        )

    def by(name: str, value: str) -> str:
        items = [{"Attribute": name, "Value": value}, {"Attribute": "SearchBy", "Value": name}]
        values = {"LeadDetails": items, "Activity": {"ActivityEvent": 201}}
        return digest(tmp_path / "calls.jsonl", json.dumps(values), Reading())

    by_id = of(RelatedProspectId=lead(0))
    assert by_id == by("ProspectID", lead(0).upper())
    assert by_id[:32] == of(RelatedProspectId=lead(1))[:32] == by("Phone", PHONE)[:32]
    assert by_id[32] != "?"
    assert by("Phone", PHONE)[32:] == by("Phone", "91 98123-45678")[32:]
    assert by("Phone", PHONE)[32:] != by("Phone", "+91-9812345679")[32:]
    ada, bob = (of(EmailAddress=f"{name}@example.com") for name in ("ada", "bob"))
    assert ada[32] == bob[32] == by("EmailAddress", "ada@example.com")[32] == "?"
    assert ada == by("EmailAddress", "Ada@example.com")
    assert ada[:32] == bob[:32]
    assert ada[32:] != bob[32:]


def test_the_text_goes_out_as_it_was_typed(tmp_path: Path) -> None:
    typed = "  Cafe\u0301\r\nagreed\t"
    path = tmp_path / "calls.csv"
    path.write_bytes(csv_text([{**ROW, "ActivityNote": typed}]).encode())
    with opened(str(path)) as file:
        source = file.source(INDIA)
        (row,) = source.rows()
    assert row.payload is not None
    assert row.payload["ActivityNote"] == typed


def test_a_row_that_cannot_be_read_is_known_by_its_cells(tmp_path: Path) -> None:
    row = {**ROW, "ActivityEvent": "x"}
    path = tmp_path / "calls.csv"
    wanted = digest(path, csv_text([row]))
    assert digest(path, csv_text([dict(reversed(row.items()))])) == wanted
    assert digest(path, csv_text([row]), Reading(timezone="UTC")) == wanted
    assert digest(path, csv_text([{**row, "ActivityEvent": "y"}])) != wanted


@given(st.integers(0, 11), st.sampled_from("BCDFGHJKLMNPQRSTVWZ"))
def test_a_damaged_key_is_seen(place: int, letter: str) -> None:
    key = new_key()
    assert is_whole_key(key)
    changed = key[:place] + letter + key[place + 1 :]
    assert is_whole_key(changed) is (changed == key)
    swapped = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert is_whole_key(swapped) is (swapped == key)
    assert not is_whole_key(key[:-1])
    assert not is_whole_key(key.lower())
