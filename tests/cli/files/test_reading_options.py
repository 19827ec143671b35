"""The options that say how a file is read: as they are typed, stored and guessed."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from files_support import Desk, bad, cells, read_csv, rejects_of, rows, write_csv

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.cells import guessed_format
from leadpost.cli.files.reading.settings import Reading, pairs_of, zone_of


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("28/11/2026 14:05", "%d/%m/%Y %H:%M"),
        ("11/28/2026 2:05 PM", "%m/%d/%Y %I:%M %p"),
        ("28-Nov-26 14:05:06", "%d-%b-%y %H:%M:%S"),
        ("28.11.2026", "%d.%m.%Y"),
        ("31/02/2026 14:05", None),
        ("yesterday", None),
    ],
)
def test_a_date_format_is_guessed(text: str, form: str | None) -> None:
    assert guessed_format(text) == form


@pytest.mark.parametrize(
    ("option", "text", "example"),
    [
        ("--map", "Agent", "--map 'Heading=ActivityNote'"),
        ("--set", "=1", "--set ActivityEvent=201"),
    ],
)
def test_an_option_without_a_value(option: str, text: str, example: str) -> None:
    with pytest.raises(
        InputError, match=f"{option}: '{text}' has no name and value; write {example}"
    ):
        pairs_of(option, [text])


def test_options_as_they_are_typed() -> None:
    reading = Reading(
        include_hidden=True,
        sheet="My calls",
        timezone="UTC",
        date_formats=("%d",),
        columns={"A b": "mx_a"},
        constants={"mx_b": "c d"},
        ignored=("E",),
        ignore_others=True,
        send_empty=True,
    )
    assert reading.as_options() == (
        "--sheet 'My calls' --timezone UTC --date-format %d --map 'A b=mx_a' --set 'mx_b=c d'"
        " --ignore E --include-hidden --ignore-others --send-empty"
    )


@pytest.mark.parametrize("name", ["Asia/Kolkata", "asia/KOLKATA", "+05:30", "+0530", "utc", "Z"])
def test_zones_have_names_in_any_case_and_offsets(name: str) -> None:
    moment = datetime(2026, 11, 28, tzinfo=zone_of(name))
    assert moment.utcoffset() is not None


def test_a_zone_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"--timezone: 'Bombay' is not a time zone; use a name such as"
    ):
        zone_of("Bombay")


def test_options_are_stored_and_come_back(tmp_path: Path) -> None:
    reading = Reading(
        delimiter=";",
        timezone="Asia/Kolkata",
        date_formats=("%d/%m/%Y",),
        columns=pairs_of("--map", ["A=B=mx_a"]),
        constants=pairs_of("--set", ["mx_b=c=d"]),
        ignored=("Agent",),
    )
    assert reading.columns == {"A=B": "mx_a"}
    assert reading.constants == {"mx_b": "c=d"}
    assert Reading.from_json(json.loads(json.dumps(reading.as_json()))) == reading
    assert Reading(timezone="UTC").over(reading).timezone == "UTC"
    assert Reading().over(reading.of_rejects()).delimiter is None
    assert Reading().over(reading) == reading
    assert Reading().over(reading.of_rejects()).date_formats == ("%d/%m/%Y",)
    assert write_csv(tmp_path / "a.csv", [cells(0)]).exists()


def test_a_time_zone_is_that_of_the_option_or_else_of_the_last_run_or_else_of_the_environment(
    desk: Desk, calls: Path
) -> None:
    write_csv(calls, [cells(0), bad(1)])
    utc = {"LEADPOST_TIMEZONE": "UTC"}
    done = desk.run("post", calls, "--timezone", "+05:30", "--skip-invalid", **utc)
    assert done.exit_code == 1
    (reject,) = read_csv(rejects_of(calls))
    assert desk.run("post", write_csv(rejects_of(calls), [reject | cells(1)]), **utc).exit_code == 0
    assert desk.run("post", write_csv(calls, rows(0, 1, 2)), **utc).exit_code == 0
    other = write_csv(desk.folder / "other.csv", rows(3))
    assert desk.run("post", other, **utc).exit_code == 0
    moments = [p["ActivityDateTime"][11:] for p in desk.sandbox.posted()]
    assert moments == ["08:30:07", "08:31:07", "08:32:07", "14:03:07"]
    done = desk.run("post", other, "--timezone", "UTC", LEADPOST_TIMEZONE="+05:30")
    assert "1 row was posted" in done.output
