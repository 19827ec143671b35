"""The stories of people with files; each is one of `file-stories.md`, by its number."""

from __future__ import annotations

import asyncio
import json
import shlex
import sqlite3
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest
from files_support import (
    HEADER,
    Desk,
    cells,
    keys_of,
    lead,
    read_csv,
    write_csv,
    write_xlsx,
)

from leadpost import AsyncActivityPoster
from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox


def rows(*numbers: int) -> list[dict[str, str]]:
    return [cells(number) for number in numbers]


def notes(*numbers: int) -> list[str]:
    return sorted(f"Note {number}" for number in numbers)


def bad(number: int) -> dict[str, str]:
    return cells(number, ActivityEvent="x")


def posted(desk: Desk, path: Path, *numbers: int) -> Path:
    """A file of these rows, posted."""
    assert desk.post(write_csv(path, rows(*numbers)))[0] == 0
    return path


@pytest.fixture
def calls(desk: Desk) -> Path:
    return desk.folder / "calls.csv"


def rejects_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.rejects.csv")


def with_rejects(desk: Desk, calls: Path, *numbers: int) -> list[dict[str, str]]:
    """Post three rows, of which these are bad, and return the rejects."""
    write_csv(calls, [bad(n) if n in numbers else cells(n) for n in range(3)])
    assert desk.post(calls, "--skip-invalid")[0] == 1
    return read_csv(rejects_of(calls))


def test_1_the_same_file_again_sends_nothing(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1, 2)
    code, said = desk.post(calls)
    assert code == 0
    assert "3 rows were posted on " in said
    assert ", nothing new" in said
    assert "leadpost post" in said.splitlines()[-1]
    assert desk.notes() == notes(0, 1, 2)
    assert desk.post(calls, "--batch", "once more", "--duplicates", "post")[0] == 0
    assert desk.notes() == notes(0, 0, 1, 1, 2, 2)


def test_2_an_inserted_row_is_posted_however_the_rest_is_sorted(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1, 2)
    assert desk.post(write_csv(calls, rows(9, 2, 1, 0)))[0] == 0
    assert desk.notes() == notes(0, 1, 2, 9)
    assert [row["line"] for row in desk.results(calls)] == ["2", "3", "4", "5"]


def test_3_a_row_fixed_in_the_input_is_posted_and_its_old_version_is_withdrawn(
    desk: Desk, calls: Path
) -> None:
    rejects = with_rejects(desk, calls, 1)
    assert desk.post(write_csv(calls, rows(0, 1, 2)))[0] == 0
    assert desk.notes() == notes(0, 1, 2)
    old = write_csv(desk.folder / "old.csv", [rejects[0] | cells(1, ActivityNote="other")])
    code, said = desk.post(old)
    assert code == 2
    assert "1 row looks like an edit of a posted one" in said
    assert desk.notes() == notes(0, 1, 2)


def test_3_a_refused_row_fixed_in_the_input_cannot_be_sent_from_the_outbox(
    desk: Desk, calls: Path
) -> None:
    desk.sandbox.fail("ok", "500-mx", "ok")
    assert desk.post(write_csv(calls, rows(0, 1, 2)))[0] == 1
    assert desk.states(calls).count("rejected") == 1
    refused = next(row for row in desk.results(calls) if row["state"] == "rejected")
    number = int(refused["line"]) - 2
    fixed = [cells(n, ActivityNote="fixed") if n == number else cells(n) for n in range(3)]
    code, said = desk.post(write_csv(calls, fixed))
    assert code == 0
    assert "1 unsent row gone from the file: withdrawn" in said
    retried = desk.run("outbox", "retry", "--state", "rejected")
    assert "0 pending again" in retried.output
    assert len(desk.notes()) == 3


def test_4_a_file_of_the_fixed_rows_only_is_posted_without_a_question(
    desk: Desk, calls: Path
) -> None:
    with_rejects(desk, calls, 1)
    code, said = desk.post(write_csv(calls, rows(1)))
    assert code == 0, said
    assert desk.notes() == notes(0, 1, 2)


