"""`leadpost outbox`, `verify` and `reconcile`, against a sandbox over a real socket."""

import asyncio
import json
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from cli_support import (
    keys_of,
    lead,
    put,
    read_csv,
    read_jsonl,
    record,
    run,
    start,
    states_in,
    until,
    url_of,
    write_csv,
    write_rows,
)
from rich.console import Console

from leadpost import Activity
from leadpost.cli import outbox_status
from leadpost.cli.outbox_commands import span
from leadpost.cli.outbox_url import shown_url
from leadpost.cli.results import Posted, Result
from leadpost.cli.rows import Row
from leadpost.cli.versions import Version
from leadpost.errors import OutboxUnavailable
from leadpost.outbox import Entry, Outbox
from leadpost.sandbox import Answer, Faults, Sandbox

PASSWORD = "PASSWORD-0123456789"


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
    put(url_of(path), *range(4))
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
    assert lines[-2:] == ["workers           0", "time left  0 s at 25 calls per 5 s"]
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
        "workers": 0,
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
    away = f"postgresql+asyncpg://u:{PASSWORD}@127.0.0.1:9/x"
    for url, wanted in (
        *([(away, "no connection")] if command != ["work"] else []),  # which waits for it
        (f"mysql://u:{PASSWORD}@127.0.0.1:9/x", "wanted sqlite:///FILE"),
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


def test_accepted_entries_are_verified(tmp_path: Path) -> None:
    path = tmp_path / "leadpost.db"
    file = write_csv(tmp_path / "leads.csv", [record(0), record(1, ActivityEvent="999")])
    with Sandbox(limit=None, pace=1000) as sandbox:
        env = keys_of(sandbox)
        assert run("post", file, "--outbox", path, env=env).exit_code == 0
        first = run("verify", "--outbox", path, env=env)
        assert (first.exit_code, first.stdout) == (1, "1 succeeded, 1 failed\n")
        hint = first.stderr.splitlines()[-1]
        assert hint == f"failed: leadpost outbox --outbox {path} list --state failed"
        listed = run(*hint.split()[2:])
        assert listed.exit_code == 0
        assert "MXInvalidActivityException" in listed.stdout
        again = run("verify", "--outbox", path, "--json", env=env)
        assert (again.exit_code, json.loads(again.stdout)) == (0, {"succeeded": 0, "failed": 0})
        assert again.stderr == ""
        # What LeadSquared could not work off is told by the file's results from then on.
        result = run("post", file, "--outbox", path, env=env)
    assert result.exit_code == 1
    assert "1 accepted, 0 rejected, 0 uncertain, 1 failed" in result.stdout
    assert "1 to correct; then post this file" in result.stdout
    (reject,) = read_csv(tmp_path / "leads.csv.rejects.csv")
    assert reject["leadpost_reason"].startswith("MXInvalidActivityException")
    (failed,) = [r for r in read_csv(tmp_path / "leads.csv.results.csv") if r["state"] == "failed"]
    assert failed["request_id"]


def test_a_status_api_that_is_elsewhere_is_told(outbox: Path) -> None:
    with Sandbox() as sandbox:
        env = keys_of(sandbox) | {"LEADPOST_STATUS_PATH": "/elsewhere"}
        result = run("verify", "--outbox", outbox, env=env)
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "see status_path (LEADPOST_STATUS_PATH) and host (LEADPOST_HOST)\n"
    )


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
        entry, until_when = result.stderr.splitlines()
        assert entry.startswith("     2  uncertain  1 call  20")
        assert entry.endswith("  leads.csv:1  the lead does not have it yet; it may still come")
        assert until_when == (
            "what may still come can come until 12 h 0 min after it was sent (--settle): reconcile"
            " again then"
        )
        found = run("reconcile", "--outbox", store, "--settle", "0s", "--json", env=env)
        assert (found.exit_code, json.loads(found.stdout)) == (
            0,
            {"accepted": 0, "pending": 1, "uncertain": 0},
        )
        assert found.stderr == ""
        assert run("post", path, env=env).exit_code == 0
        assert (len(sandbox.taken), sandbox.report().duplicates) == (2, 0)
        found_there, posted = read_csv(tmp_path / "leads.csv.results.csv")
        assert (found_there["request_id"], posted["activity_id"]) == ("", "")
        assert found_there["activity_id"] in run("outbox", "list", "--outbox", store).stdout
        assert len(found_there["activity_id"]) == len(lead(0))
    assert not (tmp_path / "leads.csv.uncertain.csv").exists()


def test_what_stays_uncertain_for_another_reason_is_told_without_its_activity(
    tmp_path: Path,
) -> None:
    path = tmp_path / "leadpost.db"
    by_email = Activity(None, 201, "private words", extra={"EmailAddress": "a@example.com"})
    asyncio.run(put_in_doubt(path, by_email))
    with Sandbox() as sandbox:
        result = run("reconcile", "--outbox", path, env=keys_of(sandbox))
    assert result.exit_code == 1
    assert result.stderr.endswith("  it names no lead, so it cannot be looked for\n")
    assert result.stderr.count("\n") == 1
    assert "private" not in result.output


async def put_in_doubt(path: Path, activity: Activity) -> None:
    async with Outbox(url_of(path)) as outbox:
        await outbox.put(activity)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE leadpost_entries SET state = 'uncertain', sent_at = put_at")


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
    assert Result.of(Posted(row, "1", entry, Version(1, "", ""), "", None)) == Result(
        "uncertain", error_type="DeliveryUncertain", message="?"
    )
