"""Runs that end early, and what they say: wrong keys or URLs, outages, results that fail."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from files_support import Desk, cells, keys_of, write_csv

from leadpost import TokenBucket
from leadpost.hooks import Hook
from leadpost.outbox.database import _calls
from leadpost.sandbox import Faults, Sandbox


@pytest.fixture
def calls(desk: Desk) -> Path:
    return write_csv(desk.folder / "calls.csv", [cells(n) for n in range(3)])


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
    assert "(at http://127.0.0.1:9: see leadpost doctor)" in said


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
        f"{results} could not be written: Is a directory. Fix that, then:"
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
        (errno.ENOSPC, "No space left on device. Fix that, then: ", 1),
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
    assert desk.files() == ["calls.csv", "calls.csv.results.csv"]


def test_temporary_files_of_a_killed_run_are_removed(desk: Desk, calls: Path) -> None:
    """But not those that another run is writing now, of the same user or of another."""
    with subprocess.Popen(["true"]) as killed:
        pass
    ids = ("abc", killed.pid, os.getpid(), 1)
    left = [calls.with_name(f"calls.csv.results.csv.{id_}.x.tmp") for id_ in ids]
    for path in left:
        path.write_text("left")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "kill", kill_as_another_user)
        assert desk.post(calls)[0] == 0
    assert [path.exists() for path in left] == [False, False, True, True]


def kill_as_another_user(process_id: int, number: int, kill: Any = os.kill) -> None:
    if process_id == 1:
        raise PermissionError
    kill(process_id, number)