def test_5_fixed_rejects_are_posted_under_any_name_as_the_input_was_read(
    desk: Desk, calls: Path
) -> None:
    table = [
        {"Id": row["RelatedProspectId"], "Agent": "Ann", "When": when, "Type": event}
        for row, when, event in (
            (cells(0), "28/11/2026 14:05", "201"),
            (cells(1), "28/11/2026 14:06", "x"),
        )
    ]
    write_csv(calls, table, ";")
    options = ["--map", "Id=Lead Id", "--map", "When=Activity Date", "--ignore", "Agent"]
    options += ["--map", "Type=ActivityEvent", "--date-format", "%d/%m/%Y %H:%M"]
    done = desk.run("post", calls, *options, "--timezone", "+05:30", "--skip-invalid")
    assert done.exit_code == 1, done.output
    text = rejects_of(calls).read_text(encoding="utf-8")
    assert text.startswith("\ufeffleadpost_reason;leadpost_key;Id;Agent;When;Type")
    fixed = desk.folder / "my fixes.csv"
    fixed.write_text(text.replace(";x", ";201"), encoding="utf-8")
    done = desk.run("post", fixed)
    assert done.exit_code == 0, done.output
    moments = [p["ActivityDateTime"] for p in desk.sandbox.posted()]
    assert moments == ["2026-11-28 08:35:00", "2026-11-28 08:36:00"]
    done = desk.run("post", calls, *options, "--timezone", "+05:30")
    assert done.exit_code == 0, done.output
    assert desk.states(calls) == ["accepted", "accepted"]
    assert len(desk.sandbox.posted()) == 2


@pytest.mark.parametrize("first", ["input", "rejects"])
def test_6_the_same_fix_in_both_files_is_posted_once(desk: Desk, calls: Path, first: str) -> None:
    fixed = [row | cells(1) for row in with_rejects(desk, calls, 1)]
    write_csv(rejects_of(calls), fixed)
    write_csv(calls, rows(0, 1, 2))
    order = [calls, rejects_of(calls)]
    for path in order if first == "input" else reversed(order):
        code, said = desk.post(path)
        assert code == 0, said
    assert desk.notes() == notes(0, 1, 2)


@pytest.mark.parametrize("first", ["input", "rejects"])
def test_7_of_different_fixes_the_second_is_a_possible_duplicate(
    desk: Desk, calls: Path, first: str
) -> None:
    fixed = [row | cells(1, ActivityNote="other") for row in with_rejects(desk, calls, 1)]
    write_csv(rejects_of(calls), fixed)
    write_csv(calls, rows(0, 1, 2))
    order = [calls, rejects_of(calls)]
    one, other = order if first == "input" else reversed(order)
    assert desk.post(one)[0] == 0
    code, said = desk.post(other)
    assert code == 2
    assert "1 row looks like an edit of a posted one" in said
    assert len(desk.notes()) == 3


@pytest.mark.parametrize("first", ["input", "rejects"])
def test_7_of_two_leads_for_a_row_without_one_the_second_is_a_possible_duplicate(
    desk: Desk, calls: Path, first: str
) -> None:
    write_csv(calls, [cells(0), cells(1, RelatedProspectId="")])
    assert desk.post(calls, "--skip-invalid")[0] == 1
    fixed = [row | cells(1) for row in read_csv(rejects_of(calls))]
    write_csv(rejects_of(calls), fixed)
    write_csv(calls, [cells(0), cells(1, RelatedProspectId=lead(7))])
    order = [calls, rejects_of(calls)]
    one, other = order if first == "input" else reversed(order)
    assert desk.post(one)[0] == 0
    code, said = desk.post(other)
    assert code == 2, said
    assert "1 row looks like an edit of a posted one" in said
    assert desk.notes() == notes(0, 1)


@pytest.mark.parametrize("answer", ["skip", "post"])
def test_7_a_fix_that_another_file_has_posted_is_a_possible_duplicate(
    desk: Desk, calls: Path, answer: str
) -> None:
    (row,) = with_rejects(desk, calls, 1)
    assert desk.post(write_csv(rejects_of(calls), [row | cells(1)]))[0] == 0
    copy = desk.folder / "copy.csv"
    copy.write_bytes(calls.read_bytes())
    assert desk.post(copy, "--duplicates", "skip", "--skip-invalid")[0] == 1
    (row,) = read_csv(rejects_of(copy))
    fixed = write_csv(rejects_of(copy), [row | cells(1)])
    code, said = desk.post(fixed)
    assert code == 2, said
    assert "1 row was posted before, in calls.csv" in said
    assert desk.notes() == notes(0, 1, 2)
    code, said = desk.post(fixed, "--duplicates", answer)
    assert code == 0, said
    posted = notes(0, 1, 2) if answer == "skip" else notes(0, 1, 1, 2)
    assert desk.notes() == sorted(posted)


def test_8_rejects_without_their_keys(desk: Desk, calls: Path) -> None:
    (row,) = with_rejects(desk, calls, 1)
    del row["leadpost_key"]
    code, said = desk.post(write_csv(rejects_of(calls), [row]), "--skip-invalid")
    assert code == 1
    assert desk.states(rejects_of(calls)) == ["invalid"]
    code, said = desk.post(write_csv(rejects_of(calls), [row | cells(1)]))
    assert code == 2
    assert "line 2 was changed, and the column leadpost_key is missing" in said
    assert "leadpost results calls.csv" in said
    del row["leadpost_reason"]
    assert desk.post(write_csv(desk.folder / "new.csv", [row | cells(1)]))[0] == 0


