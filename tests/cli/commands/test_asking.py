"""`leadpost verify` and `leadpost reconcile`: what is asked, shown and recorded."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

from cli_support import until, url_of
from files_support import Desk, cells, keys_of, write_csv

from leadpost import Account, Activity
from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox

ADA = "ada@example.com"


def test_accepted_entries_are_verified(desk: Desk) -> None:
    file = write_csv(desk.folder / "calls.csv", [cells(0), cells(1, ActivityEvent="999")])
    assert desk.post(file)[0] == 0
    first = desk.run("verify")
    assert first.exit_code == 1
    assert first.stdout == (
        "1 succeeded, 1 failed\nSee which: leadpost outbox list --state failed\n"
    )
    assert "MXInvalidActivityException" in desk.run("outbox", "list", "--state", "failed").stdout
    again = desk.run("verify", "--json")
    assert (again.exit_code, json.loads(again.stdout)) == (0, {"succeeded": 0, "failed": 0})


def test_only_the_rows_of_a_file_are_asked_about(desk: Desk) -> None:
    paths = [write_csv(desk.folder / f"{n}.csv", [cells(n)]) for n in range(2)]
    for path in reversed(paths):
        assert desk.post(path)[0] == 0
    done = desk.run("verify", paths[0])
    assert done.exit_code == 0, done.output
    assert "1 on their leads" in done.output
    assert desk.states(paths[0]) == ["succeeded"]
    assert desk.run("results", paths[1]).exit_code == 0
    assert desk.states(paths[1]) == ["accepted"]


def test_uncertain_entries_are_reconciled(desk: Desk) -> None:
    path = write_csv(desk.folder / "calls.csv", [cells(0), cells(1)])
    desk.sandbox.fail("cut-after", "504-before")
    assert desk.post(path)[0] == 1
    until(lambda: desk.sandbox.report().pending == 0)
    result = desk.run("reconcile")
    assert result.exit_code == 1
    assert result.stdout == (
        "1 arrived, 0 did not and will be posted again, 1 uncertain\n"
        "See which: leadpost outbox list --state uncertain\n"
    )
    found = desk.run("reconcile", "--settle", "0s", "--json")
    wanted = {"succeeded": 0, "pending": 1, "uncertain": 0}
    assert (found.exit_code, json.loads(found.stdout)) == (0, wanted)
    assert desk.post(path)[0] == 0
    assert desk.notes() == ["Note 0", "Note 1"]
    assert sum(bool(row["activity_id"]) for row in desk.results(path)) == 1


def test_what_stays_uncertain_for_another_reason_is_listed_without_its_activity(
    desk: Desk,
) -> None:
    path = desk.folder / "leadpost.db"
    by_email = Activity(None, 201, "private words", extra={"EmailAddress": "a@example.com"})
    asyncio.run(put_uncertain(path, by_email, desk.sandbox.account()))
    assert desk.run("reconcile", "--outbox", path).exit_code == 1
    listed = desk.run("outbox", "list", "--state", "uncertain", "--outbox", path)
    assert "it names no lead" in listed.output
    assert "private" not in listed.output


def test_what_to_do_about_uncertain_rows_is_said_in_each_case(desk: Desk) -> None:
    bare = cells(1, ActivityNote="", ActivityDateTime="")  # nothing to recognize it by
    path = write_csv(desk.folder / "calls.csv", [cells(0), bare])
    desk.sandbox.fail("504-before", "cut-after")
    own = "--outbox", desk.folder / "own.db"
    named = f" --outbox {own[1]}"
    code, said = desk.post(path, *own)
    look = f"leadpost reconcile {path}{named}"
    assert (code, said.splitlines()[-1]) == (1, f"Look for uncertain ones on their leads: {look}")
    until(lambda: desk.sandbox.report().pending == 0)
    said = desk.run("reconcile", path, *own).stdout
    assert said.endswith(
        f"\n1 may still arrive. Look again in 12 h: {look}\n"
        "1 could not be settled. See why: leadpost outbox list --state uncertain"
        f"{named}\nIf one is on its lead: leadpost outbox arrived --id N{named}\n"
        f"If it is not: leadpost outbox retry --id N --yes{named}\n"
    )
    listed = desk.run("outbox", "list", "--state", "uncertain", *own).stdout
    assert "has no note or date-time to compare" in listed
    assert desk.run("outbox", "arrived", "--id", "2", *own).exit_code == 0
    assert desk.run("outbox", "retry", "--id", "1", "--yes", *own).exit_code == 0
    said = desk.run("results", path, *own).stdout
    assert f"1 row left. To post them: leadpost post {path}{named}" in said
    assert "reconcile" not in said
    assert desk.post(path, *own)[0] == 0


async def put_uncertain(path: Path, activity: Activity, account: Account) -> None:
    async with Outbox(url_of(path), account) as outbox:
        await outbox.put(activity)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE leadpost_entries SET state = 'uncertain', sent_at = put_at")


def test_two_sandboxes_in_one_outbox_are_told_apart(desk: Desk) -> None:
    names = "calls.csv", "Calls.csv", "calls.csv2"
    for place, name in enumerate(names):
        file = write_csv(desk.folder / name, [cells(10 * place + n) for n in range(place + 1)])
        assert desk.post(file)[0] == 0
        assert len(desk.states(file)) == place + 1
    with Sandbox(limit=None) as other:
        assert desk.run("outbox", "list", **keys_of(other)).stdout.startswith("no entries\n")
