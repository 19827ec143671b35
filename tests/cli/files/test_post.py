"""`leadpost post`: what is shown, asked, written and returned."""

from __future__ import annotations

import json
import os
import pty
import re
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from files_support import Desk, cells, lead, read_csv, write_csv
from processes import start

from leadpost.cli.files.comparing.ledger import Ledger
from leadpost.cli.files.sending import entries
from leadpost.sandbox import Answer


@pytest.fixture
def calls(desk: Desk) -> Path:
    return write_csv(desk.folder / "calls.csv", [cells(n) for n in range(3)])


def test_all_accepted(desk: Desk, calls: Path) -> None:
    code, said = desk.post(calls)
    assert code == 0
    assert "3 accepted, not yet processed" in said
    assert "Results: " in said
    assert "leadpost verify" in said.splitlines()[-1]
    assert desk.files() == ["calls.csv", "calls.csv.results.csv"]
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


def test_first_posts_some_rows_and_the_next_run_goes_on(desk: Desk, calls: Path) -> None:
    code, said = desk.post(calls, "--first", "2")
    assert code == 0
    assert "2 new, 1 left for the next run" in said
    assert desk.notes() == ["Note 0", "Note 1"]
    assert desk.states(calls) == ["accepted", "accepted", "not_sent"]
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


def test_standard_input(desk: Desk, calls: Path) -> None:
    text = calls.read_text()
    done = desk.run("post", "-", "--timezone", "UTC", stdin=text)
    assert done.exit_code == 0, done.output
    assert desk.files() == ["calls.csv", "stdin.results.csv"]
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
    assert desk.files() == ["calls.csv", "calls.csv.results.csv"]
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


def test_results_of_a_file_that_was_never_posted(desk: Desk, calls: Path) -> None:
    other = write_csv(desk.folder / "other.csv", [cells(8)])
    assert desk.post(calls)[0] == 0
    done = desk.run("results", other)
    assert done.exit_code == 2
    assert "was never posted from this outbox (batch other.csv)" in done.output
    done = desk.run("results", calls, LEADPOST_ACCOUNT="acme")  # whose rows these are not
    assert "was never posted from this outbox (batch calls.csv)" in done.output
    done = desk.run("results", calls, "--outbox", "missing.db")
    assert "there is no such outbox" in done.output


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
