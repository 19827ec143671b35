"""`leadpost post`: what is shown, asked, written and returned."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from files_support import Desk, cells, keys_of, lead, read_csv, write_csv, write_xlsx
from processes import start

from leadpost import TokenBucket
from leadpost.cli.files.comparing.ledger import Ledger
from leadpost.cli.files.sending import entries
from leadpost.hooks import Hook
from leadpost.outbox.database import _calls
from leadpost.sandbox import Answer, Faults, Sandbox


@pytest.fixture
def calls(desk: Desk) -> Path:
    return write_csv(desk.folder / "calls.csv", [cells(n) for n in range(3)])


def names(desk: Desk) -> list[str]:
    return sorted(path.name for path in desk.folder.iterdir())


def test_all_accepted(desk: Desk, calls: Path) -> None:
    code, said = desk.post(calls)
    assert code == 0
    assert "3 accepted, not yet processed" in said
    assert "Results: " in said
    assert "leadpost verify" in said.splitlines()[-1]
    assert names(desk) == ["calls.csv", "calls.csv.results.csv"]
    ids = {
        p["ActivityNote"]: accepted.request_id
        for p, accepted in ((t.payload, t) for t in desk.sandbox.accepted)
    }
    assert desk.results(calls) == [
        {
            "line": str(n + 2),
            "lead": lead(n),
            "state": "accepted",
            "request_id": ids[f"Note {n}"],
            "activity_id": "",
            "error": "",
            "message": "",
        }
        for n in range(3)
    ]
    assert calls.with_name("calls.csv.results.csv").stat().st_mode & 0o777 == 0o600
    assert desk.run("verify", calls).exit_code == 0
    assert desk.states(calls) == ["succeeded"] * 3
    assert all(row["activity_id"] for row in desk.results(calls))


def test_the_plan_says_what_goes_where(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(n) | {"Agent": "Ann"} for n in range(3)])
    code, said = desk.post(calls, "--dry-run", "--ignore", "Agent", "--set", "mx_Source=import")
    assert code == 0
    shown = " ".join(said.split())
    for text in (
        "account 127.0.0.1:",
        "(access key …cess)",
        "outbox ~/config/leadpost/outbox.db",
        "batch calls.csv",
        "rows 3: 3 new",
        "columns RelatedProspectId ActivityEvent ActivityNote ActivityDateTime mx_Custom_1",
        "import → mx_Source not sent: Agent",
        f"first line 2: RelatedProspectId: {lead(0)} ActivityEvent: 201 ActivityNote: Note 0",
        "ActivityDateTime: 2026-11-28 14:00:07 UTC mx_Custom_1: value 0 mx_Source: import",
        "time a few seconds, until ",
    ):
        assert text in shown
    assert desk.notes() == []
    assert names(desk) == ["calls.csv"]


def test_the_plan_counts_rows_that_are_posted_possible_duplicates_and_invalid(
    desk: Desk, calls: Path
) -> None:
    assert desk.post(calls)[0] == 0
    rows = [cells(0), cells(1, ActivityNote="edited"), cells(2), cells(3, ActivityEvent="x")]
    code, said = desk.post(write_csv(calls, [*rows, cells(4)]), "--dry-run")
    assert code == 2
    assert "5: 1 new, 2 posted before, 1 possible duplicate, 1 invalid" in said
    code, said = desk.post(calls, "--duplicates", "skip", "--skip-invalid")
    assert code == 1
    assert "3 accepted, not yet processed, 1 skipped as edits of posted ones, 1 invalid" in said
    edited, invalid = (desk.results(calls)[n] for n in (1, 3))
    assert (edited["state"], edited["message"]) == ("skipped", "looks like an edit of a posted row")
    assert (invalid["line"], invalid["lead"]) == ("5", lead(3))
    assert invalid["message"].startswith("ActivityEvent: x is not a positive whole number")


def test_the_variable_names_the_time_zone(desk: Desk, calls: Path) -> None:
    done = desk.run("post", calls, LEADPOST_TIMEZONE="+05:30")
    assert done.exit_code == 0, done.output
    assert desk.sandbox.posted()[0]["ActivityDateTime"].startswith("2026-11-28 08:3")


def test_the_plan_as_json(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0), cells(1, ActivityEvent="x")])
    done = desk.run("post", calls, "--timezone", "UTC", "--dry-run", "--json", "--quiet")
    assert done.exit_code == 2
    plan = json.loads(done.stdout)
    assert (plan["rows"], plan["send"], plan["new"], plan["invalid"]) == (2, 1, 1, 1)
    assert plan["problems"] == [
        {
            "problem": {
                "column": "ActivityEvent",
                "value": "x",
                "what": "is not a positive whole number such as 201",
                "remedy": "no activity type has that name",
            },
            "place": "line 3",
            "rows": 1,
        }
    ]


def test_possible_duplicates_are_in_the_json_too(desk: Desk, calls: Path) -> None:
    assert desk.post(calls)[0] == 0
    write_csv(calls, [cells(0, ActivityNote="edited"), cells(1), cells(2)])
    done = desk.run("post", calls, "--timezone", "UTC", "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["possible_duplicates"] == [{"line": 2, "lead": lead(0), "reason": "edit"}]
    assert found["differences"][0]["names"] == ["ActivityNote"]
    done = desk.run("post", calls, "--timezone", "UTC", "--json", "--duplicates", "skip")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["accepted"], found["skipped"]) == (2, 1)
    assert found["possible_duplicates"] == [{"line": 2, "lead": lead(0), "reason": "edit"}]


def test_an_edit_of_a_row_whose_entry_was_pruned_has_no_example(desk: Desk, calls: Path) -> None:
    assert desk.post(calls)[0] == 0
    assert desk.run("verify", calls).exit_code == 0
    assert "deleted: 3" in desk.run("outbox", "prune", "--older-than", "0s").output
    write_csv(calls, [cells(0, ActivityNote="edited"), cells(1), cells(2)])
    code, said = desk.post(calls)
    assert code == 2
    assert "1 row looks like an edit of a posted one" in said
    assert "→" not in said
    assert len(desk.notes()) == 3


def test_an_edit_of_nested_fields_is_a_possible_duplicate_too(desk: Desk) -> None:
    def write(value: str) -> Path:
        nested = [{"SchemaName": "mx_CustomObject_1", "Value": value}]
        fields = [{"SchemaName": "mx_Custom_1", "Value": "", "Fields": nested}]
        path = desk.folder / "calls.json"
        activity = {"RelatedProspectId": lead(0), "ActivityEvent": 201, "Fields": fields}
        path.write_text(json.dumps([activity]))
        return path

    assert desk.post(write("a"))[0] == 0
    code, said = desk.post(write("b"))
    assert (code, len(desk.sandbox.posted())) == (2, 1)
    assert "1 row looks like an edit of a posted one" in said


def test_problems_that_repeat_are_grouped_with_the_option_that_fixes_them(
    desk: Desk, calls: Path
) -> None:
    table = [cells(n, ActivityDateTime=f"28/11/2026 14:{n % 60:02}") for n in range(3000)]
    code, said = desk.post(write_csv(calls, table))
    assert code == 2
    assert (
        'ActivityDateTime: 3,000 rows, such as line 2 "28/11/2026 14:00" is not in the form'
        " 2026-11-28 14:05; add --date-format '%d/%m/%Y %H:%M'" in said
    )
    assert "Nothing was sent. Fix the rows above" in said
    assert len(said.splitlines()) < 20


def test_no_more_than_20_kinds_of_problems_are_listed(desk: Desk, calls: Path) -> None:
    headings = [f"mx_{n}" for n in range(22)]
    write_csv(calls, [cells(0) | dict.fromkeys(headings, "#N/A")])
    code, said = desk.post(calls)
    assert code == 2
    assert said.count("#N/A is an error of the spreadsheet") == 20
    assert "and 2 other kinds of problems" in said


def test_first_posts_some_rows_and_the_next_run_goes_on(desk: Desk, calls: Path) -> None:
    code, said = desk.post(calls, "--first", "2")
    assert code == 0
    assert "2 new, 1 left for the next run" in said
    assert desk.notes() == ["Note 0", "Note 1"]
    assert desk.states(calls) == ["accepted", "not_sent", "succeeded"]
    assert desk.post(calls)[0] == 0
    assert desk.notes() == ["Note 0", "Note 1", "Note 2"]


def test_first_leaves_what_an_earlier_run_has_put_for_later(desk: Desk, calls: Path) -> None:
    desk.stopped_after(1, calls)
    assert desk.post(calls, "--first", "1")[0] == 0
    assert len(desk.notes()) == 2
    assert desk.post(calls)[0] == 0
    assert desk.notes() == ["Note 0", "Note 1", "Note 2"]


def test_one_file_does_not_send_what_is_left_of_another(desk: Desk, calls: Path) -> None:
    desk.stopped_after(1, calls)
    other = write_csv(desk.folder / "other.csv", [cells(8)])
    assert desk.post(other)[0] == 0
    assert len(desk.notes()) == 2
    assert "Note 8" in desk.notes()


def test_a_row_that_a_worker_sends_meanwhile_is_not_sent_under_another_file_name(
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.stopped_after(1, calls)
    renamed = calls.rename(desk.folder / "november.csv")
    withdraw = entries.withdraw

    async def claimed_first(ledger: Ledger, ids: Sequence[int]) -> int:
        with closing(sqlite3.connect(desk.outbox)) as database:
            statement = "UPDATE leadpost_entries SET state = 'accepted' WHERE id ="
            statement += " (SELECT min(id) FROM leadpost_entries WHERE state = 'pending')"
            database.execute(statement)
            database.commit()
        return await withdraw(ledger, ids)

    monkeypatch.setattr(entries, "withdraw", claimed_first)
    code, said = desk.post(renamed, "--duplicates", "skip")
    assert code == 2
    assert "1 unsent row of this file may have been sent meanwhile" in said
    assert len(desk.notes()) == 1
    monkeypatch.setattr(entries, "withdraw", withdraw)
    assert desk.post(renamed, "--duplicates", "skip")[0] == 0
    assert len(desk.notes()) == 2  # the third is accepted, as far as the outbox knows


def test_rejects_that_were_edited_meanwhile_are_kept(desk: Desk, calls: Path) -> None:
    table = [cells(0), cells(1, ActivityEvent="x")]
    write_csv(calls, table)
    rejects = calls.with_name("calls.csv.rejects.csv")
    assert desk.post(calls, "--skip-invalid")[0] == 1
    untouched = rejects.read_bytes()
    assert desk.post(calls, "--skip-invalid")[0] == 1
    assert rejects.read_bytes() == untouched
    rejects.write_bytes(untouched.replace(b",x,", b",20,"))
    _, said = desk.post(calls, "--skip-invalid")
    assert "calls.csv.rejects.2.csv" in said
    assert b",20," in rejects.read_bytes()
    assert calls.with_name("calls.csv.rejects.2.csv").read_bytes() == untouched
    assert desk.post(write_csv(calls, [cells(0), cells(1)]))[0] == 0
    assert names(desk) == ["calls.csv", "calls.csv.rejects.csv", "calls.csv.results.csv"]


def test_rejects_of_json_are_json_lines(desk: Desk) -> None:
    path = desk.folder / "calls.json"
    good = {"RelatedProspectId": lead(0), "ActivityEvent": 201}
    path.write_text(json.dumps([good, good | {"ActivityEvent": "x"}, {"mx_a": "text"}]))
    assert desk.post(path, "--skip-invalid")[0] == 1
    rejects = path.with_name("calls.json.rejects.jsonl")
    first, second = (json.loads(line) for line in rejects.read_text().splitlines())
    assert first["leadpost_reason"].startswith("ActivityEvent: x is not")
    assert first["ActivityEvent"] == "x"
    assert second["mx_a"] == "text"
    fixed = first | {"ActivityEvent": 201, "ActivityNote": "fixed"}
    rejects.write_text(json.dumps(fixed) + "\n" + json.dumps(second) + "\n")
    assert desk.post(rejects)[0] == 1
    assert len(desk.notes()) == 2
    assert desk.post(path)[0] == 1
    assert desk.states(path) == ["accepted", "accepted", "invalid"]


def test_rejects_of_a_workbook_are_csv_with_its_options(desk: Desk) -> None:
    path = desk.folder / "calls.xlsx"
    rows = [["Lead", "ActivityEvent"], [lead(0), 201], [lead(1), "x"]]
    write_xlsx(path, rows, hidden=[2])
    options = ("--map", "Lead=Lead Id", "--include-hidden", "--skip-invalid", "--sheet", "Sheet")
    assert desk.post(path, *options)[0] == 1
    rejects = path.with_name("calls.xlsx.rejects.csv")
    assert [row["Lead"] for row in read_csv(rejects)] == [lead(1)]
    rejects.write_bytes(rejects.read_bytes().replace(b",x", b",201"))
    assert desk.run("post", rejects).exit_code == 0
    assert desk.run("results", path).exit_code == 0
    assert desk.states(path) == ["accepted", "accepted"]


def test_standard_input(desk: Desk, calls: Path) -> None:
    text = calls.read_text()
    done = desk.run("post", "-", "--timezone", "UTC", stdin=text)
    assert done.exit_code == 0, done.output
    assert names(desk) == ["calls.csv", "stdin.results.csv"]
    assert len(desk.notes()) == 3
    again = desk.run("post", "-", "--timezone", "UTC", stdin=text)
    assert "3 rows were posted" in again.output


def test_a_pipe_is_read_like_a_file(desk: Desk, calls: Path) -> None:
    pipe = desk.folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(calls.read_bytes(),))
    writer.start()
    assert desk.post(pipe)[0] == 0
    writer.join()
    assert len(desk.notes()) == 3


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_file_that_cannot_be_read(desk: Desk, name: str) -> None:
    code, said = desk.post(desk.folder / name)
    assert code == 2
    assert re.match(r"error: .*: (No such file or directory|Is a directory)\n$", said)


@pytest.mark.parametrize("name", ["a/b", "a\nb"])
def test_a_batch_with_a_name_that_cannot_be_is_refused(desk: Desk, calls: Path, name: str) -> None:
    code, said = desk.post(calls, "--batch", name)
    assert code == 2
    assert "has a slash or a control character" in said


def test_what_is_uncertain_is_in_the_results_and_in_no_file_to_post(
    desk: Desk, calls: Path
) -> None:
    desk.sandbox.fail("cut-after", "ok", "504-before")
    code, said = desk.post(calls)
    assert code == 1
    assert "2 uncertain: may have arrived" in said
    assert f"leadpost reconcile {calls}" in said
    assert names(desk) == ["calls.csv", "calls.csv.results.csv"]
    assert sorted(desk.states(calls)) == ["accepted", "uncertain", "uncertain"]
    code, said = desk.post(calls)
    assert (code, "nothing new" in said) == (1, True)
    assert said.splitlines()[-1].endswith(f"leadpost reconcile {calls}")
    assert "a second time" not in said
    assert len(desk.sandbox.posted()) == 2
    assert desk.run("reconcile", calls).exit_code == 1
    assert sorted(desk.states(calls)) == ["accepted", "succeeded", "uncertain"]
    assert desk.run("reconcile", calls, "--settle", "0s").exit_code == 1
    assert sorted(desk.states(calls)) == ["accepted", "not_sent", "succeeded"]
    assert desk.post(calls)[0] == 0
    assert desk.notes() == ["Note 0", "Note 1", "Note 2"]


def test_uncertain_posts_one_after_another_stop_the_run(
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost.cli.files.sending.sender.MOST_UNCERTAIN", 2)
    write_csv(calls, [cells(n) for n in range(40)])
    desk.sandbox.fail(*["cut-after"] * 400)
    code, said = desk.post(calls)
    assert code == 1
    assert "posts in a row are uncertain; nothing more was sent" in said
    assert len(desk.sandbox.posted()) < 40


def test_refused_rows_are_tried_again_if_they_are_still_in_the_file(
    desk: Desk, calls: Path
) -> None:
    desk.sandbox.fail("500-mx")
    assert desk.post(calls)[0] == 1
    assert sorted(desk.states(calls)) == ["accepted", "accepted", "rejected"]
    (row,) = read_csv(calls.with_name("calls.csv.rejects.csv"))
    assert "MXInvalidInputException" in row["leadpost_reason"]
    code, said = desk.post(calls)
    assert code == 0
    assert "1 tried again" in said
    assert desk.notes() == ["Note 0", "Note 1", "Note 2"]


def test_a_refused_row_whose_entry_was_pruned_is_put_again(desk: Desk, calls: Path) -> None:
    desk.sandbox.fail("500-mx")
    assert desk.post(calls)[0] == 1
    assert "entries deleted: 1" in desk.run("outbox", "prune", "--older-than", "0s").output
    assert desk.post(calls)[0] == 0
    assert desk.notes() == ["Note 0", "Note 1", "Note 2"]


def test_refused_keys_end_the_run_with_3(desk: Desk, calls: Path) -> None:
    code, said = desk.post(calls, LEADPOST_SECRET_KEY="wrong")
    assert code == 3
    assert "The keys were rejected; nothing more was sent. See which: leadpost doctor" in said
    assert "3 not sent" in said
    assert "left. Run the same command again" not in said
    assert desk.post(calls)[0] == 0


def test_a_wrong_url_is_named(desk: Desk, calls: Path) -> None:
    code, said = desk.post(calls, LEADPOST_SUBMIT_PATH="/elsewhere")
    assert code == 1
    assert "The URL is wrong; nothing more was sent: " in said
    assert "LEADPOST_SUBMIT_PATH" in said


def test_a_host_that_is_not_there_is_named(desk: Desk, calls: Path) -> None:
    code, said = desk.post(calls, LEADPOST_HOST="http://127.0.0.1:9")
    assert code == 75
    assert "No connection: " in said
    assert "see LEADPOST_HOST or LEADPOST_REGION" in said


def test_an_outage_is_waited_for_and_then_ends_the_run_with_75(
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost.outbox._upkeep._EVERY", 0.5)
    write_csv(calls, [cells(n) for n in range(6)])
    with Sandbox(limit=None, faults=Faults(script=["ok", "away"], away=600)) as sandbox:
        desk.environment |= keys_of(sandbox)
        code, said = desk.post(calls, "--wait", "4s")
        assert code == 75
        assert "LeadSquared away since " in said
        assert "nothing more was sent. Run the same command again later" in said
        assert len(sandbox.posted()) >= 1
        shown = desk.run("outbox", "status").stdout
        assert "outage     LeadSquared is away since " in shown


@pytest.mark.parametrize(
    ("fault", "tokens", "why"),
    [
        ("429-retry-after", 9, "LeadSquared refused calls: paused until "),
        ("ok", 1, "The limit is used by an earlier run, or by another program"),
    ],
)
def test_a_run_says_why_nothing_is_sent(  # noqa: PLR0917  a table's columns
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch, fault: str, tokens: int, why: str
) -> None:
    def bucket(*_: object, hooks: Sequence[Hook], **__: object) -> TokenBucket:
        return TokenBucket(tokens, period=3.0, hooks=hooks)

    monkeypatch.setattr("leadpost.cli.files.sending.sender.SharedTokenBucket", bucket)
    monkeypatch.setattr("leadpost.cli.files.sending.sender._IDLE", 0.5)
    write_csv(calls, [cells(0), cells(1)])
    with Sandbox(limit=None, faults=Faults(script=[fault], retry_after=3)) as sandbox:
        desk.environment |= keys_of(sandbox)
        code, said = desk.post(calls)
    assert code == 0
    assert f"calls.csv: {why}" in said


def test_a_run_says_that_rows_of_a_killed_run_are_settled(
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost.cli.files.sending.sender._IDLE", 0.1)
    assert desk.post(calls)[0] == 0
    with closing(sqlite3.connect(desk.outbox)) as database, database:
        ends_by = time.time() + 3 - _calls.OVERDUE
        database.execute(
            "UPDATE leadpost_entries SET state = 'sending', ends_by = ? WHERE id = 1", (ends_by,)
        )
    write_csv(calls, [cells(n) for n in range(4)])
    code, said = desk.post(calls)
    assert code == 1
    assert "calls.csv: Settling 1 row of a run that was killed" in said
    assert sorted(desk.states(calls)) == [*["accepted"] * 3, "uncertain"]


def test_a_results_file_whose_name_a_folder_has_is_named(desk: Desk, calls: Path) -> None:
    results = calls.with_name("calls.csv.results.csv")
    results.mkdir()
    code, said = desk.post(calls)
    assert code == 1
    assert (
        f"{results} could not be written: Is a directory. Correct that, then:"
        f" leadpost results {calls}\n"
    ) in said
    assert "3 accepted, not yet processed" in said
    assert "Results: " not in said
    assert desk.notes() == ["Note 0", "Note 1", "Note 2"]
    assert desk.run("results", calls).exit_code == 1
    results.rmdir()
    assert desk.run("results", calls).exit_code == 0
    assert desk.states(calls) == ["accepted"] * 3


@pytest.mark.parametrize(
    ("number", "said", "code"),
    [
        (errno.EACCES, "Permission denied. Close it, then: ", 0),  # as Windows says it
        (errno.ENOSPC, "No space left on device. Make room, then: ", 1),
        (errno.EROFS, "Read-only file system. Make its folder writable, then: ", 1),
        (errno.EIO, "Input/output error. Correct that, then: ", 1),
    ],
)
def test_results_that_cannot_be_written_leave_those_before(  # noqa: PLR0917  a table's columns
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, code: int
) -> None:
    assert desk.post(calls)[0] == 0
    results = calls.with_name("calls.csv.results.csv")
    before = results.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/tmp/xyz.tmp")

    monkeypatch.setattr("leadpost.cli.files.reporting.outputs.NamedTemporaryFile", fail)
    write_csv(calls, [cells(n) for n in range(4)])
    ended, shown = desk.post(calls)
    assert ended == code
    assert f"{results} could not be written: {said}" in shown
    assert "4 accepted, not yet processed" in shown
    assert results.read_bytes() == before
    assert names(desk) == ["calls.csv", "calls.csv.results.csv"]


def test_results_of_a_file_that_was_never_posted(desk: Desk, calls: Path) -> None:
    other = write_csv(desk.folder / "other.csv", [cells(8)])
    assert desk.post(calls)[0] == 0
    done = desk.run("results", other)
    assert done.exit_code == 2
    assert "was never posted from this outbox (batch other.csv)" in done.output
    done = desk.run("results", calls, "--outbox", "missing.db")
    assert "there is no such outbox" in done.output


def test_temporary_files_of_a_killed_run_are_removed(desk: Desk, calls: Path) -> None:
    left = calls.with_name("calls.csv.results.csv.abc.tmp")
    left.write_text("left")
    assert desk.post(calls)[0] == 0
    assert not left.exists()


def test_empty_cells_are_sent_only_if_asked_for(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0, mx_Custom_1="", ActivityNote="")])
    assert desk.post(calls)[0] == 0
    assert desk.post(calls, "--send-empty", "--batch", "b", "--duplicates", "post")[0] == 0
    without, empty = desk.sandbox.posted()
    assert "Fields" not in without
    assert empty["Fields"] == [{"SchemaName": "mx_Custom_1", "Value": ""}]


def test_elsewhere_it_asks_at_a_terminal_or_needs_yes(
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost._account.Account.is_loopback", False)
    code, said = desk.post(calls)
    assert code == 2
    assert "There is no terminal to ask at: add --yes to post" in said
    assert desk.post(calls, "--yes")[0] == 0
    assert len(desk.notes()) == 3


@pytest.mark.parametrize(("answer", "sent"), [("y", 3), ("n", 0), ("", 0)])
def test_the_question_names_the_account(
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch, answer: str, sent: int
) -> None:
    monkeypatch.setattr("leadpost._account.Account.is_loopback", False)
    monkeypatch.setattr("leadpost.cli.files.posting.is_interactive", lambda: True)
    done = desk.run("post", calls, "--timezone", "UTC", stdin=f"{answer}\n")
    assert done.exit_code == (0 if sent else 2)
    assert re.search(
        r"Post 3 activities to 127\.0\.0\.1:\d+ \(access key …cess\)\? \[y/N\]", done.stderr
    )
    assert len(desk.notes()) == sent


@pytest.mark.parametrize(("answer", "code", "sent"), [("skip", 0, 3), ("post", 0, 4), ("", 2, 3)])
def test_possible_duplicates_are_asked_about_at_a_terminal(  # noqa: PLR0917  a table's columns
    desk: Desk, calls: Path, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, sent: int
) -> None:
    assert desk.post(calls)[0] == 0
    write_csv(calls, [cells(0, ActivityNote="edited"), cells(1), cells(2)])
    monkeypatch.setattr("leadpost.cli.files.posting.is_interactive", lambda: True)
    done = desk.run("post", calls, "--timezone", "UTC", stdin=f"{answer}\n")
    assert done.exit_code == code, done.output
    assert "[skip/post/stop]" in done.stderr
    assert len(desk.notes()) == sent


def test_a_run_at_a_terminal_shows_a_bar(desk: Desk, calls: Path) -> None:
    leader, follower = pty.openpty()
    process = start(
        ["-m", "leadpost.cli", "post", calls.name, "--timezone", "UTC"],
        os.environ | desk.environment | {"COLUMNS": "60", "TERM": "xterm"},
        desk.folder,
        stdin=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # all ends of the terminal are closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "3 of 3 to 127.0.0.1:" in text
    assert "3 accepted" in text
    assert "calls/s" in text


def test_what_leadsquared_quotes_stays_on_one_line(desk: Desk, calls: Path) -> None:
    quote: dict[str, Any] = {
        "Status": "Error",
        "ExceptionType": "MXOops",
        "ExceptionMessage": "a\nb",
    }
    answer = Answer(500, json.dumps(quote), {"content-type": "application/json"})
    desk.sandbox.fail(answer)
    assert desk.post(calls)[0] == 1
    message = next(r["message"] for r in desk.results(calls) if r["state"] == "rejected")
    assert "\n" not in message
    assert "a b" in message
