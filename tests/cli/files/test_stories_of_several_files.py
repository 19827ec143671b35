"""Stories 15 to 28: daily files, several files, outboxes, keys and formats."""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest
from files_support import (
    HEADER,
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
    write_xlsx,
)


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
    assert "2 rows were posted before, in batch calls.csv" in said
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
    assert "1 row was posted before, in batch calls.csv" in said
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


def test_19_an_edit_is_seen_under_another_file_name(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1, 2)
    calls.with_name("calls.csv.results.csv").unlink()
    renamed = calls.rename(desk.folder / "november.csv")
    code, said = desk.post(write_csv(renamed, [cells(0, ActivityNote="edited"), *rows(1, 2, 3)]))
    assert code == 2
    assert "1 row looks like an edit of a posted one, 1 is new" in said
    assert "ActivityNote Note 0 → edited (line 2) in 1 row" in said
    assert "2 rows were posted before, in batch calls.csv" in said
    assert desk.post(renamed, "--duplicates", "skip")[0] == 0
    assert desk.notes() == notes(0, 1, 2, 3)


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


def test_21_results_beside_the_file_say_more_than_the_outbox(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1, 2)
    for options in (("--dry-run",), ()):
        code, said = desk.post(calls, "--outbox", "another.db", *options)
        assert code == 2
        assert "calls.csv.results.csv counts 3 rows of it as posted, but this outbox has" in said
    assert desk.notes() == notes(0, 1, 2)
    calls.with_name("calls.csv.results.csv").write_text("line,state\n2,invalid\n")
    code, said = desk.post(calls, "--outbox", "another.db")
    assert (code, len(desk.notes())) == (0, 6), said


def test_21_an_outbox_that_was_lost_and_has_another_file_of_that_name(
    desk: Desk, calls: Path
) -> None:
    posted(desk, calls, 0, 1, 2)
    elsewhere = desk.folder / "elsewhere" / "calls.csv"
    elsewhere.parent.mkdir()
    for known in (1, 2):
        file = write_csv(elsewhere, rows(*range(8, 8 + known)))
        assert desk.post(file, "--outbox", "another.db")[0] == 0
        code, said = desk.post(calls, "--outbox", "another.db", "--duplicates", "post")
        assert code == 2
        assert "counts 3 rows of it as posted, but this outbox has none of them" in said
    assert desk.notes() == notes(0, 1, 2, 8, 9)


def test_21_an_outbox_that_was_lost_with_a_run_in_between_that_sent_nothing(
    desk: Desk, calls: Path
) -> None:
    posted(desk, calls, 0, 1)
    desk.outbox.unlink()
    for options in (("--set", "ActivityEvent=x", "--skip-invalid"), ()):
        code, said = desk.post(calls, *options)
        assert (code, "this outbox has none of them" in said) == (2, True), said
    assert desk.notes() == notes(0, 1)


def test_21_an_outbox_that_was_restored_from_before_the_last_posts(desk: Desk, calls: Path) -> None:
    desk.stopped_after(1, write_csv(calls, rows(*range(60))))
    backup = desk.outbox.read_bytes()
    before = len(desk.notes())
    assert desk.post(calls)[0] == 0
    desk.outbox.write_bytes(backup)
    code, said = desk.post(calls)
    assert code == 2
    assert f"counts 60 rows of it as posted, but this outbox has only {before} of them" in said
    assert len(desk.notes()) == 60


def test_21_results_that_this_outbox_wrote_are_no_obstacle_wherever_they_are(
    desk: Desk, calls: Path
) -> None:
    posted(desk, calls, 0, 1, 2)
    new = write_csv(desk.folder / "new.csv", rows(2, 3))
    calls.with_name("calls.csv.results.csv").rename(new.with_name("new.csv.results.csv"))
    code, said = desk.post(new, "--duplicates", "skip")
    assert (code, desk.notes()) == (0, notes(0, 1, 2, 3)), said


def test_21_nor_are_those_that_a_spreadsheet_saved(desk: Desk, calls: Path) -> None:
    table = [*rows(0, 1, 2), bad(3)]
    assert desk.post(write_csv(calls, table), "--skip-invalid")[0] == 1
    results = calls.with_name("calls.csv.results.csv")
    results.write_bytes(results.read_bytes() + b"\r\n")
    code, said = desk.post(write_csv(calls, rows(3)))  # story 4
    assert (code, desk.notes()) == (0, notes(0, 1, 2, 3)), said


