"""`leadpost outbox`, `work`, `verify` and `reconcile`, against a sandbox over a real socket."""

import asyncio
import json
import signal
import sqlite3
import subprocess
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_support import (
    LONG,
    keys_of,
    lead,
    payload,
    pressing,
    read_csv,
    read_jsonl,
    record,
    run,
    start,
    states_in,
    until,
    write_csv,
    write_rows,
)
from rich.console import Console

from leadpost import Activity
from leadpost.cli import outbox_status
from leadpost.cli.outbox_commands import span
from leadpost.cli.outbox_url import shown_url
from leadpost.cli.outputs import Result
from leadpost.cli.rows import Row
from leadpost.errors import OutboxUnavailable, UnexpectedAnswer
from leadpost.outbox import Entry, Outbox
from leadpost.sandbox import Answer, Faults, Sandbox, request_id_of

PASSWORD = "PASSWORD-0123456789"


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def put(path: Path, *activities: dict[str, Any]) -> None:
    async def putting() -> None:
        async with Outbox(url_of(path)) as outbox:
            await outbox.put_many(activities, keys=[f"call-{n}" for n in range(len(activities))])

    asyncio.run(putting())


def ended(path: Path, script: list[str | Answer], count: int, *, code: int = 1) -> Path:
    """Post so many rows to a sandbox that answers by a script, and give the outbox."""
    file = write_rows(path / "leads.csv", count)
    with Sandbox(limit=None, pace=1000, faults=Faults(script=script)) as sandbox:
        assert run("post", file, env=keys_of(sandbox)).exit_code == code
    return path / "leads.csv.outbox.db"


@pytest.fixture
def outbox(tmp_path: Path) -> Path:
    """One with an accepted, a rejected and an uncertain entry, in this order, and a pending one."""
    path = tmp_path / "leadpost.db"
    put(path, *map(payload, range(4)))
    states = ("accepted", None), ("rejected", "BadRequest"), ("uncertain", "DeliveryUncertain")
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, (state, error) in enumerate(states, 1):
            connection.execute(
                "UPDATE leadpost_entries SET state = ?, error_type = ?, message = ?, calls = 1,"
                " request_id = ?, sent_at = put_at WHERE id = ?",
                (state, error, error and "no\nway", None if error else "r-1", number),
            )
    return path


def test_the_status_of_an_outbox(outbox: Path) -> None:
    result = run("outbox", "--outbox", outbox)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("pending           1   the oldest for ")
    assert lines[2] == "accepted          1"
    assert "time left  0 s at 25 calls per 5 s; nobody posts now" in lines
    found = json.loads(run("outbox", "--json", env={"LEADPOST_OUTBOX": url_of(outbox)}).stdout)
    assert 0 <= found.pop("oldest_pending_seconds") < 600
    assert found == {
        "pending": 1,
        "sending": 0,
        "accepted": 1,
        "succeeded": 0,
        "failed": 0,
        "rejected": 1,
        "uncertain": 1,
        "calls_per_second": 0.0,
        "seconds_left": 0.2,
    }