def test_9_keys_that_a_spreadsheet_has_damaged_are_seen(desk: Desk, calls: Path) -> None:
    first, second = with_rejects(desk, calls, 1, 2)
    key = first["leadpost_key"]
    assert key.isalpha()
    path = desk.folder / "fixed.csv"
    filled = [first | cells(1), second | cells(2) | {"leadpost_key": key}]
    code, said = desk.post(write_csv(path, filled))
    assert code == 2
    assert "line 3, leadpost_key: the same key as in line 2" in said
    code, said = desk.post(write_csv(path, [first | cells(1) | {"leadpost_key": key[:-2]}]))
    assert code == 2
    assert f"line 2, leadpost_key: '{key[:-2]}' is damaged" in said
    assert desk.notes() == notes(0)
    assert desk.post(write_csv(path, [first | cells(1) | {"leadpost_key": key.lower()}]))[0] == 0
    assert desk.notes() == notes(0, 1)


def test_9_a_key_of_another_outbox_is_refused(desk: Desk, calls: Path) -> None:
    fixed = [row | cells(1) for row in with_rejects(desk, calls, 1)]
    code, said = desk.post(write_csv(desk.folder / "fixed.csv", fixed), "--outbox", "other.db")
    assert code == 2
    assert "is not in this outbox" in said


def test_9_rejects_that_a_spreadsheet_saved_with_other_dates_name_one_remedy(
    desk: Desk, calls: Path
) -> None:
    fixed = [
        row | cells(n, ActivityDateTime=f"28/11/2026 14:0{n}")
        for n, row in enumerate(with_rejects(desk, calls, 1, 2), 1)
    ]
    code, said = desk.post(write_csv(rejects_of(calls), fixed))
    assert code == 2
    assert "add --date-format '%d/%m/%Y %H:%M'" in said
    assert said.splitlines()[-1] == "Nothing was sent. Fix the rows above"
    code, said = desk.post(rejects_of(calls), "--date-format", "%d/%m/%Y %H:%M")
    assert code == 0, said
    assert desk.notes() == notes(0, 1, 2)


def test_9_what_is_still_to_fix_in_rejects_is_in_the_next_rejects_of_the_input(
    desk: Desk, calls: Path
) -> None:
    first, second = with_rejects(desk, calls, 1, 2)
    code, said = desk.post(write_csv(rejects_of(calls), [first | cells(1), second]))
    assert code == 1
    assert "1 row to fix. Edit " in said
    (row,) = read_csv(calls.with_name("calls.csv.rejects.2.csv"))
    assert row["leadpost_key"] == second["leadpost_key"]
    assert len(read_csv(rejects_of(calls))) == 2
    assert desk.notes() == notes(0, 1)


def test_10_a_number_that_a_spreadsheet_shortened_is_refused(desk: Desk, calls: Path) -> None:
    table = [cells(n) | {"Phone": "919812345678"} for n in range(7)]
    table[6]["Phone"] = "9.19812E+11"
    code, said = desk.post(write_csv(calls, table), "--map", "Phone=mx_Phone")
    assert code == 2
    assert (
        "line 8, Phone: 9.19812E+11 was shortened by a spreadsheet; format the column as text"
        in said
    )
    assert "Nothing was sent. Fix the rows above, or post the 6 valid ones" in said
    assert desk.notes() == []


def test_11_rows_that_lost_their_seconds_look_like_edits(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1, 2)
    shortened = [row | {"ActivityDateTime": row["ActivityDateTime"][:-3]} for row in rows(0, 1, 2)]
    write_csv(calls, [*shortened, *rows(3, 4)])
    code, said = desk.post(calls)
    assert code == 2
    assert "3 rows look like edits of posted ones, 2 are new" in said
    lost = "2026-11-28 14:00:07 UTC → 2026-11-28 14:00:00 UTC"
    assert f"ActivityDateTime {lost} (line 2) in 3 rows" in said
    assert desk.notes() == notes(0, 1, 2)
    assert desk.post(calls, "--duplicates", "skip")[0] == 0
    assert desk.notes() == notes(0, 1, 2, 3, 4)
    assert desk.states(calls) == ["skipped"] * 3 + ["accepted"] * 2


