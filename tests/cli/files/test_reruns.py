"""What running a file again does, beside the numbered stories."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path

import pytest
from files_support import (
    HEADER,
    Desk,
    bad,
    cells,
    keys_of,
    notes,
    posted,
    read_csv,
    rejects_of,
    rows,
    write_csv,
)

from leadpost import AsyncActivityPoster
from leadpost.outbox import Outbox
from leadpost.sandbox import Sandbox


def test_another_sandbox_is_another_account(desk: Desk, calls: Path) -> None:
    posted(desk, calls, 0, 1)
    with Sandbox(limit=None) as other:
        desk.environment |= keys_of(other)
        assert desk.post(calls)[0] == 0
        assert len(other.posted()) == 2


def test_a_row_that_was_retried_by_hand_and_pruned_is_posted(desk: Desk, calls: Path) -> None:
    desk.sandbox.fail("500-mx")
    assert desk.post(write_csv(calls, rows(0)))[0] == 1
    assert desk.run("outbox", "retry", "--state", "rejected").exit_code == 0
    assert desk.post(write_csv(desk.folder / "b.csv", rows(1)))[0] == 0

    async def worked() -> None:
        async with (
            Outbox(f"sqlite:///{desk.outbox}", desk.sandbox.account()) as outbox,
            AsyncActivityPoster(desk.sandbox.account()) as poster,
        ):
            await outbox.drain(poster)

    asyncio.run(worked())
    assert desk.run("verify").exit_code == 0
    assert "entries deleted: 2" in desk.run("outbox", "prune", "--older-than", "0s").output
    assert desk.post(calls)[0] == 0
    assert desk.notes() == notes(0, 1)


def test_a_posted_row_that_was_made_invalid_is_an_edit_in_the_rejects(
    desk: Desk, calls: Path
) -> None:
    posted(desk, calls, 0, 1)
    write_csv(calls, [cells(0, ActivityDateTime="soon"), cells(1)])
    assert desk.post(calls, "--skip-invalid")[0] == 1
    (reject,) = read_csv(rejects_of(calls))
    write_csv(rejects_of(calls), [reject | {"ActivityDateTime": "2026-11-28 14:00"}])
    code, said = desk.post(rejects_of(calls))
    assert (code, desk.notes()) == (2, notes(0, 1)), said
    assert "ActivityDateTime 2026-11-28 14:00:07 UTC → 2026-11-28 14:00:00 UTC" in said
    write_csv(calls, rows(0, 1))
    assert desk.post(calls)[0] == 0
    write_csv(rejects_of(calls), [reject | {"ActivityDateTime": "2026-11-28 14:00"}])
    assert desk.post(rejects_of(calls), "--duplicates", "post")[0] == 0
    assert desk.notes() == ["Note 0", *notes(0, 1)]


def test_the_unsent_rows_that_rejects_send_too_are_in_the_plan(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0, RelatedProspectId=""), *rows(1, 2, 3)])
    desk.stopped_after(1, calls, "--skip-invalid")
    assert len(desk.notes()) < 3
    unsent = 3 - len(desk.notes())
    fixed = write_csv(rejects_of(calls), [r | cells(0) for r in read_csv(rejects_of(calls))])
    code, said = desk.post(fixed)
    assert (code, desk.notes()) == (0, notes(0, 1, 2, 3))
    assert f"{unsent} unsent row{'s' * (unsent > 1)} of calls.csv: sent too" in said


def test_first_is_refused_where_rejects_send_more(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0, RelatedProspectId=""), *rows(1, 2, 3)])
    desk.stopped_after(1, calls, "--skip-invalid")
    before = desk.notes()
    fixed = write_csv(rejects_of(calls), [r | cells(0) for r in read_csv(rejects_of(calls))])
    code, said = desk.post(fixed, "--first", "1")
    assert (code, desk.notes()) == (2, before)
    assert "of calls.csv would be sent too. Leave out --first, or post that file first" in said
    assert desk.post(calls, "--skip-invalid")[0] == 1
    assert desk.post(fixed, "--first", "1")[0] == 0
    assert desk.notes() == notes(0, 1, 2, 3)


def test_the_commands_to_paste_name_the_batch(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0), bad(1)])
    code, said = desk.post(calls, "--skip-invalid", "--batch", "day 1")
    assert code == 1
    assert f"leadpost verify {calls} --batch 'day 1'" in said
    assert desk.run("results", calls, "--batch", "day 1").exit_code == 1
    write_csv(calls, [cells(0), cells(1)])
    said = desk.run("results", calls, "--batch", "day 1").output
    assert f"1 row left. To post them: leadpost post {calls} --batch 'day 1'" in said


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("verify", "2 on their leads"),
        ("results", "verify {calls} --batch 'day 2'"),
        ("reconcile", "verify {calls} --batch 'day 2'"),
        ("outbox list", "day 2/"),
        ("outbox status", "accepted          2"),
        ("outbox retry --state failed", "0 pending again"),
    ],
)
def test_a_file_is_looked_at_in_the_batch_that_it_was_posted_in_last(
    desk: Desk, calls: Path, command: str, shown: str
) -> None:
    posted(desk, calls, 0)
    for batch, numbers in (("day 1", (1, 2)), ("day 2", (3, 4))):
        write_csv(calls, rows(*numbers))
        assert desk.post(calls, "--batch", batch, "--duplicates", "post")[0] == 0
    first, *others = command.split()
    done = desk.run(first, *others, calls)
    assert done.exit_code == 0, done.output
    assert shown.format(calls=calls) in done.stdout
    assert "day 1/" not in done.stdout
    assert desk.states(calls) == [("succeeded" if command == "verify" else "accepted")] * 2


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("list", "day 1/"),
        ("status", "accepted          2"),
        ("retry --state failed", "0 pending again"),
        ("list --batch 'day 2'", "day 2/"),
    ],
)
def test_a_rejects_file_is_looked_at_in_the_batch_of_its_keys(
    desk: Desk, calls: Path, command: str, shown: str
) -> None:
    fixed = desk.folder / "fixed.csv"
    write_csv(calls, [*rows(0, 1), bad(2)])
    assert desk.post(calls, "--skip-invalid", "--batch", "day 1")[0] == 1
    rejects_of(calls).rename(fixed)
    assert desk.post(write_csv(calls, rows(3)), "--batch", "day 2")[0] == 0
    done = desk.run("outbox", *shlex.split(command), fixed)
    assert done.exit_code == 0, done.output
    assert shown in done.stdout


def test_the_commands_to_paste_name_the_outbox(desk: Desk, calls: Path) -> None:
    write_csv(calls, [cells(0), bad(1)])
    code, said = desk.post(calls, "--skip-invalid", "--outbox", "my own.db")
    assert code == 1
    option = "--outbox 'my own.db'"
    assert f"then: leadpost post {rejects_of(calls)} {option}" in said
    assert f"leadpost verify {calls} {option}" in said
    write_csv(calls, [cells(0)])
    code, said = desk.post(calls, "--outbox", "my own.db")
    assert f"--duplicates post {option}" in said


def test_an_edit_whose_lead_could_not_be_looked_up_is_asked_about_later(
    desk: Desk, calls: Path
) -> None:
    desk.sandbox.add_lead(EmailAddress="ada@example.com")
    by_email = cells(0) | {"Lead.EmailAddress": "ada@example.com", "RelatedProspectId": ""}
    assert desk.post(write_csv(calls, [by_email]))[0] == 0
    write_csv(calls, [by_email | {"ActivityNote": "edited"}])
    desk.sandbox.fail("500-mx")
    assert desk.post(calls, "--skip-invalid")[0] == 1
    assert desk.states(calls) == ["invalid"]
    for _ in range(2):
        code, said = desk.post(calls)
        assert (code, desk.notes()) == (2, notes(0)), said
        assert "ActivityNote Note 0 → edited" in said


def test_skipped_rows_that_may_be_uncertain_elsewhere_are_pointed_out(
    desk: Desk, calls: Path
) -> None:
    desk.sandbox.fail("cut-before", "ok")
    assert desk.post(write_csv(calls, rows(0, 1)))[0] == 1
    other = write_csv(desk.folder / "other.csv", rows(0, 1, 2))
    code, said = desk.post(other, "--duplicates", "skip")
    assert code == 1
    assert "1 accepted, not yet processed, 1 skipped as possible duplicates, 1 uncertain" in said
    assert f"leadpost reconcile {other}" in said
    messages = [row["message"] for row in desk.results(other)]
    assert messages.count("uncertain in batch calls.csv") == 1
    assert desk.run("reconcile", "--settle", "0s").exit_code == 0
    assert "uncertain" not in desk.post(other, "--duplicates", "skip")[1]


def test_a_skipped_row_that_failed_elsewhere_is_not_settled(desk: Desk, calls: Path) -> None:
    assert desk.post(write_csv(calls, [cells(0, ActivityEvent="999")]))[0] == 0
    assert desk.run("verify", calls).exit_code == 1
    other = write_csv(desk.folder / "other.csv", [cells(0, ActivityEvent="999")])
    code, said = desk.post(other, "--duplicates", "skip")
    assert code == 1
    assert "1 failed" in said
    (row,) = desk.results(other)
    assert (row["state"], row["message"]) == ("failed", "failed in batch calls.csv")


def test_a_file_without_rows(desk: Desk, calls: Path) -> None:
    calls.write_text(",".join(HEADER) + "\n")
    for args in (("post", calls), ("results", calls)):
        done = desk.run(*args)
        assert (done.exit_code, done.stdout) == (0, f"{calls} has no rows\n")