def test_21_results_of_other_rejects_of_that_name_are_no_obstacle(desk: Desk) -> None:
    for number, name in enumerate(("a.csv", "b.csv")):
        numbers = range(10 * number, 10 * number + 5 - number)
        path = write_csv(desk.folder / name, [bad(n) for n in numbers])
        assert desk.post(path, "--skip-invalid")[0] == 1
        fixed = [row | {"ActivityEvent": "201"} for row in read_csv(rejects_of(path))]
        code, said = desk.post(write_csv(desk.folder / "fixed.csv", fixed))
        assert code == 0, said
    assert len(desk.notes()) == 9


def test_21_results_of_one_of_two_files_of_a_batch_are_no_obstacle(desk: Desk) -> None:
    for number, name in enumerate(("mon.csv", "tue.csv")):
        table = rows(*range(10 * number, 10 * number + 3))
        assert desk.post(write_csv(desk.folder / name, table), "--batch", "w1")[0] == 0
    code, said = desk.post(write_csv(desk.folder / "mon.csv", rows(20)), "--batch", "w2")
    assert (code, len(desk.notes())) == (0, 7), said


@pytest.fixture
def colleague(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The keys of a colleague, or new ones; the sandbox takes these too."""
    taken = {"accessKey": desk.sandbox.access_key, "secretKey": desk.sandbox.secret_key}

    def key(_: object, name: str) -> str:
        return taken[name]

    monkeypatch.setattr("leadpost.sandbox.gateway._key", key)
    return {"LEADPOST_ACCESS_KEY": "u$rANOTHER"}


def test_22_what_was_posted_with_other_keys_of_the_same_host_is_found(
    desk: Desk, calls: Path, colleague: dict[str, str]
) -> None:
    posted(desk, calls, 0, 1)
    desk.environment |= colleague
    code, said = desk.post(calls)
    assert code == 2
    assert "2 of them with other keys" in said
    assert desk.post(calls, "--duplicates", "post")[0] == 0
    assert desk.notes() == notes(0, 0, 1, 1)


@pytest.mark.parametrize(("answer", "more"), [("skip", []), ("post", [0, 1])])
def test_22_what_a_colleague_has_posted_since_a_run_was_stopped_is_found(
    desk: Desk, calls: Path, colleague: dict[str, str], answer: str, more: list[int]
) -> None:
    mine = dict(desk.environment)
    desk.stopped_after(0, write_csv(calls, rows(0, 1)))
    for keys in (colleague, mine):
        desk.environment |= keys
        code, said = desk.post(calls)
        assert code == 2
        assert "2 rows were posted before or put to be posted, in batch calls.csv" in said
        if keys == colleague:
            assert desk.post(calls, "--duplicates", "post")[0] == 0
    for _ in range(2):
        assert desk.post(calls, "--duplicates", answer)[0] == 0
        assert desk.notes() == notes(0, 1, *more)
        assert desk.states(calls) == ["accepted" if more else "skipped"] * 2
    assert "pending           0" in desk.run("outbox", "status").stdout


def test_22_the_unsent_rows_of_former_keys_are_adopted_without_those_posted_since(
    desk: Desk, calls: Path, colleague: dict[str, str], store_url: str
) -> None:
    desk.environment["LEADPOST_OUTBOX"] = store_url
    posted(desk, calls, 5)
    desk.stopped_after(0, write_csv(calls, rows(5, 0, 0, 1, 2, 3)))
    former = desk.run("outbox", "account").stdout.strip()
    assert desk.run("outbox", "adopt", former).stdout.count("\n") == 1  # nothing is withdrawn
    desk.environment |= colleague
    assert desk.post(write_csv(calls, rows(5, 1, 2)), "--duplicates", "post")[0] == 0
    done = desk.run("outbox", "adopt", former)
    assert done.stdout.startswith("unsent entries withdrawn, as your account has the same: 2\n")
    for _ in range(2):
        code, said = desk.post(write_csv(calls, rows(5, 5, 0, 0, 1, 2, 4)))
        assert (code, desk.notes()) == (0, notes(5, 5, 0, 0, 1, 2, 4)), said


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


def test_23_another_column_is_shown_and_asked_about(desk: Desk, calls: Path) -> None:
    table = [{**row, "X": f"x{n}"} for n, row in enumerate(rows(0, 1))]
    write_csv(calls, table)
    assert desk.post(calls, "--map", "X=mx_b")[0] == 0
    code, said = desk.post(calls, "--map", "X=mx_a")
    assert code == 2
    assert "  mx_b x0 →  (line 2) in 2 rows, and mx_a\n" in said
    assert desk.notes() == notes(0, 1)


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
    assert "2 rows were posted before, in batch calls.xlsx" in said
    assert desk.notes() == notes(0, 1)


@pytest.mark.parametrize("first", ["csv", "json"])
def test_25_the_email_form_is_the_same_activity_as_a_column_of_addresses(
    desk: Desk, first: str
) -> None:
    csv, email = desk.folder / "calls.csv", desk.folder / "calls.json"
    write_csv(csv, [{"Lead.EmailAddress": "ada@example.com", "ActivityEvent": "201"}])
    email.write_text(json.dumps({"EmailAddress": "ada@example.com", "ActivityEvent": 201}))
    one, other = (csv, email) if first == "csv" else (email, csv)
    assert desk.post(one, "--create-leads")[0] == 0
    code, said = desk.post(other, "--create-leads")
    assert (code, len(desk.sandbox.posted())) == (2, 1)
    assert f"1 row was posted before, in batch {one.name}" in said


def test_25_an_export_without_the_seconds_is_asked_about(desk: Desk) -> None:
    table = [[row[name] for name in HEADER] for row in rows(0, 1, 2)]
    assert desk.post(write_xlsx(desk.folder / "calls.xlsx", [HEADER, *table]))[0] == 0
    shortened = [
        row | {"ActivityDateTime": row["ActivityDateTime"][:-3]}
        for row in (cells(0, ActivityNote="edited"), *rows(1, 2, 3))
    ]
    export = write_csv(desk.folder / "export.csv", shortened)
    code, said = desk.post(export)
    assert code == 2
    assert "3 rows look like edits of posted ones, 1 is new" in said
    lost = "2026-11-28 14:01:07 UTC → 2026-11-28 14:01:00 UTC"
    assert f"ActivityDateTime {lost} (line 3) in 2 rows" in said
    assert desk.post(export, "--duplicates", "skip")[0] == 0
    assert desk.notes() == notes(0, 1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"mx_Custom_1": "07.11.26"}, "mx_Custom_1 2026-11-07 → 07.11.26 (line 2) in 2 rows"),
        ({"mx_Custom_9": "added"}, "mx_Custom_9  → added (line 2) in 2 rows"),
    ],
    ids=["a date cell", "a further column"],
)
def test_25_another_name_and_a_change_in_every_row_are_asked_about(
    desk: Desk, changes: dict[str, str], difference: str
) -> None:
    table = [row | {"mx_Custom_1": "2026-11-07"} for row in rows(0, 1)]
    assert desk.post(write_csv(desk.folder / "calls.csv", table))[0] == 0
    export = write_csv(desk.folder / "export.csv", [*(row | changes for row in table), cells(2)])
    code, said = desk.post(export)
    assert code == 2
    assert "2 rows look like edits of posted ones, 1 is new" in said
    assert difference in said
    assert desk.post(export, "--duplicates", "skip")[0] == 0
    assert desk.notes() == notes(0, 1, 2)


@pytest.mark.parametrize("leads", ["", "--create-leads"])
def test_25_so_are_rows_whose_leads_were_created(desk: Desk, leads: str) -> None:
    if not leads:
        desk.sandbox.add_lead(EmailAddress="ada@example.com")
    table = [
        {**row, "RelatedProspectId": "", "Lead.EmailAddress": "ada@example.com"}
        for row in rows(0, 1)
    ]
    args = [leads] if leads else []
    assert desk.post(write_csv(desk.folder / "calls.csv", table), *args)[0] == 0
    export = write_csv(desk.folder / "export.csv", [row | {"mx_Custom_9": "x"} for row in table])
    code, said = desk.post(export, *args)
    assert (code, "2 rows look like edits of posted ones" in said) == (2, True), said
    assert desk.post(export, *args, "--duplicates", "skip")[0] == 0
    for command in ("results", "verify"):  # which look nobody up
        desk.run(command, export)
        assert desk.states(export) == ["skipped", "skipped"]
    assert len(desk.sandbox.posted()) == 2


def test_25_edits_of_unsent_rows_in_a_file_of_another_name_are_asked_about(desk: Desk) -> None:
    """The old version stays to be sent, as it may be another activity of the same minute."""
    calls = write_csv(desk.folder / "calls.csv", rows(0, 1))
    desk.stopped_after(0, calls)
    export = desk.folder / "export.csv"
    write_csv(export, [row | {"mx_Custom_1": "edited"} for row in rows(0, 1, 2)])
    code, said = desk.post(export)
    assert code == 2
    assert "2 rows look like edits of posted ones, 2 of these not sent yet, 1 is new" in said
    code, said = desk.post(export, "--duplicates", "skip")
    assert (code, desk.notes()) == (1, notes(2))
    assert "2 skipped rows wait in the outbox as another file had them" in said
    assert "To post them so: leadpost work" in said
    assert desk.states(export) == ["not_sent", "not_sent", "accepted"]
    assert desk.post(calls)[0] == 0
    assert desk.notes() == notes(0, 1, 2)
    assert desk.post(export, "--duplicates", "skip")[0] == 0


def test_19_unsent_rows_whose_lead_was_created_meanwhile_go_with_the_file(desk: Desk) -> None:
    table = [
        {**row, "RelatedProspectId": "", "Lead.EmailAddress": "ada@example.com"}
        for row in rows(0, 1, 2)
    ]
    calls = write_csv(desk.folder / "calls.csv", table)
    desk.sandbox.fail("ok", "ok", *["keys-refused"] * 50)  # a look-up, and a post
    assert desk.post(calls, "--create-leads")[0] == 3
    desk.sandbox._gateway.next_fates.clear()
    assert len(desk.sandbox.posted()) == 1
    new = calls.rename(desk.folder / "new.csv")
    code, said = desk.post(new, "--create-leads", "--duplicates", "skip")
    assert (code, len(desk.sandbox.posted())) == (0, 3)
    assert "2 unsent rows of another file: moved here" in said
    counts = json.loads(desk.run("outbox", "status", "--json").stdout)
    assert counts["pending"] == 0


def test_25_without_a_time_the_content_says_whether_it_is_the_same(desk: Desk) -> None:
    table = [row | {"ActivityDateTime": "", "ActivityNote": "No answer"} for row in rows(0, 1)]
    assert desk.post(write_csv(desk.folder / "calls.csv", table), "--batch", "monday")[0] == 0
    table = [table[0], table[1] | {"mx_Custom_1": "of tuesday"}]
    code, said = desk.post(write_csv(desk.folder / "calls.csv", table), "--batch", "tuesday")
    assert code == 2
    assert "1 row was posted before, in batch monday" in said
    assert "1 possible duplicate" in said


def test_7_so_are_different_fixes_in_the_rejects_and_under_another_name(
    desk: Desk, calls: Path
) -> None:
    (reject,) = with_rejects(desk, calls, 1)
    assert desk.post(write_csv(desk.folder / "other.csv", rows(1)))[0] == 0
    fixed = reject | cells(1, ActivityNote="other")
    code, said = desk.post(write_csv(rejects_of(calls), [fixed]))
    assert code == 2
    assert "1 row looks like an edit of a posted one" in said
    assert desk.notes() == notes(0, 1, 2)


@pytest.mark.parametrize("changes", [{}, {"mx_Custom_1": "edited"}])
def test_the_first_rows_are_counted_without_possible_duplicates(
    desk: Desk, calls: Path, changes: dict[str, str]
) -> None:
    posted(desk, calls, 0, 1)
    new = desk.folder / "new.csv"
    write_csv(new, [*(row | changes for row in rows(0, 1)), *rows(2, 3, 4)])
    for sent in ((2, 3), (2, 3, 4)):
        desk.post(new, "--first", "2", "--duplicates", "skip")
        assert desk.notes() == notes(0, 1, *sent)


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
