"""Ctrl-C and other signals before anything is sent: at a question, or during look-ups."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import processes
import pytest
from cli_support import at_a_terminal, press_until, put, read_until, start, until, url_of
from files_support import Desk, cells, keys_of, write_csv

from leadpost.sandbox import Faults, Sandbox

KEYS = ("LEADPOST_ACCESS_KEY", "LEADPOST_SECRET_KEY", "LEADPOST_API_KEY")
ELSEWHERE = {"LEADPOST_REGION": "india", **dict.fromkeys(KEYS, "made-up-key-0123")}
"""An account that is not on this machine: a run asks before it posts there."""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_at_the_question_sends_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    write_csv(tmp_path / "calls.csv", [cells(n) for n in range(3)])
    command = ["post", "calls.csv", "--timezone", "UTC", "--account-check", "off"]
    with at_a_terminal(command, tmp_path, **ELSEWHERE) as (process, leader):
        read_until(leader, "Post 3 activities to asyncapi-in21.leadsquared.com")
        said = press_until(process, leader, "Stopped: nothing was sent", number)
        assert "Traceback" not in said
        assert process.wait(60) == code


def test_a_key_that_is_typed_is_not_shown(tmp_path: Path) -> None:
    with Sandbox(limit=None) as sandbox, at_a_terminal(["setup"], tmp_path) as (process, leader):
        shown = read_until(leader, "async host")
        for answer, label in (
            (sandbox.url, "AccessKey (hidden): "),  # the blank comes once input is hidden
            (sandbox.access_key, "SecretKey (hidden): "),
            (sandbox.secret_key, "x-api-key (hidden): "),
        ):
            os.write(leader, f"{answer}\n".encode())
            shown += read_until(leader, label)
        os.write(leader, f"{sandbox.api_key}\n".encode())
        assert process.wait(60) == 0
    assert sandbox.url in shown
    for key in (sandbox.access_key, sandbox.secret_key, sandbox.api_key):
        assert key not in shown
    (path,) = tmp_path.rglob("keys.env")
    assert path.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_at_a_question_of_setup_writes_nothing(tmp_path: Path) -> None:
    with at_a_terminal(["setup"], tmp_path) as (process, leader):
        read_until(leader, "async host")
        press_until(process, leader, "interrupted")
        assert process.wait(60) == 130
    assert not list(tmp_path.rglob("keys.env"))


def test_ctrl_c_ends_a_query_that_nobody_answers(tmp_path: Path) -> None:
    """At once: a query changes nothing, so that its answer need not be waited for."""
    commands: Sequence[Sequence[str]] = (
        ("status", "3661d7b1-93e8-5ba9-9356-b61e0cab2edb"),
        *(("metrics", "--json"), ("types",), ("doctor", "--json")),
        *(("verify",), ("reconcile", "--json")),
    )
    folders = [tmp_path / command[0] for command in commands]
    with ThreadPoolExecutor(len(commands)) as threads:
        ends = list(threads.map(interrupted, commands, folders))
    for command, (code, output, errors, seconds) in zip(commands, ends, strict=True):
        assert (code, errors) == (130, "interrupted\n"), command
        assert output in {"", "[]\n"}, command
        assert seconds < GRACE, command


GRACE = 60.0
PATIENT = f"""
from leadpost import AsyncActivityPoster
from leadpost.cli import main

AsyncActivityPoster.aclose.__defaults__ = ({GRACE},)
main()
"""
"""The command with a longer wait for calls in flight, so that a slow machine cannot be meant."""


def interrupted(command: Sequence[str], folder: Path) -> tuple[int, str, str, float]:
    """Press Ctrl-C once a query has been sent; return exit code, output and seconds."""
    folder.mkdir()
    script = folder / "patient.py"
    script.write_text(PATIENT)
    path = folder / "leadpost.db"
    with Sandbox(faults=Faults(script=["slow"] * 20, slow=600)) as sandbox:
        put(url_of(path), 0, 1, account=sandbox.account())
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE leadpost_entries SET state = CASE id WHEN 1 THEN 'accepted' ELSE"
                " 'uncertain' END, request_id = 'r-1', calls = 1, sent_at = put_at"
            )
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = processes.start(
                [script, *command, "--outbox", path],
                processes.ENVIRONMENT | keys_of(sandbox),
                folder,
                stdout=out,
                stderr=err,
            )
        until(lambda: sandbox.report().arrivals >= 1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        code = process.wait()
        seconds = time.monotonic() - began
    return code, (folder / "stdout").read_text(), (folder / "stderr").read_text(), seconds


def test_ctrl_c_while_leads_are_looked_up_sends_nothing_and_the_next_run_does(
    desk: Desk,
) -> None:
    addresses = [f"person-{n}@example.com" for n in range(5)]
    header = "Lead.EmailAddress,ActivityEvent,ActivityNote\n"
    rows = "".join(f"{address},201,Called\n" for address in addresses)
    path = desk.folder / "calls.csv"
    path.write_text(header + rows)
    command = ["post", path, "--create-leads", "--account-check", "off"]
    with Sandbox(delay=1.0) as sandbox:
        environment = keys_of(sandbox) | {"XDG_CONFIG_HOME": str(desk.folder)}
        process = start(command, environment, desk.folder)
        until(lambda: sandbox.report().arrivals >= 1)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert (desk.folder / "stderr").read_text().endswith("Stopped: nothing was sent\n")
        assert sandbox.accepted == []
        assert start(command, environment, desk.folder).wait() == 0
        assert len(sandbox.accepted) == len(addresses)
        assert sandbox.report().duplicates == 0