def test_12_dates_in_another_format_are_the_same_activities(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1)
    table = [
        row | {"ActivityDateTime": f"28/11/2026 14:0{n}:07"} for n, row in enumerate(rows(0, 1))
    ]
    code, said = desk.post(write_csv(calls, table), "--date-format", "%d/%m/%Y %H:%M:%S")
    assert code == 0
    assert "2 rows were posted" in said
    assert desk.notes() == notes(0, 1)


def test_13_a_row_that_the_queue_failed_is_in_the_rejects_and_sent_again_only_from_there(
    desk: Desk, calls: Path
) -> None:
    write_csv(calls, [cells(0), cells(1, ActivityEvent="999")])  # no such type
    assert desk.post(calls)[0] == 0
    code = desk.run("verify", calls).exit_code
    assert code == 1
    assert desk.states(calls) == ["succeeded", "failed"]
    (row,) = read_csv(rejects_of(calls))
    assert row["leadpost_reason"]
    assert desk.post(calls)[0] == 1
    assert len(desk.notes()) == 2
    path = write_csv(rejects_of(calls), [row | {"ActivityEvent": "201"}])
    assert desk.post(path)[0] == 0
    assert len(desk.notes()) == 3
    assert desk.post(calls)[0] == 0
    assert desk.states(calls) == ["succeeded", "accepted"]


def test_13_a_row_that_the_queue_failed_is_sent_again_by_hand(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0), cells(1, ActivityEvent="999")])  # no such type
    assert desk.post(calls)[0] == 0
    assert desk.run("verify", calls).exit_code == 1
    done = desk.run("outbox", "retry", calls, "--state", "failed")
    assert done.stdout == "1 pending again\n"
    assert desk.post(calls)[0] == 0
    assert desk.notes() == notes(0, 1, 1)


def test_14_one_of_three_identical_rows_is_removed(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 0, 0)
    assert desk.notes() == notes(0, 0, 0)
    code, said = desk.post(write_csv(calls, rows(0, 0)))
    assert (code, "nothing new" in said) == (0, True)
    assert desk.notes() == notes(0, 0, 0)


def test_14_a_pending_one_of_three_is_withdrawn(desk: Desk, calls: Path) -> None:
    write_csv(calls, rows(0, 0, 0))
    desk.stopped_after(2, calls)
    code, said = desk.post(write_csv(calls, rows(0, 0)))
    assert code == 0
    assert "1 unsent row gone from the file: withdrawn" in said
    assert desk.notes() == notes(0, 0)


def test_15_of_a_daily_file_the_overlap_is_skipped_and_counted(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1, 2)
    code, said = desk.post(write_csv(calls, rows(2, 3, 4)))
    assert code == 0
    assert "2 new, 1 posted before" in said
    assert desk.notes() == notes(0, 1, 2, 3, 4)


def test_16_the_same_leads_with_new_dates_are_a_batch_of_their_own(desk: Desk, calls: Path) -> None:
    def day(number: int) -> list[dict[str, str]]:
        return [row | {"ActivityDateTime": f"2026-11-{number} 09:00"} for row in rows(0, 1, 2)]

    assert desk.post(write_csv(calls, day(27)), "--batch", "2026-11-27")[0] == 0
    write_csv(calls, day(28))
    desk.stopped_after(1, calls, "--batch", "2026-11-28")
    assert desk.post(calls, "--batch", "2026-11-28")[0] == 0
    assert desk.notes() == notes(0, 0, 1, 1, 2, 2)


def test_17_of_an_append_only_export_only_what_is_new_is_posted_also_after_pruning(
    desk: Desk, calls: Path
) -> None:
    posted(desk, calls, 0, 1)
    assert desk.run("verify").exit_code == 0
    assert "entries deleted: 2" in desk.run("outbox", "prune", "--older-than", "0s").output
    assert desk.post(write_csv(calls, rows(0, 1, 2)))[0] == 0
    assert desk.notes() == notes(0, 1, 2)
    assert desk.states(calls) == ["accepted", "accepted", "accepted"]
    assert desk.post(write_csv(desk.folder / "copy.csv", rows(0)))[0] == 2


def test_18_files_that_overlap_on_purpose(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1)
    other = write_csv(desk.folder / "other.csv", rows(0, 1, 2))
    code, said = desk.post(other)
    assert code == 2
    assert "2 rows were posted before, in calls.csv" in said
    desk.stopped_after(1, other, "--duplicates", "post")
    assert desk.post(other, "--duplicates", "post")[0] == 0
    assert desk.notes() == notes(0, 0, 1, 1, 2)
    assert desk.post(other, "--duplicates", "post")[0] == 0
    assert desk.notes() == notes(0, 0, 1, 1, 2)


