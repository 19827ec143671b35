"""A run that is interrupted, terminated or killed, and what the next one makes of it."""

import asyncio
import errno
import os
import re
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from cli_support import (
    UTC_ASSUMED,
    keys_of,
    payload,
    read_csv,
    run,
    start,
    states_in,
    until,
    write_rows,
)

from leadpost.cli.interrupt import on_signals
from leadpost.errors import OutboxError
from leadpost.outbox import Outbox
from leadpost.sandbox import Faults, Sandbox, Taken, request_id_of

ROWS = 40
ANSWERED = 10
BURST = 25


def sandbox_of(slow: float) -> Sandbox:
    """Answer ten posts at once, the others of the first burst late, and all later ones at once."""
    script = ["ok"] * ANSWERED + ["slow"] * (BURST - ANSWERED)
    return Sandbox(faults=Faults(script=script, slow=slow))


def results(directory: Path) -> list[dict[str, str]]:
    return read_csv(directory / "leads.csv.results.csv")


def accepted(directory: Path) -> list[str]:
    return [row["request_id"] for row in results(directory) if row["state"] == "accepted"]


def ids(taken: list[Taken]) -> list[str]:
    return [one.request_id for one in taken]


def begun(directory: Path, sandbox: Sandbox) -> subprocess.Popen[bytes]:
    return start(["post", "leads.csv"], keys_of(sandbox), directory)


def under_way(directory: Path, sandbox: Sandbox) -> subprocess.Popen[bytes]:
    """Start a run and wait until ten rows are answered and the rest of the burst is under way."""
    write_rows(directory / "leads.csv", ROWS)
    process = begun(directory, sandbox)
    until(lambda: len(sandbox.taken) >= BURST)
    until(lambda: states_in(directory / "leads.csv.outbox.db")["accepted"] >= ANSWERED)
    return process


def said(directory: Path) -> str:
    return (directory / "stderr").read_text()


def test_a_killed_run_is_gone_on_with(tmp_path: Path) -> None:
    with sandbox_of(slow=600) as sandbox:
        process = under_way(tmp_path, sandbox)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert begun(tmp_path, sandbox).wait() == 1
        assert sandbox.report().duplicates == 0
        assert sandbox.report().refused == 0
        assert len(sandbox.taken) == ROWS
    undisturbed = [
        {
            "line": str(number + 2),
            "key": f"leads.csv:{number}",
            "state": "accepted",
            "request_id": request_id_of(payload(number)),
            "version": ANY,
            "activity_id": "",
            "error_type": "",
            "message": "",
        }
        for number in range(ROWS)
    ]
    found = results(tmp_path)
    assert [row["line"] for row in found] == [row["line"] for row in undisturbed]
    other = [row for row, wanted in zip(found, undisturbed, strict=True) if row != wanted]
    assert {row["state"] for row in other} == {"uncertain"}
    # Those that were under way, of which nobody knows: the late ones, on a fast machine.
    assert BURST - ANSWERED <= len(other) <= BURST
    assert len(read_csv(tmp_path / "leads.csv.uncertain.csv")) == len(other)
    assert re.search(r"going on: \d\d of 40 rows were done before", said(tmp_path))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_the_calls_under_way(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with sandbox_of(slow=1.5) as sandbox:
        process = under_way(tmp_path, sandbox)
        process.send_signal(number)
        assert process.wait() == code
        assert sorted(accepted(tmp_path)) == sorted(ids(sandbox.taken))
        left = ROWS - len(sandbox.taken)
        states = Counter(row["state"] for row in results(tmp_path))
        assert states == Counter(accepted=len(sandbox.taken), not_sent=left)
        assert f"interrupted: {left} of {ROWS} rows were not sent" in said(tmp_path)
        assert "Traceback" not in said(tmp_path)
        hint = f"{left} rows not sent: run the same command again to go on where it stopped"
        assert hint in (tmp_path / "stdout").read_text()
        # Not rejects: they are still in the outbox, and would be posted twice.
        assert not (tmp_path / "leads.csv.rejects.csv").exists()
        assert begun(tmp_path, sandbox).wait() == 0
        assert sandbox.report().duplicates == 0
    assert accepted(tmp_path) == [request_id_of(payload(n)) for n in range(ROWS)]


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with sandbox_of(slow=600) as sandbox:
        process = under_way(tmp_path, sandbox)
        process.send_signal(signal.SIGINT)
        until(lambda: "stopping" in said(tmp_path))
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert set(accepted(tmp_path)) >= set(ids(sandbox.taken[:ANSWERED]))
        late = {one.payload["RelatedProspectId"] for one in sandbox.taken[ANSWERED:BURST]}
    uncertain = read_csv(tmp_path / "leads.csv.uncertain.csv")
    assert {row["RelatedProspectId"] for row in uncertain} >= late
    assert len(results(tmp_path)) == ROWS


def test_ctrl_c_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "leads.csv", ROWS)
    path.write_text(path.read_text() + "too,few\n")
    with sandbox_of(slow=0.5) as sandbox:

        def pressing(self: Any) -> None:
            """Press Ctrl-C twice when the first burst is done; what is answered is on disk."""
            if self._tally.counts["accepted"] >= BURST:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr("leadpost.cli.progress._Lines.changed", pressing)
        result = run("post", path, "--skip-invalid", env=keys_of(sandbox))
        assert result.exit_code == 130
        assert "stopping: waiting for the calls under way" in result.stderr
        assert set(ids(sandbox.taken[:BURST])) <= set(accepted(tmp_path))
    assert results(tmp_path)[-1]["error_type"] == "InvalidActivity"