def test_the_status_while_somebody_posts(tmp_path: Path) -> None:
    path = ended(tmp_path, [], 20, code=0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE leadpost_changes SET at = at + 1000")  # however slow this is
    shown = run("outbox", "--outbox", path).stdout
    assert "oldest" not in shown
    assert "calls/s         2.0" in shown
    assert shown.endswith("time left  0 s\n")


def test_watching_ends_with_ctrl_c(outbox: Path, tmp_path: Path) -> None:
    process = start(["outbox", "--watch", "--json", "--outbox", outbox], {}, tmp_path)
    until(lambda: (tmp_path / "stdout").read_text().count("\n") >= 2)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert [line["pending"] for line in read_jsonl(tmp_path / "stdout")[:2]] == [1, 1]
    assert (tmp_path / "stderr").read_text() == ""


@pytest.mark.parametrize("is_terminal", [False, True])
def test_watching_goes_on_while_the_database_is_away(
    outbox: Path, monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    looks = iter([None, OutboxUnavailable("away for now"), KeyboardInterrupt()])
    look = outbox_status.Status.of

    async def looked(at: Outbox) -> outbox_status.Status:
        error = next(looks)
        if error is not None:
            raise error
        return await look(at)

    def console() -> Console:
        return Console(force_terminal=is_terminal, width=90, no_color=True)

    monkeypatch.setattr(outbox_status.Status, "of", looked)
    monkeypatch.setattr(outbox_status, "Console", console)
    monkeypatch.setattr(outbox_status, "_EVERY", 0.01)
    result = run("outbox", "--watch", "--outbox", outbox)
    assert result.exit_code == 0
    assert "uncertain         1" in result.stdout
    assert "away for now" in result.stdout


def test_the_entries_are_listed_without_their_activities(outbox: Path) -> None:
    result = run("outbox", "list", "--outbox", outbox)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second, _, last = result.stdout.splitlines()
    assert first.startswith("     1  accepted   1 call  20")
    assert first.endswith("Z  call-0  r-1")
    assert second.endswith("Z  call-1  no way")
    assert last.startswith("     4  pending    0 calls  20")
    uncertain = run("outbox", "list", "--state", "uncertain", "--json", "--outbox", outbox)
    found = json.loads(uncertain.stdout)
    assert found.pop("changed_at").endswith("+00:00")
    assert found == {
        "id": 3,
        "key": "call-2",
        "state": "uncertain",
        "calls": 1,
        "request_id": None,
        "activity_id": None,
        "error_type": "DeliveryUncertain",
        "message": "no\nway",
    }
    assert "Note" not in result.output + uncertain.output


@pytest.mark.parametrize(
    ("args", "pending", "told", "left"),
    [
        (["--state", "rejected"], 2, "1 pending again\n", ""),
        (["--state", "uncertain", "--yes"], 2, "1 pending again\n", ""),
        (["--id", "2", "--id", "3"], 2, "1 pending again\n", "failed or rejected\n"),
        (["--id", "2", "--id", "3", "--yes"], 3, "2 pending again\n", ""),
        (["--id", "1"], 1, "0 pending again\n", "1 left as they are: not there, or not failed"),
    ],
)
def test_entries_are_posted_again(
    outbox: Path, args: list[str], pending: int, told: str, left: str
) -> None:
    result = run("outbox", "--outbox", outbox, "retry", *args)
    assert (result.exit_code, result.stdout) == (0, told)
    assert left in result.stderr
    assert bool(left) == bool(result.stderr)
    assert states_in(outbox)["pending"] == pending


@pytest.mark.parametrize(
    ("args", "told"),
    [([], "give --state or --id"), (["--state", "uncertain"], "would be posted twice")],
)
def test_what_may_have_arrived_is_not_posted_again_by_mistake(
    outbox: Path, args: list[str], told: str
) -> None:
    result = run("outbox", "retry", "--outbox", outbox, *args)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.split())
    assert states_in(outbox)["pending"] == 1


def test_a_password_is_not_shown() -> None:
    shown = shown_url(f"postgresql+asyncpg://u:{PASSWORD}@host/x")
    assert shown == "postgresql+asyncpg://u:***@host/x"


def test_an_outbox_is_exported(outbox: Path, tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    result = run("outbox", "export", path, "--outbox", outbox)
    assert (result.exit_code, result.stdout) == (0, f"{path}: 4 entries\n")
    rows = read_csv(path)
    assert rows[1] == {
        "id": "2",
        "key": "call-1",
        "state": "rejected",
        "request_id": "",
        "activity_id": "",
        "calls": "1",
        "error_type": "BadRequest",
        "message": "no\nway",
    }
    again = run("outbox", "export", path, "--outbox", outbox)
    assert again.exit_code == 2
    assert again.stderr == f"error: {path}: there already; --force replaces\n"
    assert run("outbox", "export", path, "--force", "--outbox", outbox).exit_code == 0
    assert read_csv(path) == rows


def test_old_entries_are_deleted(outbox: Path) -> None:
    assert run("outbox", "prune", "--older-than", "1d", "--outbox", outbox).stdout == (
        "0 entries deleted\n"
    )
    result = run("outbox", "prune", "--older-than", "0s", "--outbox", outbox)
    assert result.stdout == "1 entries deleted\n"
    assert states_in(outbox) == {"accepted": 1, "uncertain": 1, "pending": 1}


def test_lengths_of_time() -> None:
    assert [span(text) for text in ("30d", "12h", "90m", "5s")] == [
        timedelta(days=30),
        timedelta(hours=12),
        timedelta(minutes=90),
        timedelta(seconds=5),
    ]
    for text in ("30", "d", "1w", "-1d", "1.5h"):
        with pytest.raises(typer.BadParameter):
            span(text)


COMMANDS = [
    ["outbox"],
    ["outbox", "list"],
    ["outbox", "retry", "--state", "failed"],
    ["outbox", "export", "out.csv"],
    ["outbox", "prune", "--older-than", "1d"],
    ["verify"],
    ["reconcile"],
    ["work"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_outbox_that_cannot_be_used_is_one_line_of_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("no database at all, " * 100)
    with Sandbox() as sandbox:
        env = keys_of(sandbox)
    for url, wanted in (
        (f"postgresql+asyncpg://u:{PASSWORD}@127.0.0.1:9/x", "no connection"),
        (f"mysql://u:{PASSWORD}@127.0.0.1:9/x", "wanted sqlite+aiosqlite:///FILE"),
        ("text.db", "is no SQLite database"),
        ("missing/x.db", "there is no such outbox" if command != ["work"] else "No such file"),
    ):
        for given in ([*command, "--outbox", url], command):
            result = run(*given, env=env if given != command else env | {"LEADPOST_OUTBOX": url})
            assert result.exit_code == 2
            assert result.stderr.startswith("error: ")
            assert result.stderr.count("\n") == 1
            assert wanted in result.stderr
            assert PASSWORD not in result.output
    assert [file.name for file in tmp_path.iterdir()] == ["text.db"]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_outbox_has_to_be_named(command: list[str]) -> None:
    result = run(*command, env={"LEADPOST_OUTBOX": ""})
    assert result.exit_code == 2
    assert "--outbox" in result.stderr


@contextmanager
def worker(
    directory: Path, sandbox: Sandbox, *args: object, **env: str
) -> Generator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, on DIRECTORY/leadpost.db."""
    variables = {**keys_of(sandbox), "LEADPOST_OUTBOX": str(directory / "leadpost.db"), **env}
    process = start(["work", *args], variables, directory)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(directory: Path) -> str:
    return (directory / "stderr").read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_posts_and_verifies_until_it_is_told_to_end(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = tmp_path / "leadpost.db"
    put(path, payload(0))
    with Sandbox(pace=1000) as sandbox, worker(tmp_path, sandbox) as process:
        until(lambda: len(sandbox.taken) == 1)
        put(path, payload(0), payload(1))  # the first one is known
        until(lambda: states_in(path)["succeeded"] == 2)
        process.send_signal(number)
        assert process.wait() == code
    assert [taken.request_id for taken in sandbox.taken] == [
        request_id_of(payload(n)) for n in range(2)
    ]
    lines = said(tmp_path).splitlines()
    assert lines[0].endswith(f"INFO working off <Outbox {url_of(path)}>, until SIGTERM")
    assert lines[-1].endswith(f"INFO ended by {number.name}")
    assert all(line.startswith("20") for line in lines)
    assert not any(word in said(tmp_path) for word in ("HTTP", sandbox.secret_key, "Traceback"))


def test_a_worker_ends_although_a_call_does_not(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    put(path, payload(0))
    slow = Faults(script=["slow"], slow=600)
    with Sandbox(faults=slow) as sandbox, worker(tmp_path, sandbox, "--no-verify") as process:
        until(lambda: states_in(path)["sending"] == 1 and len(sandbox.taken) == 1)
        process.terminate()
        assert process.wait(LONG) == 0
    assert states_in(path) == {"uncertain": 1}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """Verifying goes wrong at first, and that keeps nothing from being posted."""
    path = tmp_path / "leadpost.db"
    put(path, payload(0), payload(1))
    monkeypatch.setattr("leadpost.cli.work._LATER", 0.01)
    verify = Outbox.verify
    tries = 0

    async def fickle(self: Outbox, *args: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise UnexpectedAnswer("not to be read")
        return await verify(self, *args, **options)

    monkeypatch.setattr(Outbox, "verify", fickle)
    with Sandbox(pace=1000) as sandbox:
        thread = pressing(lambda: states_in(path)["succeeded"] == 2, number)
        result = run("work", "--outbox", path, env=keys_of(sandbox))
        thread.join()
    assert result.exit_code == code
    assert "ERROR not verified: not to be read (at http" in result.stderr


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"LEADPOST_SECRET_KEY": "wrong"}, 3, "error: HTTP 401"),
        ({"LEADPOST_SUBMIT_PATH": "/elsewhere"}, 1, "and LEADPOST_SUBMIT_PATH)\n"),
    ],
)
def test_a_worker_whose_calls_are_refused_ends(
    tmp_path: Path, changes: dict[str, str], code: int, told: str
) -> None:
    path = tmp_path / "leadpost.db"
    put(path, payload(0))
    with Sandbox() as sandbox:
        result = run("work", "--no-verify", "--outbox", path, env=keys_of(sandbox) | changes)
    assert result.exit_code == code
    assert told in result.stderr
    assert states_in(path) == {"pending": 1}


def test_accepted_entries_are_verified(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    file = write_csv(tmp_path / "leads.csv", [record(0), record(1, ActivityEvent="999")])
    with Sandbox(limit=None, pace=1000) as sandbox:
        env = keys_of(sandbox)
        assert run("post", file, "--outbox", path, env=env).exit_code == 0
        first = run("verify", "--outbox", path, env=env)
        assert (first.exit_code, first.stdout) == (1, "1 succeeded, 1 failed\n")
        again = run("verify", "--outbox", path, "--json", env=env)
        assert (again.exit_code, json.loads(again.stdout)) == (0, {"succeeded": 0, "failed": 0})
        # What LeadSquared could not work off is told by the file's results from then on.
        result = run("post", file, "--outbox", path, env=env)
    assert result.exit_code == 1
    assert "1 accepted, 0 rejected, 0 uncertain, 1 failed" in result.stdout
    assert "1 to correct and post again" in result.stdout
    (reject,) = read_csv(tmp_path / "leads.csv.rejects.csv")
    assert reject["leadpost_reason"].startswith("MXInvalidActivityException")
    (failed,) = [r for r in read_csv(tmp_path / "leads.csv.results.csv") if r["state"] == "failed"]
    assert failed["request_id"]


def test_a_status_api_that_is_elsewhere_is_told(outbox: Path) -> None:
    with Sandbox() as sandbox:
        env = keys_of(sandbox) | {"LEADPOST_STATUS_PATH": "/elsewhere"}
        result = run("verify", "--outbox", outbox, env=env)
    assert result.exit_code == 1
    assert result.stderr.endswith("and LEADPOST_STATUS_PATH)\n")


def test_uncertain_entries_are_reconciled(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    store = tmp_path / "leads.csv.outbox.db"
    faults = Faults(script=["cut-after", "504-before"])
    with Sandbox(limit=None, pace=1000, faults=faults) as sandbox:
        env = keys_of(sandbox)
        assert run("post", path, env=env).exit_code == 1
        assert states_in(store) == {"uncertain": 2}
        until(lambda: sandbox.report().pending == 0)
        result = run("reconcile", "--outbox", store, env=env)
        assert (result.exit_code, result.stdout) == (1, "1 accepted, 0 pending, 1 uncertain\n")
        found = run("reconcile", "--outbox", store, "--settle", "0s", "--json", env=env)
        assert (found.exit_code, json.loads(found.stdout)) == (
            0,
            {"accepted": 0, "pending": 1, "uncertain": 0},
        )
        assert run("post", path, env=env).exit_code == 0
        assert (len(sandbox.taken), sandbox.report().duplicates) == (2, 0)
    assert not (tmp_path / "leads.csv.uncertain.csv").exists()


def test_two_files_in_one_outbox_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    names = "leads.csv", "Leads.csv", "leads.csv2"
    files = [
        write_csv(tmp_path / name, [record(10 * place + n) for n in range(place + 1)])
        for place, name in enumerate(names)
    ]
    with Sandbox(limit=None) as sandbox:
        for file in files:
            assert run("post", file, "--outbox", path, env=keys_of(sandbox)).exit_code == 0
        for file in files:
            result = run("post", file, "--outbox", path, env=keys_of(sandbox))
            assert result.exit_code == 0
        assert len(sandbox.taken) == 6
    assert len(read_csv(tmp_path / "Leads.csv.results.csv")) == 2


def test_one_that_is_pending_again_after_a_doubt_is_in_doubt_still() -> None:
    moment = datetime.now(UTC)
    entry = Entry(1, "1", 0, "pending", {}, moment, moment, 1, None, None, "DeliveryUncertain", "?")
    row = Row(2, (), Activity(lead(0), 201))
    assert Result.of(row, entry) == Result("uncertain", "", "DeliveryUncertain", "?")