@pytest.mark.parametrize("how", ["rename", "copy"])
def test_19_unsent_rows_go_with_a_file_that_is_renamed(desk: Desk, calls: Path, how: str) -> None:
    write_csv(calls, rows(0, 1, 2))
    desk.stopped_after(1, calls)
    new = desk.folder / "november.csv"
    if how == "rename":
        calls.rename(new)
    else:
        new.write_bytes(calls.read_bytes())
    code, said = desk.post(new)
    assert code == 2
    assert "1 row was posted before, in calls.csv" in said
    assert "2 unsent rows of another file: moved here" in said
    assert desk.post(new, "--duplicates", "skip")[0] == 0
    assert desk.notes() == notes(0, 1, 2)
    if how == "copy":
        code, said = desk.post(calls, "--duplicates", "skip")
        assert code == 0, said
        assert desk.notes() == notes(0, 1, 2)


def test_19_a_file_that_is_moved_to_another_folder_is_the_same(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1)
    folder = desk.folder / "archive"
    folder.mkdir()
    moved = calls.rename(folder / calls.name)
    code, said = desk.post(moved)
    assert (code, "nothing new" in said) == (0, True)
    assert desk.notes() == notes(0, 1)


def test_20_a_row_that_was_not_sent_yet_is_edited_and_another_deleted(
    desk: Desk, calls: Path
) -> None:
    write_csv(calls, rows(0, 1, 2))
    desk.stopped_after(1, calls)
    left = next(iter(desk.notes()))
    number = int(left.split()[1])
    edited, _ = (n for n in range(3) if n != number)
    table = [cells(number), cells(edited, ActivityNote="edited")]
    code, said = desk.post(write_csv(calls, table))
    assert code == 0
    assert "2 unsent rows gone from the file: withdrawn" in said
    assert desk.notes() == sorted([left, "edited"])


def test_21_results_beside_the_file_say_more_than_the_outbox(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1, 2)
    code, said = desk.post(calls, "--outbox", "another.db")
    assert code == 2
    assert "calls.csv.results.csv counts 3 rows of it as posted, but this outbox has none" in said
    assert desk.notes() == notes(0, 1, 2)
    calls.with_name("calls.csv.results.csv").write_text("line,state\n2,invalid\n")
    code, said = desk.post(calls, "--outbox", "another.db")
    assert (code, len(desk.notes())) == (0, 6), said