def test_a_run_that_ends_while_it_fills_the_outbox_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "leads.csv", 6)
    put_many = Outbox.put_many
    parts = 0

    async def put_some(self: Outbox, *args: Any, **options: Any) -> int:
        nonlocal parts
        parts += 1
        if parts == 3:
            raise KeyboardInterrupt
        return await put_many(self, *args, **options)

    monkeypatch.setattr("leadpost.cli.file_entries._PART", 2)
    monkeypatch.setattr(Outbox, "put_many", put_some)
    with Sandbox() as sandbox:
        result = run("post", path, env=keys_of(sandbox))
        assert (result.exit_code, result.stderr) == (130, f"{UTC_ASSUMED}interrupted\n")
        assert sandbox.report().arrivals == 0
        assert states_in(tmp_path / "leads.csv.outbox.db") == {"pending": 4}
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        assert len(sandbox.taken) == 6
    assert accepted(tmp_path) == [request_id_of(payload(n)) for n in range(6)]


def test_two_runs_of_a_file_share_the_work(tmp_path: Path) -> None:
    write_rows(tmp_path / "leads.csv", ROWS)
    other = tmp_path / "other"
    other.mkdir()
    with Sandbox(delay=(0.01, 0.05)) as sandbox:
        runs = [
            start(["post", tmp_path / "leads.csv", "--json"], keys_of(sandbox), where)
            for where in (tmp_path, other)
        ]
        assert [process.wait() for process in runs] == [0, 0]
        assert (len(sandbox.taken), sandbox.report().refused) == (ROWS, 0)
    assert accepted(tmp_path) == [request_id_of(payload(n)) for n in range(ROWS)]
    names = {file.name for file in tmp_path.iterdir() if file.name.startswith("leads")}
    assert names == {"leads.csv", "leads.csv.outbox.db", "leads.csv.results.csv"}


def test_what_another_run_is_posting_is_not_known_when_this_one_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    store = tmp_path / "leads.csv.outbox.db"

    def pressing(self: Any) -> None:
        if self._tally.counts["accepted"] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("leadpost.cli.progress._Lines.changed", pressing)
    with Sandbox() as sandbox:
        wrong = keys_of(sandbox) | {"LEADPOST_SECRET_KEY": "wrong"}
        assert run("post", path, env=wrong).exit_code == 3  # both are pending
        with closing(sqlite3.connect(store)) as connection, connection:
            ends = time.time() + 1000
            connection.execute("INSERT INTO leadpost_workers VALUES ('other', ?)", [ends])
            mark = "UPDATE leadpost_entries SET state = 'sending', owner = 'other' WHERE id = 2"
            connection.execute(mark)
        assert run("post", path, env=keys_of(sandbox)).exit_code == 130
    last = results(tmp_path)[1]
    assert (last["state"], last["message"]) == ("uncertain", "another run is posting it")


@pytest.mark.parametrize("error", [OutboxError("gone"), TypeError("a mistake")])
def test_a_run_whose_outbox_fails_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def failing(*args: object) -> None:
        del args
        raise error

    monkeypatch.setattr(Outbox, "drain", failing)
    path = write_rows(tmp_path / "leads.csv", 1)
    with Sandbox() as sandbox:
        result = run("post", path, env=keys_of(sandbox))
    if isinstance(error, OutboxError):
        assert (result.exit_code, result.stderr) == (2, f"{UTC_ASSUMED}error: gone\n")
    else:
        assert result.exception is error


async def test_where_the_event_loop_knows_no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", unknown)
    pressed: asyncio.Queue[signal.Signals] = asyncio.Queue()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with on_signals(pressed.put_nowait):
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            assert await asyncio.wait_for(pressed.get(), 60) is number
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_ctrl_c_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        del args
        raise KeyboardInterrupt

    monkeypatch.setattr("leadpost.cli.post.checked", interrupted)
    result = run("post", __file__, "--format", "json", "--dry-run")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_a_reader_that_goes_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(env_file: object) -> None:
        del env_file
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("leadpost.cli.keys.read_account", gone)
    result = run("metrics")
    assert (result.exit_code, result.stderr) == (1, "")
