"""A run that is interrupted or killed: no RequestID is lost, nothing is told that is not so."""

import asyncio
import errno
import os
import signal
import subprocess
from collections import Counter
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_support import keys_of, read_csv, run, start, until, write_rows
from support import accepted as accepted_answer

from leadpost import AsyncActivityPoster
from leadpost.cli.interrupt import on_interrupt
from leadpost.sandbox import Faults, Sandbox, Taken

ROWS = 300
ANSWERED = 10


def sandbox_of(slow: float) -> Sandbox:
    """Answer ten posts at once and the others late."""
    script = ["ok"] * ANSWERED + ["slow"] * ROWS
    return Sandbox(faults=Faults(script=script, slow=slow))


def accepted(directory: Path) -> list[str]:
    rows = read_csv(directory / "leads.csv.results.csv")
    return [row["request_id"] for row in rows if row["state"] == "accepted"]


def ids(taken: list[Taken]) -> list[str]:
    return [one.request_id for one in taken]


def under_way(directory: Path, sandbox: Sandbox) -> subprocess.Popen[bytes]:
    """Start a run and wait until ten rows are answered and others are under way."""
    write_rows(directory / "leads.csv", ROWS)
    process = start(["post", "leads.csv"], keys_of(sandbox), directory)
    results = directory / "leads.csv.results.csv"
    until(lambda: len(sandbox.taken) > ANSWERED)
    until(lambda: results.read_bytes().count(b"\n") >= 1 + ANSWERED)
    return process


def said(directory: Path) -> str:
    return (directory / "stderr").read_text()


def test_a_killed_run_has_every_request_id_on_disk(tmp_path: Path) -> None:
    with sandbox_of(slow=600) as sandbox:
        process = under_way(tmp_path, sandbox)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert sorted(accepted(tmp_path)) == sorted(ids(sandbox.taken[:ANSWERED]))


def test_ctrl_c_waits_for_the_calls_under_way(tmp_path: Path) -> None:
    with sandbox_of(slow=1.5) as sandbox:
        process = under_way(tmp_path, sandbox)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert sorted(accepted(tmp_path)) == sorted(ids(sandbox.taken))
    results = read_csv(tmp_path / "leads.csv.results.csv")
    assert [row["line"] for row in results] == [str(number + 2) for number in range(ROWS)]
    left = ROWS - len(sandbox.taken)
    assert Counter(row["state"] for row in results) == {
        "accepted": len(sandbox.taken),
        "not_sent": left,
    }
    assert len(read_csv(tmp_path / "leads.csv.rejects.csv")) == left
    assert f"interrupted: {left} of {ROWS} rows were not sent" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with sandbox_of(slow=600) as sandbox:
        process = under_way(tmp_path, sandbox)
        process.send_signal(signal.SIGINT)
        until(lambda: "stopping" in said(tmp_path))
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        taken = {one.payload["RelatedProspectId"] for one in sandbox.taken[ANSWERED:]}
        assert sorted(accepted(tmp_path)) == sorted(ids(sandbox.taken[:ANSWERED]))
    results = read_csv(tmp_path / "leads.csv.results.csv")
    assert [row["line"] for row in results] == [str(number + 2) for number in range(ROWS)]
    uncertain = read_csv(tmp_path / "leads.csv.uncertain.csv")
    assert taken <= {row["RelatedProspectId"] for row in uncertain}
    assert uncertain[0]["leadpost_reason"] == "stopped before its answer"
    left = ROWS - ANSWERED - len(uncertain)
    assert len(read_csv(tmp_path / "leads.csv.rejects.csv")) == left
    assert f"interrupted: {left} of {ROWS} rows were not sent" in said(tmp_path)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    path = write_rows(tmp_path / "leads.csv", ROWS)
    path.write_text(path.read_text() + "too,few\n")
    with sandbox_of(slow=600 if times > 1 else 0.5) as sandbox:

        def pressing(self: Any) -> None:
            """Press Ctrl-C when ten rows are done."""
            if self._tally.done == ANSWERED:
                os.kill(os.getpid(), signal.SIGINT)
                if times > 1:
                    loop = asyncio.get_running_loop()
                    loop.call_later(0.2, os.kill, os.getpid(), signal.SIGINT)

        monkeypatch.setattr("leadpost.cli.progress._Lines.changed", pressing)
        result = run("post", path, "--skip-invalid", env=keys_of(sandbox))
        assert result.exit_code == 130
        assert "stopping: waiting for the calls under way" in result.stderr
        done = sandbox.taken if times == 1 else sandbox.taken[:ANSWERED]
        assert sorted(accepted(tmp_path)) == sorted(ids(done))


def test_what_is_answered_is_recorded_before_a_second_ctrl_c_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "leads.csv", ROWS)
    all_there = asyncio.Event()
    calls = count(1)

    async def answer(request: httpx.Request) -> httpx.Response:
        """Answer 24 of 25 posts at one moment, and the last one never."""
        del request
        call = next(calls)
        if call == 25:
            all_there.set()
            await asyncio.Event().wait()
        await all_there.wait()
        return accepted_answer(call)

    def pressing(self: Any) -> None:
        if self._tally.done == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    poster = partial(AsyncActivityPoster, client=client)
    monkeypatch.setattr("leadpost.cli.post.AsyncActivityPoster", poster)
    monkeypatch.setattr("leadpost.cli.progress._Lines.changed", pressing)
    with Sandbox() as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 130
    states = Counter(row["state"] for row in read_csv(tmp_path / "leads.csv.results.csv"))
    assert states == {"accepted": 24, "uncertain": 1, "not_sent": ROWS - 25}


async def test_where_the_event_loop_knows_no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", unknown)
    pressed = asyncio.Event()
    before = signal.getsignal(signal.SIGINT)
    with on_interrupt(pressed.set):
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.wait_for(pressed.wait(), 60)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(rows: object) -> None:
        del rows
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