def test_22_what_was_posted_with_other_keys_of_the_same_host_is_found(
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted(desk, calls, 0, 1)
    desk.sandbox.access_key = "u$rANOTHER"
    taken = {"accessKey": "u$rsandbox-access", "secretKey": "sandbox-secret"}

    def key(_: object, name: str) -> str:
        return taken[name]

    monkeypatch.setattr("leadpost.sandbox.gateway._key", key)
    desk.environment |= keys_of(desk.sandbox)
    code, said = desk.post(calls)
    assert code == 2
    assert "2 rows were posted before, in calls.csv, 2 of them with other keys" in said
    assert desk.post(calls, "--duplicates", "post")[0] == 0
    assert desk.notes() == notes(0, 0, 1, 1)


def test_23_another_time_zone_is_shown_and_asked_about(desk: Desk, calls: Path) -> None:
    table = [row | {"ActivityDateTime": "2026-11-28 14:05"} for row in rows(0, 1, 2)]
    write_csv(calls, table)
    assert desk.run("post", calls, "--timezone", "Asia/Kolkata").exit_code == 0
    code, said = desk.post(calls)
    assert code == 2
    assert (
        "ActivityDateTime 2026-11-28 08:35:00 UTC → 2026-11-28 14:05:00 UTC (line 2) in 3 rows"
        in said
    )
    done = desk.run("post", calls, "--ignore-others")
    assert done.exit_code == 2
    assert "ActivityDateTime: 3 rows, such as line 2" in done.output
    assert "An earlier run of" in done.output
    assert "--timezone Asia/Kolkata" in done.output
    done = desk.run("post", calls)
    assert done.exit_code == 0
    assert "Read as before: --timezone Asia/Kolkata" in done.output
    assert "3 rows were posted" in done.output
    assert desk.run("post", calls, "--timezone", "+05:30").exit_code == 0
    assert desk.notes() == notes(0, 1, 2)


def test_24_the_same_leads_with_another_event_are_asked_about_once(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1)
    again = ("--set", "ActivityEvent=202")
    code, said = desk.post(calls, *again)
    assert code == 2
    assert "ActivityEvent 201 → 202 (line 2) in 2 rows" in said
    assert desk.post(calls, *again, "--duplicates", "post")[0] == 0
    assert desk.post(calls, *again)[0] == 0
    assert desk.post(calls)[0] == 0
    assert [p["ActivityEvent"] for p in desk.sandbox.posted()] == [201, 201, 202, 202]
    assert desk.post(calls, "--set", "ActivityEvent=203", "--batch", "second round")[0] == 0


def test_25_the_same_data_in_another_format_are_the_same_activities(desk: Desk) -> None:
    table = [[row[name] for name in HEADER] for row in rows(0, 1)]
    book = write_xlsx(desk.folder / "calls.xlsx", [HEADER, *table])
    assert desk.post(book)[0] == 0
    write_xlsx(book, [HEADER, *reversed(table)])
    assert desk.post(book)[0] == 0
    text = desk.folder / "calls.csv"
    assert desk.post(write_csv(text, rows(0, 1)), "--batch", "calls.xlsx")[0] == 0
    values = [
        {
            **{name: row[name] for name in HEADER[:4]},
            "ActivityEvent": 201,
            "Fields": [{"SchemaName": "mx_Custom_1", "Value": row["mx_Custom_1"]}],
        }
        for row in rows(0, 1)
    ]
    (desk.folder / "calls.json").write_text(json.dumps(values))
    code, said = desk.post(desk.folder / "calls.json")
    assert code == 2
    assert "2 rows were posted before, in calls.xlsx" in said
    assert desk.notes() == notes(0, 1)


def test_26_an_ignored_helper_column_has_no_effect(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1)
    table = [row | {"Checked": "yes"} for row in rows(0, 1)]
    code, said = desk.post(write_csv(calls, table), "--ignore", "Checked")
    assert (code, "nothing new" in said) == (0, True)
    assert desk.notes() == notes(0, 1)


def test_27_how_a_text_is_typed_does_not_matter_and_it_goes_out_so(desk: Desk, calls: Path) -> None:
    typed = "Caf\xe9\nagreed"
    assert desk.post(write_csv(calls, [cells(0, ActivityNote=typed)]))[0] == 0
    other = unicodedata.normalize("NFD", f"  {typed} ").replace("\n", "\r\n")
    row = cells(0, ActivityNote=other, RelatedProspectId=f" {lead(0).upper()} ")
    code, said = desk.post(write_csv(calls, [row]))
    assert (code, "nothing new" in said) == (0, True)
    assert desk.notes() == [typed]
    assert desk.post(calls, "--batch", "again", "--duplicates", "post")[0] == 0
    assert desk.notes() == sorted([typed, other])


@pytest.mark.parametrize(
    "options",
    [(), ("--duplicates", "skip"), ("--duplicates", "post"), ("--first", "9"), ("--skip-invalid",)],
)
def test_28_the_same_command_after_a_stop_resumes_it(
    desk: Desk, calls: Path, options: tuple[str, ...]
) -> None:
    posted(desk, desk.folder / "before.csv", 0)
    write_csv(calls, rows(5, 6, 7))
    desk.stopped_after(2, calls, *options)
    assert desk.post(calls, *options)[0] == 0
    assert desk.notes() == notes(0, 5, 6, 7)


def test_28_a_run_is_resumed_without_the_options_that_say_how_the_file_is_read(
    desk: Desk, calls: Path
) -> None:
    table = [
        {"Id": row["RelatedProspectId"], "Agent": "Ann", "When": f"28/11/2026 14:0{n}"}
        for n, row in enumerate(rows(0, 1, 2))
    ]
    write_csv(calls, table)
    options = ["--map", "Id=Lead Id", "--map", "When=Activity Date", "--ignore", "Agent"]
    options += ["--set", "ActivityEvent=201", "--date-format", "%d/%m/%Y %H:%M"]
    assert desk.run("post", calls, *options, "--timezone", "UTC", "--first", "2").exit_code == 0
    done = desk.run("post", calls, LEADPOST_TIMEZONE="+05:30")
    assert done.exit_code == 0, done.output
    assert "Read as before: --timezone UTC --date-format '%d/%m/%Y %H:%M'" in done.output
    moments = [p["ActivityDateTime"] for p in desk.sandbox.posted()]
    assert sorted(moments) == [f"2026-11-28 14:0{n}:00" for n in range(3)]


def test_19_an_edit_is_seen_under_another_file_name(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1, 2)
    calls.with_name("calls.csv.results.csv").unlink()
    renamed = calls.rename(desk.folder / "november.csv")
    code, said = desk.post(write_csv(renamed, [cells(0, ActivityNote="edited"), *rows(1, 2, 3)]))
    assert code == 2
    assert "1 row looks like an edit of a posted one, 1 is new" in said
    assert "ActivityNote Note 0 → edited (line 2) in 1 row" in said
    assert "2 rows were posted before, in calls.csv" in said
    assert desk.post(renamed, "--duplicates", "skip")[0] == 0
    assert desk.notes() == notes(0, 1, 2, 3)


def test_another_sandbox_is_another_account(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1)
    with Sandbox(limit=None) as other:
        desk.environment |= keys_of(other)
        assert desk.post(calls)[0] == 0
        assert len(other.posted()) == 2


def test_a_row_that_was_retried_by_hand_and_pruned_is_posted(desk: Desk, calls: Path) -> None:
    desk.sandbox.fail("500-mx")
    assert desk.post(write_csv(calls, rows(0)))[0] == 1
    assert desk.run("outbox", "retry", "--state", "rejected").exit_code == 0
    assert desk.post(write_csv(desk.folder / "b.csv", rows(1)))[0] == 0

    async def worked() -> None:
        async with (
            Outbox(f"sqlite:///{desk.outbox}", desk.sandbox.account()) as outbox,
            AsyncActivityPoster(desk.sandbox.account()) as poster,
        ):
            await outbox.drain(poster)

    asyncio.run(worked())
    assert desk.run("verify").exit_code == 0
    assert "entries deleted: 2" in desk.run("outbox", "prune", "--older-than", "0s").output
    assert desk.post(calls)[0] == 0
    assert desk.notes() == notes(0, 1)


def test_a_posted_row_that_was_made_invalid_is_an_edit_in_the_rejects(
    desk: Desk, calls: Path
) -> None:
    posted(desk, calls, 0, 1)
    write_csv(calls, [cells(0, ActivityDateTime="soon"), cells(1)])
    assert desk.post(calls, "--skip-invalid")[0] == 1
    (reject,) = read_csv(rejects_of(calls))
    write_csv(rejects_of(calls), [reject | {"ActivityDateTime": "2026-11-28 14:00"}])
    code, said = desk.post(rejects_of(calls))
    assert (code, desk.notes()) == (2, notes(0, 1)), said
    assert "ActivityDateTime 2026-11-28 14:00:07 UTC → 2026-11-28 14:00:00 UTC" in said
    write_csv(calls, rows(0, 1))
    assert desk.post(calls)[0] == 0
    write_csv(rejects_of(calls), [reject | {"ActivityDateTime": "2026-11-28 14:00"}])
    assert desk.post(rejects_of(calls), "--duplicates", "post")[0] == 0
    assert desk.notes() == ["Note 0", *notes(0, 1)]


def test_the_unsent_rows_that_rejects_send_too_are_in_the_plan(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0, RelatedProspectId=""), *rows(1, 2, 3)])
    desk.stopped_after(1, calls, "--skip-invalid")
    assert len(desk.notes()) < 3
    unsent = 3 - len(desk.notes())
    fixed = write_csv(rejects_of(calls), [r | cells(0) for r in read_csv(rejects_of(calls))])
    code, said = desk.post(fixed)
    assert (code, desk.notes()) == (0, notes(0, 1, 2, 3))
    assert f"{unsent} unsent row{'s' * (unsent > 1)} of calls.csv: sent too" in said


