"""`leadpost outbox`, `verify` and `reconcile`, against a sandbox over a real socket."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import typer
from cli_support import at_a_terminal, put, read_jsonl, read_until, start, states_in, until, url_of
from files_support import Desk, cells, keys_of, lead, write_csv

from leadpost import Activity, Lead
from leadpost.cli.options import span
from leadpost.cli.outbox_url import outbox_option, shown_url
from leadpost.cli.outbox_url import url_of as url_meant
from leadpost.sandbox import Faults, Sandbox

PASSWORD = "PASSWORD-0123456789"
ADA = "ada@example.com"


@pytest.fixture
def outbox(desk: Desk) -> Path:
    """One with an accepted, a rejected and an uncertain entry, in this order, and a pending one."""
    path = desk.folder / "leadpost.db"
    put(url_of(path), *range(4), account=desk.sandbox.account().id)  # by whatever keys
    states = ("accepted", None), ("rejected", "BadRequest"), ("uncertain", "DeliveryUncertain")
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, (state, error) in enumerate(states, 1):
            connection.execute(
                "UPDATE leadpost_entries SET state = ?, error_type = ?, message = ?, calls = 1,"
                " request_id = ?, sent_at = put_at WHERE id = ?",
                (state, error, error and "no\nway", None if error else "r-1", number),
            )
    return path


def test_the_status_of_an_outbox(desk: Desk, outbox: Path) -> None:
    result = desk.run("outbox", "status", "--outbox", outbox)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("pending           1   the oldest for ")
    assert lines[2] == "accepted          1"
    assert lines[-2:] == [
        "posting    not now: no run or worker was seen in the last minute",
        "time left  0 s at 25 calls per 5 s",
    ]
    shown = desk.run("outbox", "status", "--json", LEADPOST_OUTBOX=url_of(outbox)).stdout
    found = json.loads(shown)
    assert 0 <= found.pop("oldest_pending_seconds") < 600
    assert found == {
        "pending": 1,
        "sending": 0,
        "accepted": 1,
        "succeeded": 0,
        "failed": 0,
        "rejected": 1,
        "uncertain": 1,
        "is_working": False,
        "away_since": None,
        "seconds_left": 0.2,
        "of_other_accounts": {},
    }


def test_entries_of_other_accounts_are_counted_and_reported(desk: Desk, outbox: Path) -> None:
    put(url_of(outbox), 7, account="somebody-else")
    shown = desk.run("outbox", "status", "--outbox", outbox).stdout
    assert "Not posted with these keys: 1 unfinished entry of account somebody-else." in shown
    assert "leadpost outbox adopt somebody-else" in shown
    mistyped = {"LEADPOST_ACCOUNT": "somebody"}
    shown = desk.run("outbox", "list", "--outbox", outbox, **mistyped).stdout
    assert shown.startswith("no entries\n")
    assert "Not posted with these keys: 1 unfinished entry of account somebody-else." in shown
    theirs = {"LEADPOST_ACCOUNT": "somebody-else"}
    assert "call-7" in desk.run("outbox", "list", "--outbox", outbox, **theirs).stdout


def test_watching_ends_with_ctrl_c(desk: Desk, outbox: Path) -> None:
    command = ["outbox", "status", "--watch", "--json", "--outbox", outbox]
    process = start(command, desk.environment, desk.folder)
    until(lambda: (desk.folder / "stdout").read_text().count("\n") >= 2)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert [line["pending"] for line in read_jsonl(desk.folder / "stdout")[:2]] == [1, 1]
    assert (desk.folder / "stderr").read_text() == ""


def test_the_entries_are_listed_without_their_notes(desk: Desk, outbox: Path) -> None:
    result = desk.run("outbox", "list", "--outbox", outbox)
    assert (result.exit_code, result.stderr) == (0, "")
    head, first, second, _, last = result.stdout.splitlines()
    assert head.split() == ["id", "state", "age", "key", "lead", "RequestID", "error"]
    assert first.split() == ["1", "accepted", *first.split()[2:4], "call-0", lead(0), "r-1"]
    assert second.rstrip().endswith("no way")
    assert "pending" in last
    uncertain = desk.run("outbox", "list", "--state", "uncertain", "--json", "--outbox", outbox)
    found = json.loads(uncertain.stdout)
    assert found.pop("changed_at").endswith("+00:00")
    assert found == {
        "id": 3,
        "key": "call-2",
        "state": "uncertain",
        "lead": lead(2),
        "calls": 1,
        "request_id": None,
        "activity_id": None,
        "error_type": "DeliveryUncertain",
        "message": "no\nway",
    }
    assert "Note" not in result.output + uncertain.output


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_line_of_the_list_fits_on_a_terminal_and_is_whole_elsewhere(
    desk: Desk, outbox: Path, *, is_terminal: bool
) -> None:
    command = ("outbox", "list", "--state", "accepted", "--outbox", outbox)
    variables = {"COLUMNS": "60"} | ({"FORCE_COLOR": "1"} if is_terminal else {})
    _, line = desk.run(*command, **variables).stdout.splitlines()
    assert (len(line) <= 60) is is_terminal
    assert (lead(0) in line) is not is_terminal


@pytest.mark.parametrize(
    ("activity", "lead"),
    [
        ([1], ""),  # put by SQL
        (Activity(None, 201, extra={"EmailAddress": ADA}).to_payload(), ADA),
        (Activity(Lead("EmailAddress", ADA), 201).to_payload(), ADA),
    ],
)
def test_a_lead_without_an_id_is_listed_by_its_address(
    desk: Desk, outbox: Path, activity: object, lead: str
) -> None:
    with closing(sqlite3.connect(outbox)) as connection, connection:
        statement = "UPDATE leadpost_entries SET activity = ? WHERE id = 4"
        connection.execute(statement, (json.dumps(activity),))
    command = ("outbox", "list", "--state", "pending", "--json", "--outbox", outbox)
    found = json.loads(desk.run(*command).stdout)
    assert (found["key"], found["lead"]) == ("call-3", lead)


def test_the_entries_of_a_file_or_of_a_batch_with_a_name_of_its_own(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [cells(0)])
    assert desk.post(path)[0] == 0
    desk.sandbox.fail("500-mx")
    write_csv(path, [cells(1)])
    assert desk.post(path, "--batch", "day 1")[0] == 1
    for chosen, number in ((["a.csv"], 1), (["a.csv", "--batch", "a.csv"], 0)):
        listed = desk.run("outbox", "list", *chosen).stdout
        assert lead(number) in listed
        assert lead(1 - number) not in listed
    assert "rejected          1" in desk.run("outbox", "status", "a.csv").stdout
    for command in (["list"], ["status"], ["retry", "--state", "failed"]):
        done = desk.run("outbox", *command, "c.csv")
        never = "error: c.csv was never posted from this outbox (batch c.csv). If it had another"
        never += f" name: leadpost outbox {command[0]} c.csv --batch OLDNAME\n"
        assert (done.exit_code, done.stderr) == (2, never)
    retry = ("outbox", "retry", "--state", "rejected")
    assert desk.run(*retry, "--batch", "day 2").stdout == "0 pending again\n"
    assert desk.run(*retry, "--batch", "day 1").stdout == "1 pending again\n"


def test_the_entries_of_the_file_that_rejects_came_from(desk: Desk, calls: Path) -> None:
    rejects = calls.with_name("calls.csv.rejects.csv")
    for number, path in enumerate((calls, rejects)):  # what has that name itself comes first
        assert desk.post(write_csv(path, [cells(number)]))[0] == 0
        assert lead(number) in desk.run("outbox", "list", rejects).stdout


def test_a_look_at_an_outbox_of_no_files_creates_no_tables(desk: Desk, outbox: Path) -> None:
    """So that a role that may only read can look."""
    write_csv(desk.folder / "a.csv", [cells(0)])
    env = {"LEADPOST_OUTBOX": str(outbox)}
    for command in ("outbox list", "outbox status", "outbox retry --id 1", "results", "verify"):
        done = desk.run(*command.split(), "a.csv", **env)
        assert (done.exit_code, "a.csv was never posted" in done.stderr) == (2, True)
    assert desk.post(desk.folder / "a.csv", "--dry-run", **env)[0] == 0
    assert desk.run("outbox", "adopt", "somebody", **env).exit_code == 0
    assert desk.run("outbox", "prune", "--older-than", "1d", **env).exit_code == 0
    with closing(sqlite3.connect(outbox)) as database:
        names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert not names & {"leadpost_batches", "leadpost_rows"}


@pytest.mark.parametrize(
    ("args", "pending", "said", "left"),
    [
        (["--state", "rejected"], 2, "1 pending again\n", ""),
        (["--state", "uncertain", "--yes"], 2, "1 pending again\n", ""),
        (
            ["--id", "2", "--id", "3"],
            2,
            "1 pending again\n",
            "rejected; uncertain ones need --yes\n",
        ),
        (["--id", "2", "--id", "3", "--yes"], 3, "2 pending again\n", ""),
        (["--id", "1"], 1, "0 pending again\n", "1 unchanged: unknown, or not failed"),
        (["--batch", "x", "--state", "rejected"], 1, "0 pending again\n", ""),
    ],
)
def test_entries_are_retried(  # noqa: PLR0917  a table's columns
    desk: Desk, outbox: Path, args: list[str], pending: int, said: str, left: str
) -> None:
    result = desk.run("outbox", "retry", "--outbox", outbox, *args)
    assert (result.exit_code, result.stdout) == (1 if left else 0, said)
    assert left in result.stderr
    assert bool(left) == bool(result.stderr)
    assert states_in(outbox)["pending"] == pending


@pytest.mark.parametrize(
    ("args", "said"),
    [([], "choose with --state or --id"), (["--state", "uncertain"], "would be posted twice")],
)
def test_what_may_have_arrived_is_not_retried_by_mistake(
    desk: Desk, outbox: Path, args: list[str], said: str
) -> None:
    result = desk.run("outbox", "retry", "--outbox", outbox, *args)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert states_in(outbox)["pending"] == 1


@pytest.mark.parametrize("how", [["--id", "3"], ["--key", "call-2"]])
def test_what_was_seen_on_the_lead_is_recorded(desk: Desk, outbox: Path, how: list[str]) -> None:
    done = desk.run("outbox", "arrived", *how, "--outbox", outbox)
    assert (done.exit_code, done.output) == (0, "1 succeeded\n")
    again = desk.run("outbox", "arrived", *how, "--key", "x", "--outbox", outbox)
    assert again.exit_code == 1
    assert "2 unchanged: unknown, or not uncertain" in again.stderr
    assert desk.run("outbox", "arrived", "--outbox", outbox).exit_code == 2


def test_old_entries_are_deleted(desk: Desk, outbox: Path) -> None:
    for age, said in (("1d", "entries deleted: 0\n"), ("0s", "entries deleted: 1\n")):
        result = desk.run("outbox", "prune", "--older-than", age, "--outbox", outbox)
        assert result.stdout == said
    assert states_in(outbox) == {"accepted": 1, "uncertain": 1, "pending": 1}


def test_entries_and_files_of_former_keys_are_adopted(desk: Desk) -> None:
    path = write_csv(desk.folder / "calls.csv", [cells(0), cells(1)])
    assert desk.post(path)[0] == 0
    former = desk.run("outbox", "account").stdout.strip()
    named = {"LEADPOST_ACCOUNT": "acme"}
    assert desk.run("outbox", "account", **named).stdout == "acme\n"
    assert desk.post(path, **named)[0] == 2
    done = desk.run("outbox", "adopt", former, **named)
    assert done.stdout == f"entries of {former} that now belong to acme: 2\n"
    code, said = desk.post(path, **named)
    assert (code, "2 rows were posted" in said) == (0, True)


def test_the_schema_is_printed_and_is_all_that_files_need(desk: Desk, calls: Path) -> None:
    printed = {d: desk.run("outbox", "schema", d).stdout for d in ("sqlite", "postgresql")}
    for text in printed.values():
        assert "CREATE TABLE leadpost_entries" in text
        assert "CREATE TABLE IF NOT EXISTS leadpost_rows" in text
    with closing(sqlite3.connect("own.db")) as database, database:
        database.executescript(printed["sqlite"])
        before = database.execute("SELECT name, sql FROM sqlite_master").fetchall()
    assert desk.post(write_csv(calls, [cells(0)]), "--outbox", "own.db")[0] == 0
    with closing(sqlite3.connect("own.db")) as database:
        assert database.execute("SELECT name, sql FROM sqlite_master").fetchall() == before


@pytest.mark.parametrize("text", ["30", "d", "1w", "-1d", "1.5h"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a length of time such as 30d, 12h, 5m"):
        span(text)


def test_which_outbox_is_meant(tmp_path: Path) -> None:
    assert url_meant(None) == f"sqlite:///{tmp_path}/config/leadpost/outbox.db"
    assert (tmp_path / "config" / "leadpost").stat().st_mode & 0o777 == 0o700
    shown = shown_url(f"postgresql+asyncpg://u:{PASSWORD}@host/x")
    assert shown == "postgresql://host/x"
    assert shown_url("sqlite:////var/x.db") == "/var/x.db"


@pytest.mark.parametrize(
    ("url", "variable", "option"),
    [
        (None, None, ""),
        ("my calls.db", None, " --outbox 'my calls.db'"),
        ("a.db", "a.db", ""),
        ("a.db", "b.db", " --outbox a.db"),
        ("postgresql://db.example.com/crm", None, " --outbox postgresql://db.example.com/crm"),
        (f"postgresql://u:{PASSWORD}@db.example.com/crm", None, " --outbox URL"),
    ],
)
def test_commands_to_paste_name_the_outbox_without_its_password(
    monkeypatch: pytest.MonkeyPatch, url: str | None, variable: str | None, option: str
) -> None:
    if variable:
        monkeypatch.setenv("LEADPOST_OUTBOX", variable)
    assert outbox_option(url_meant(url)) == option


COMMANDS = [
    ["outbox", "status"],
    ["outbox", "list"],
    ["outbox", "retry", "--state", "failed"],
    ["outbox", "prune", "--older-than", "1d"],
    ["verify"],
    ["reconcile"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_outbox_that_cannot_be_used_is_one_line_of_error(desk: Desk, command: list[str]) -> None:
    (desk.folder / "text.db").write_text("no database at all, " * 100)
    for url, wanted in (
        (f"postgresql://u:{PASSWORD}@127.0.0.1:9/x", "postgresql://127.0.0.1/x"),
        (f"mysql://u:{PASSWORD}@127.0.0.1:9/x", "wanted sqlite:///FILE"),
        ("text.db", "text.db"),
        ("missing/x.db", "there is no such outbox"),
    ):
        result = desk.run(*command, "--outbox", url)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert wanted in result.stderr
        assert PASSWORD not in result.output
    assert [file.name for file in desk.folder.iterdir()] == ["text.db"]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("verify", "0 of 1 accepted activities succeeded or failed"),
        ("reconcile", "looked for 0 of 0 uncertain activities"),
        ("post --account-check off leads.csv", "0 of 1 lead looked up"),
        ("post --account-check warn calls.csv", "Checking 1 row"),
    ],
)
def test_a_terminal_shows_how_far_it_is(desk: Desk, outbox: Path, command: str, shown: str) -> None:
    (desk.folder / "leads.csv").write_text("Lead.EmailAddress,ActivityEvent\na@example.com,201\n")
    (desk.folder / "calls.csv").write_text(f"LeadId,ActivityEvent\n{lead(0)},201\n")
    with Sandbox(faults=Faults(script=["slow"] * 20, slow=600)) as slow:
        variables = keys_of(slow) | {
            "LEADPOST_OUTBOX": str(outbox),
            "LEADPOST_ACCOUNT": desk.sandbox.account().id,
            "TERM": "xterm",
        }
        with at_a_terminal(command.split(), desk.folder, **variables) as (process, leader):
            read_until(leader, shown)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130


def test_a_status_api_that_is_elsewhere_is_named(desk: Desk, outbox: Path) -> None:
    result = desk.run("verify", "--outbox", outbox, LEADPOST_STATUS_PATH="/elsewhere")
    assert result.exit_code == 1
    assert "status_path (LEADPOST_STATUS_PATH)" in result.stderr
