"""Numbered stories of people with files, 1 to 14: one file, its edits and its rejects."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from files_support import (
    Desk,
    bad,
    cells,
    lead,
    notes,
    posted,
    read_csv,
    rejects_of,
    rows,
    with_rejects,
    write_csv,
)


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
    done = desk.run("post", fixed)
    assert done.exit_code == 0
    assert "nothing new" in done.output
    assert "a second time" not in done.output  # their keys say their batch, whatever --batch says
    done = desk.run("post", calls, *options, "--timezone", "+05:30")
    assert done.exit_code == 0, done.output
    results = [(row["state"], row["message"]) for row in desk.results(calls)]
    assert results == [("accepted", ""), ("accepted", "")]
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


def test_7_of_different_fixes_of_a_row_that_the_queue_failed_the_second_is_a_possible_duplicate(
    desk: Desk, calls: Path
) -> None:
    assert desk.post(write_csv(calls, [cells(0), cells(1, ActivityEvent="999")]))[0] == 0
    assert desk.run("verify", calls).exit_code == 1
    (reject,) = read_csv(rejects_of(calls))
    fixed = write_csv(desk.folder / "fixed.csv", [reject | cells(1, ActivityNote="other")])
    assert desk.post(write_csv(calls, rows(0, 1)))[0] == 0
    code, said = desk.post(fixed)
    assert code == 2
    assert "1 row looks like an edit of a posted one" in said


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
    assert "1 row was posted before, in batch calls.csv" in said
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
    assert f"Write the rejects again: leadpost results {calls}\n" in said
    del row["leadpost_reason"]
    assert desk.post(write_csv(desk.folder / "new.csv", [row | cells(1)]))[0] == 0


def test_8_how_to_get_the_rejects_anew_names_file_and_batch(desk: Desk) -> None:
    calls = desk.folder / "my calls.csv"
    write_csv(calls, [cells(0), bad(1)])
    assert desk.post(calls, "--skip-invalid", "--batch", "day 1")[0] == 1
    row = cells(1) | {"leadpost_reason": "changed"}
    code, said = desk.post(write_csv(rejects_of(calls), [row]), "--batch", "day 1")
    assert code == 2
    command = shlex.split(said.partition("Write the rejects again: leadpost ")[2])
    assert command == ["results", str(calls), "--batch", "day 1"]


def test_8_rejects_whose_keys_were_emptied(desk: Desk, calls: Path) -> None:
    rejects = [row | {"leadpost_key": ""} for row in with_rejects(desk, calls, 1)]
    write_csv(rejects_of(calls), [rejects[0] | {"ActivityEvent": "201"}])
    code, said = desk.post(rejects_of(calls))
    assert (code, desk.notes()) == (2, notes(0, 2))
    assert "the column leadpost_key is missing or empty" in said


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


def test_13_a_row_that_the_queue_failed_stays_failed_when_it_leaves_the_file_and_comes_back(
    desk: Desk, calls: Path
) -> None:
    table = [cells(0), cells(1, ActivityEvent="999")]  # no such type
    assert desk.post(write_csv(calls, table))[0] == 0
    assert desk.run("verify", calls).exit_code == 1
    assert desk.post(write_csv(calls, rows(5, 6)))[0] == 0
    code, said = desk.post(write_csv(calls, table))
    assert (code, desk.notes()) == (1, notes(0, 1, 5, 6)), said
    assert desk.states(calls) == ["succeeded", "failed"]


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