def test_first_is_refused_where_rejects_send_more(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0, RelatedProspectId=""), *rows(1, 2, 3)])
    desk.stopped_after(1, calls, "--skip-invalid")
    before = desk.notes()
    fixed = write_csv(rejects_of(calls), [r | cells(0) for r in read_csv(rejects_of(calls))])
    code, said = desk.post(fixed, "--first", "1")
    assert (code, desk.notes()) == (2, before)
    assert "of calls.csv would be sent too. Leave out --first, or post that file first" in said
    assert desk.post(calls, "--skip-invalid")[0] == 1
    assert desk.post(fixed, "--first", "1")[0] == 0
    assert desk.notes() == notes(0, 1, 2, 3)


def test_the_commands_to_paste_name_the_batch(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0), bad(1)])
    code, said = desk.post(calls, "--skip-invalid", "--batch", "day 1")
    assert code == 1
    assert f"leadpost verify {calls} --batch 'day 1'" in said
    assert desk.run("results", calls).exit_code == 2
    assert desk.run("results", calls, "--batch", "day 1").exit_code == 1
    write_csv(calls, [cells(0), cells(1)])
    said = desk.run("results", calls, "--batch", "day 1").output
    assert f"1 row left. To post them: leadpost post {calls} --batch 'day 1'" in said


def test_the_commands_to_paste_name_the_outbox(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0), bad(1)])
    code, said = desk.post(calls, "--skip-invalid", "--outbox", "my own.db")
    assert code == 1
    option = "--outbox 'my own.db'"
    assert f"then: leadpost post {rejects_of(calls)} {option}" in said
    assert f"leadpost verify {calls} {option}" in said
    write_csv(calls, [cells(0)])
    code, said = desk.post(calls, "--outbox", "my own.db")
    assert f"--duplicates post {option}" in said


def test_an_edit_whose_lead_could_not_be_looked_up_is_asked_about_later(
    desk: Desk, calls: Path
) -> None:
    desk.sandbox.add_lead(EmailAddress="ada@example.com")
    by_email = cells(0) | {"Lead.EmailAddress": "ada@example.com", "RelatedProspectId": ""}
    assert desk.post(write_csv(calls, [by_email]))[0] == 0
    write_csv(calls, [by_email | {"ActivityNote": "edited"}])
    desk.sandbox.fail("500-mx")
    assert desk.post(calls, "--skip-invalid")[0] == 1
    assert desk.states(calls) == ["invalid"]
    for _ in range(2):
        code, said = desk.post(calls)
        assert (code, desk.notes()) == (2, notes(0)), said
        assert "ActivityNote Note 0 → edited" in said


def test_20_a_row_that_may_have_arrived_and_is_deleted_is_not_sent_again(
    desk: Desk, calls: Path
) -> None:
    write_csv(calls, rows(0, 1))
    desk.sandbox.fail(*["keys-refused"] * 50)
    assert desk.post(calls)[0] == 3
    desk.sandbox._gateway.next_fates.clear()
    with closing(sqlite3.connect(desk.outbox)) as database, database:
        database.execute("UPDATE leadpost_entries SET error_type = 'DeliveryUncertain'")
    write_csv(calls, rows(1, 2))
    code, said = desk.post(calls)
    assert code == 2
    assert "1 unsent row of this file may have been sent meanwhile" in said
    assert desk.post(calls)[0] == 0
    assert desk.notes() == notes(1, 2)


def test_1_the_command_that_posts_a_file_a_second_time_can_be_pasted(
    desk: Desk, calls: Path
) -> None:
    write_csv(calls, [{**row, "Agent's name": "Ada"} for row in rows(0, 1)])
    assert desk.post(calls, "--ignore", "Agent's name")[0] == 0
    said = desk.run("post", calls).output
    again = next(line for line in said.splitlines() if line.startswith("To post them a second"))
    _, _, *command = shlex.split(again.partition(": ")[2])
    assert desk.run("post", *command).exit_code == 0
    assert desk.notes() == notes(0, 0, 1, 1)


def test_8_rejects_whose_keys_were_emptied(desk: Desk, calls: Path) -> None:
    rejects = [row | {"leadpost_key": ""} for row in with_rejects(desk, calls, 1)]
    write_csv(rejects_of(calls), [rejects[0] | {"ActivityEvent": "201"}])
    code, said = desk.post(rejects_of(calls))
    assert (code, desk.notes()) == (2, notes(0, 2))
    assert "the column leadpost_key is missing or empty" in said


def test_skipped_rows_that_may_be_uncertain_elsewhere_are_pointed_out(
    desk: Desk, calls: Path
) -> None:
    desk.sandbox.fail("cut-before", "ok")
    assert desk.post(write_csv(calls, rows(0, 1)))[0] == 1
    other = write_csv(desk.folder / "other.csv", rows(0, 1, 2))
    code, said = desk.post(other, "--duplicates", "skip")
    assert code == 1
    assert "1 accepted, not yet processed, 1 skipped as posted before, 1 uncertain" in said
    assert f"leadpost reconcile {other}" in said
    assert [row["message"] for row in desk.results(other)].count("uncertain in calls.csv") == 1
    assert desk.run("reconcile", "--settle", "0s").exit_code == 0
    assert "uncertain" not in desk.post(other, "--duplicates", "skip")[1]


def test_a_skipped_row_that_failed_elsewhere_is_not_settled(desk: Desk, calls: Path) -> None:
    assert desk.post(write_csv(calls, [cells(0, ActivityEvent="999")]))[0] == 0
    assert desk.run("verify", calls).exit_code == 1
    other = write_csv(desk.folder / "other.csv", [cells(0, ActivityEvent="999")])
    code, said = desk.post(other, "--duplicates", "skip")
    assert code == 1
    assert "1 failed" in said
    (row,) = desk.results(other)
    assert (row["state"], row["message"]) == ("failed", "failed in calls.csv")


def test_a_file_without_rows(desk: Desk, calls: Path) -> None:
    calls.write_text(",".join(HEADER) + "\n")
    for args in (("post", calls), ("results", calls)):
        done = desk.run(*args)
        assert (done.exit_code, done.stdout) == (0, f"{calls} has no rows\n")
