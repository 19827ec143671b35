"""Rejects, and what was in doubt, posted as files: each row is the same one as in its input."""

import asyncio
import csv
import json
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli_support import (
    keys_of,
    payload,
    read_csv,
    read_jsonl,
    record,
    run,
    states_in,
    url_of,
    write_csv,
    write_rows,
)
from outbox_support import changed

from leadpost.cli.exits import InputError
from leadpost.cli.file_entries import FileEntries
from leadpost.cli.inputs import opened
from leadpost.cli.outputs import Outputs, RowsFile
from leadpost.cli.versions import Version
from leadpost.outbox import Outbox
from leadpost.sandbox import Faults, Sandbox


def bad(number: int) -> dict[str, str]:
    return record(number, ActivityEvent="x")


def corrected(rejects: Path, **changes: str) -> Path:
    """Correct all rows of a file of rejects, as a person would."""
    rows = read_csv(rejects)
    numbers = [int(row["leadpost_key"].rpartition(":")[2]) for row in rows]
    return write_csv(
        rejects, [row | record(n, **changes) for n, row in zip(numbers, rows, strict=True)]
    )


def rejects_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.rejects.csv")


def states(path: Path) -> list[str]:
    return [row["state"] for row in read_csv(path.with_name(f"{path.name}.results.csv"))]


def posted_with_bad_rows(path: Path, sandbox: Sandbox, *numbers: int, rows: int = 3) -> list[str]:
    """Post a file of which some rows are bad, and give the command that did."""
    write_csv(path, [bad(n) if n in numbers else record(n) for n in range(rows)])
    command = ["post", str(path), "--skip-invalid"]
    assert run(*command, env=keys_of(sandbox)).exit_code == 1
    return command


def notes(sandbox: Sandbox) -> list[str]:
    return sorted(taken.payload["ActivityNote"] for taken in sandbox.taken)


def test_the_input_knows_what_became_of_its_rejects(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1, 2)
    rejects = corrected(rejects_of(path))
    result = run("post", rejects, env=keys_of(sandbox))
    assert result.exit_code == 0
    assert "2 rows in" in result.stdout
    assert "2 accepted, 0 rejected" in result.stdout
    assert f"outbox:    {path}.outbox.db\n" in result.stdout
    assert "going on" not in result.stderr
    result = run(*again, env=keys_of(sandbox))
    assert result.exit_code == 0
    assert "3 rows in 0 s: 3 accepted, 0 rejected" in result.stdout
    assert "rejects:" not in result.stdout
    told = f"{rejects} seems edited: left as it is, though no row belongs there any more\n"
    assert told in result.stderr
    assert (states(path), len(sandbox.taken)) == (["accepted"] * 3, 3)
    assert json.loads(run(*again[:2], "--json", env=keys_of(sandbox)).stdout)["accepted"] == 3


def test_some_of_them_may_not_get_through(tmp_path: Path) -> None:
    path = tmp_path / "leads.csv"
    with Sandbox(limit=None, faults=Faults(script=["ok", "500-mx"])) as sandbox:
        again = posted_with_bad_rows(path, sandbox, 1, 2, 3, rows=4)
        rows = read_csv(rejects_of(path))
        write_csv(rejects_of(path), [rows[0] | record(1), rows[1] | record(2), rows[2]])
        command = ["post", rejects_of(path)]
        assert run(*command, env=keys_of(sandbox)).exit_code == 2
        result = run(*command, "--skip-invalid", env=keys_of(sandbox))
        assert result.exit_code == 1
        assert "3 rows in 0 s: 1 accepted, 2 rejected" in result.stdout
        result = run(*again, env=keys_of(sandbox))
        assert result.exit_code == 1
        assert "4 rows in 0 s: 2 accepted, 2 rejected" in result.stdout
        assert "kept as" in result.stderr  # one of those that are left was sent meanwhile
        command = ["post", f"{rejects_of(path)}".replace("rejects", "rejects.1")]
        assert sandbox.report().arrivals == 3
        assert run(*command, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
        assert sandbox.report().arrivals == 3


@pytest.mark.parametrize("then", ["post", "correct", "correct otherwise"])
def test_rejects_of_rejects_are_rows_of_the_input_still(
    tmp_path: Path, sandbox: Sandbox, then: str
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    assert run("post", rejects_of(path), "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    second = rejects_of(rejects_of(path))
    assert read_csv(second)[0]["leadpost_key"] == "leads.csv:1"
    assert run("post", corrected(second), env=keys_of(sandbox)).exit_code == 0
    if then == "post":
        assert run("post", corrected(rejects_of(path)), env=keys_of(sandbox)).exit_code == 0
    elif then == "correct":
        write_rows(path, 3)
    else:
        write_csv(path, [record(0), record(1, ActivityNote="PERSONAL"), record(2)])
    result = run(*again, env=keys_of(sandbox))
    assert result.exit_code == (2 if then == "correct otherwise" else 0)
    assert ("error: " in result.stderr) == (then == "correct otherwise")
    assert "PERSONAL" not in result.output
    assert notes(sandbox) == ["Note 0", "Note 1", "Note 2"]


def test_what_got_through_since_is_not_posted_from_old_rejects(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1, 2)
    old = tmp_path / "old.csv"
    shutil.copy(rejects_of(path), old)
    write_csv(path, [record(0), record(1), bad(2)])
    assert run(*again, env=keys_of(sandbox)).exit_code == 1
    corrected(old, ActivityNote="another")
    result = run("post", old, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert "line 2: not as it was when it was put into the outbox\n" in result.stderr
    assert result.stderr.endswith(
        f"error: {old}: 1 row changed since an earlier run; nothing was sent. What got through, or"
        " may have, or was put or sent from elsewhere, is not sent from here: take these rows out,"
        " or move this file away and post leads.csv again, which writes anew what is left of it\n"
    )
    result = run("post", corrected(old), env=keys_of(sandbox))  # with the very same correction
    assert result.exit_code == 0
    assert notes(sandbox) == ["Note 0", "Note 1", "Note 2"]


def test_the_name_of_the_file_does_not_matter(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    for number in range(2):
        mine = tmp_path / f"mine {number}.csv"
        shutil.copy(rejects_of(path), mine)
        assert run("post", corrected(mine), env=keys_of(sandbox)).exit_code == 0
    assert run(*again, env=keys_of(sandbox)).exit_code == 0
    assert len(sandbox.taken) == 3


@pytest.mark.parametrize("when", ["after the comparison", "while it is put"])
def test_of_two_corrections_at_one_moment_the_second_is_told(
    tmp_path: Path, sandbox: Sandbox, when: str
) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    corrected(rejects_of(path))
    write_csv(path, [record(0), record(1, ActivityNote="another"), record(2)])

    class Late(Outbox):
        async def correct(self, *args: Any, **options: Any) -> None:
            if args[0] and when == "while it is put":
                await changed(self, state="sending", calls=1)
            await super().correct(*args, **options)

    async def both() -> None:
        with (
            opened(str(path), None, None, send_empty=False) as source,
            opened(str(rejects_of(path)), None, None, send_empty=False) as rejects,
        ):
            async with Late(url_of(Path(f"{path}.outbox.db"))) as outbox:
                of_ = partial(FileEntries, outbox, await outbox.identity())
                of_rejects = of_(rejects, path.name, are_rejects=True)
                if when == "while it is put":
                    await outbox.put(payload(1) | {"ActivityNote": "another"}, key="leads.csv:1")
                    of_rejects._corrected["leads.csv:1"] = await version_in(outbox, "leads.csv:1")
                else:
                    await of_rejects.compare(iter([]), "")
                    await of_(source, path.name, are_rejects=False).put(1)
                with pytest.raises(InputError, match=r"\(leads.csv:1\): run the same command"):
                    await of_rejects.put(0)
                [entry] = [entry async for entry in outbox.entries() if entry.key == "leads.csv:1"]
        assert entry.payload["ActivityNote"] == "another"

    asyncio.run(both())


async def version_in(outbox: Outbox, key: str) -> Version:
    entry = (await outbox.find([key]))[key]
    identity = await outbox.identity()
    return Version.of(identity, key, entry.calls, entry.payload, sends_empty=False)


def test_what_was_refused_and_corrected_is_not_put_back_as_it_was(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    outbox = ["outbox", "--outbox", f"{path}.outbox.db"]
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        rejects = corrected(rejects_of(path), ActivityNote="better")
        assert run("post", rejects, env=keys_of(sandbox)).exit_code == 0
        retried = run(*outbox, "retry", "--state", "rejected", "--yes")
        assert retried.stdout == "0 pending again\n"
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        assert notes(sandbox) == ["better"]


def test_rows_that_need_no_correction_are_posted_once_for_each_run_of_the_input(
    tmp_path: Path,
) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    script = ["500-mx", "500-mx", "500-mx"]
    versions = set[str]()
    with Sandbox(limit=None, faults=Faults(script=script)) as sandbox:
        for calls in (1, 2):
            assert run("post", path, env=keys_of(sandbox)).exit_code == 1
            versions.add(read_csv(rejects_of(path))[0]["leadpost_version"])
            assert len(versions) == calls
            for _ in range(2):  # the second time, they were sent since they were written
                assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 1
                assert sandbox.report().arrivals == calls + 1
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        assert len(sandbox.taken) == 1


def test_what_was_in_doubt_is_posted_from_its_file_once(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    uncertain = tmp_path / "leads.csv.uncertain.csv"
    with Sandbox(limit=None, faults=Faults(script=["cut-before"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        for _ in range(2):
            assert run("post", uncertain, env=keys_of(sandbox)).exit_code == 0
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        assert len(sandbox.taken) == 2
    assert not uncertain.exists()


def test_what_was_in_doubt_and_found_since_is_not_posted_from_its_file(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    with Sandbox(limit=None, pace=1000, faults=Faults(script=["cut-after"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        outbox = ["--outbox", f"{path}.outbox.db", "--json"]
        while run("reconcile", *outbox, env=keys_of(sandbox)).exit_code:
            assert states_in(Path(outbox[1])) == {"uncertain": 1}
        assert run("post", f"{path}.uncertain.csv", env=keys_of(sandbox)).exit_code == 0
        assert len(sandbox.taken) == 1


@pytest.mark.parametrize("at", ["json", "output base", "outbox"])
def test_they_find_their_input(tmp_path: Path, at: str) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    options: list[object] = []
    rejects = rejects_of(path)
    if at == "json":
        path = tmp_path / "leads.jsonl"
        path.write_text("".join(json.dumps(payload(n)) + "\n" for n in range(2)))
        rejects = tmp_path / "leads.jsonl.rejects.jsonl"
    elif at == "output base":
        (tmp_path / "out").mkdir()
        options = ["--output-base", tmp_path / "out" / "first"]
        rejects = tmp_path / "out" / "first.rejects.csv"
    else:
        options = ["--outbox", tmp_path / "all.db"]
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, *options, env=keys_of(sandbox)).exit_code == 1
        if at == "outbox":
            result = run("post", rejects, env=keys_of(sandbox))
            assert result.exit_code == 2
            assert result.stderr.endswith(
                f"error: {path}.outbox.db: found no outbox there, wanted the one that leads.csv was"
                " posted with: --outbox names it\n"
            )
            assert not Path(f"{path}.outbox.db").exists()
        of_rejects = options if at == "outbox" else []
        assert run("post", rejects, *of_rejects, env=keys_of(sandbox)).exit_code == 0
        assert run("post", path, *options, env=keys_of(sandbox)).exit_code == 0
        assert len(sandbox.taken) == 2


@pytest.mark.parametrize("name", ["leads.csv.rejects.csv", "leads.csv.rejects.1.csv"])
def test_rejects_that_do_not_say_what_they_are_are_refused(
    tmp_path: Path, sandbox: Sandbox, name: str
) -> None:
    posted_with_bad_rows(tmp_path / "leads.csv", sandbox, 1)
    path = write_csv(tmp_path / name, [record(1)])
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert result.stderr.endswith(
        f"error: {path}: found rows that do not say which of {tmp_path}/leads.csv they are, wanted"
        " leadpost_key and leadpost_version in each, as they were written. To have them written"
        f" anew, move this file away and post {tmp_path}/leads.csv again\n"
    )


def test_a_file_that_only_has_the_name_of_rejects_is_like_any_other(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_rows(tmp_path / "leads.csv.rejects.csv", 1)
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    assert Path(f"{path}.outbox.db").exists()


@pytest.mark.parametrize(
    ("key", "version"),
    [
        ("", ""),
        ("leads.csv", "v0-0123456789-0123456789"),
        ("../leads.csv:1", "v0-0123456789-0123456789"),
        ("leads.csv:1\0", "v0-0123456789-0123456789"),
        ("leads.csv:3", ""),
        ("leads.csv:3", "1.0"),
    ],
)
def test_rows_without_what_rejects_say_are_refused_among_them(
    tmp_path: Path, sandbox: Sandbox, key: str, version: str
) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    rejects = corrected(rejects_of(path))
    added = record(7) | {"leadpost_reason": "", "leadpost_key": key, "leadpost_version": version}
    write_csv(rejects, [*read_csv(rejects), added])
    result = run("post", rejects, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert result.stderr.endswith(
        f"error: {rejects}: found 1 row not saying which row of the input it is, the first at"
        " line 3, wanted leadpost_key and leadpost_version in each, as they were written."
        " To have them written anew, move this file away and post leads.csv again\n"
    )


def test_what_spreadsheets_make_of_them_is_read(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    (row,) = read_csv(corrected(rejects_of(path)))
    cells = {name: row[name] for name in sorted(row)}
    with rejects_of(path).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([cells, cells.values()])
        file.write(f"{',' * (len(cells) - 1)}\r\n" * 2)
    assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
    assert run(*again, env=keys_of(sandbox)).exit_code == 0
    assert notes(sandbox) == ["Note 0", "Note 1", "Note 2"]


def test_rejects_of_two_inputs_want_a_file_each(tmp_path: Path, sandbox: Sandbox) -> None:
    rows = list[dict[str, str]]()
    for name in ("b.csv", "a.csv", "c.csv"):
        posted_with_bad_rows(tmp_path / name, sandbox, 1, rows=2)
        rows += read_csv(corrected(rejects_of(tmp_path / name)))
    path = write_csv(tmp_path / "all.csv", rows)
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 3)
    assert f"error: {path}: found rows of a.csv and b.csv, wanted a file for each" in result.stderr


def test_a_row_is_there_once(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    rows = read_csv(corrected(rejects_of(path)))
    write_csv(rejects_of(path), [*rows, *rows])
    result = run("post", rejects_of(path), env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert "line 3: has the leadpost_key of a row before it\n" in result.stderr
    assert "1 row there twice; nothing" in result.stderr


@pytest.mark.parametrize("was_refused", [True, False])
def test_rows_whose_entries_are_no_more_are_not_posted_again(
    tmp_path: Path, *, was_refused: bool
) -> None:
    path = tmp_path / "leads.csv"
    faults = Faults(script=["500-mx"]) if was_refused else Faults()
    with Sandbox(limit=None, pace=1000, faults=faults) as sandbox:
        posted_with_bad_rows(path, sandbox, 1, rows=2)
        rejects = corrected(rejects_of(path))
        if was_refused:
            rejects = write_csv(rejects, read_csv(rejects)[:1])
        else:
            assert run("post", rejects, env=keys_of(sandbox)).exit_code == 0
            outbox = f"{path}.outbox.db"
            run("verify", "--outbox", outbox, env=keys_of(sandbox))
        prune = ["outbox", "prune", "--older-than", "0s", "--outbox", f"{path}.outbox.db"]
        assert run(*prune).exit_code == 0
        before = sandbox.report().arrivals
        again = ["post", rejects, "--skip-invalid", "--force"]
        result = run(*again, env=keys_of(sandbox))
        assert result.exit_code == 2
        assert "line 2: had a result, and the outbox forgot its activity\n" in result.stderr
        assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 2
        assert sandbox.report().arrivals == before


def test_a_run_that_was_ended_is_gone_on_with(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1, 2)
    rejects = corrected(rejects_of(path))
    wrong = keys_of(sandbox) | {"LEADPOST_SECRET_KEY": "wrong"}
    assert run("post", rejects, env=wrong).exit_code == 3
    left = {"pending": 1, "rejected": 1, "accepted": 1}
    assert states_in(Path(f"{path}.outbox.db")) in (left, {"pending": 2, "accepted": 1})
    run("post", rejects, env=keys_of(sandbox))
    run(*again, env=keys_of(sandbox))
    assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
    assert run(*again, env=keys_of(sandbox)).exit_code == 0
    assert notes(sandbox) == ["Note 0", "Note 1", "Note 2"]


def entries_become(path: Path, **values: object) -> None:
    """Set what became of all entries of a file that were not accepted."""
    columns = ", ".join(f"{name} = ?" for name in values)
    update = f"UPDATE leadpost_entries SET {columns} WHERE state != 'accepted'"
    with closing(sqlite3.connect(f"{path}.outbox.db")) as connection, connection:
        connection.execute(update, tuple(values.values()))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("fault", ["500-mx", "cut-after", "cut-before"])
def test_they_hold_what_was_sent_last(tmp_path: Path, form: str, fault: str) -> None:
    path = tmp_path / f"leads.{form}"
    if form == "csv":
        write_csv(path, [bad(0), record(1)])
    else:
        path.write_text(f"{json.dumps(payload(0) | {'ActivityEvent': 'x'})}\n")
    part = "rejects" if fault == "500-mx" else "uncertain"
    first, last = (tmp_path / f"leads.{form}.{name}.{form}" for name in ("rejects", part))
    script = (["ok"] if form == "csv" else []) + [fault]
    with Sandbox(limit=None, faults=Faults(script=script)) as sandbox:
        again = ["post", path, "--skip-invalid"]
        assert run(*again, env=keys_of(sandbox)).exit_code == 1
        mine = tmp_path / f"mine.{form}"
        if form == "csv":
            (row,) = read_csv(first)
            new = {"ActivityEvent": "201", "ActivityNote": "sent", "mx_Custom_2": "a, b"}
            write_csv(mine, [row | new])
        else:
            (line,) = read_jsonl(first)
            mine.write_text(json.dumps(line | {"ActivityEvent": 201, "ActivityNote": "sent"}))
        assert run("post", mine, env=keys_of(sandbox)).exit_code == 1
        assert run(*again, env=keys_of(sandbox)).exit_code == 1
        (row,) = read_csv(last) if form == "csv" else read_jsonl(last)
        assert row["ActivityNote"] == "sent"
        assert "InvalidActivity" not in row["leadpost_reason"]
        if form == "csv":
            assert (row["mx_Custom_1"], row["mx_Custom_2"]) == ("value 0", "a, b")
        there = [taken.payload["ActivityNote"] for taken in sandbox.taken].count("sent")
        # What a --timezone would make of it does not matter: it says its offset.
        assert run("post", last, "--timezone", "Asia/Tokyo", env=keys_of(sandbox)).exit_code == 0
        assert [taken.payload["ActivityNote"] for taken in sandbox.taken].count("sent") == there + 1
        assert sandbox.taken[-1].payload["ActivityDateTime"] == payload(0)["ActivityDateTime"]
        assert run(*again, env=keys_of(sandbox)).exit_code == 0


def test_they_need_no_timezone_again(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1)])
    zone = ["--timezone", "Asia/Kolkata"]
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, "--skip-invalid", *zone, env=keys_of(sandbox)).exit_code == 1
        rows = read_csv(rejects_of(path))
        assert [row["ActivityDateTime"] for row in rows] == ["2025-01-31 12:13:44+05:30"] * 2
        write_csv(rejects_of(path), [row | {"ActivityEvent": "201"} for row in rows])
        result = run("post", rejects_of(path), env=keys_of(sandbox))
        assert (result.exit_code, "without a zone" in result.stderr) == (0, False)
        assert run("post", path, "--skip-invalid", *zone, env=keys_of(sandbox)).exit_code == 0
    times = {taken.payload["ActivityDateTime"] for taken in sandbox.taken}
    assert times == {"2025-01-31 06:43:44"}


@pytest.mark.parametrize("of", ["another day", "another folder", "another outbox", "another row"])
def test_rows_of_another_outbox_are_refused(tmp_path: Path, sandbox: Sandbox, of: str) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    mine = tmp_path / "mine.csv"
    shutil.copy(rejects_of(path), mine)
    corrected(mine, ActivityNote="of the first")
    options: list[object] = []
    if of == "another day":
        for file in tmp_path.glob("leads.csv*"):
            file.rename(f"{file}.old")
        posted_with_bad_rows(path, sandbox, 1)
    elif of == "another folder":
        (tmp_path / "other").mkdir()
        mine = mine.rename(tmp_path / "other" / "mine.csv")
        posted_with_bad_rows(tmp_path / "other" / "leads.csv", sandbox, 1)
    elif of == "another outbox":
        options = ["--outbox", tmp_path / "other.db"]
        write_rows(tmp_path / "unlike.csv", 1)
        assert run("post", tmp_path / "unlike.csv", *options, env=keys_of(sandbox)).exit_code == 0
    else:
        write_csv(mine, [row | {"leadpost_key": "leads.csv:7"} for row in read_csv(mine)])
    before = len(sandbox.taken)
    result = run("post", mine, *options, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, before)
    told = (
        "line 2: its leadpost_key and leadpost_version are not as written, or of another --outbox"
    )
    assert f"{told}\n" in result.stderr
    assert f"error: {mine}: 1 row not of this outbox; nothing was sent" in result.stderr


def test_spoilt_ones_are_refused_whatever_their_name(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    (row,) = read_csv(corrected(rejects_of(path)))
    del row["leadpost_key"], row["leadpost_version"]
    mine = write_csv(tmp_path / "mine.csv", [row])
    result = run("post", mine, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    told = f"error: {mine}: found 1 row not saying which row of the input it is, the first"
    assert f"{told} at line 2, wanted" in result.stderr


@pytest.mark.parametrize("edited", ["rejects", "copy", "input"])
def test_those_that_failed_may_be_corrected_again_and_again(
    tmp_path: Path, sandbox: Sandbox, edited: str
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    mine = rejects_of(path)
    if edited == "copy":
        mine = tmp_path / "mine.csv"
        shutil.copy(rejects_of(path), mine)
    for note in ("first", "second", "third"):
        if edited == "input":
            write_csv(path, [record(0), record(1, ActivityNote=note), record(2)])
            assert run(*again, env=keys_of(sandbox)).exit_code == 0
        else:
            result = run("post", corrected(mine, ActivityNote=note), env=keys_of(sandbox))
            assert (result.exit_code, result.stderr.count("error")) == (0, 0)
        assert sandbox.taken[-1].payload["ActivityNote"] == note
        with closing(sqlite3.connect(f"{path}.outbox.db")) as connection, connection:
            connection.execute("UPDATE leadpost_entries SET state = 'failed' WHERE key LIKE '%:1'")
        if edited == "rejects":
            assert run(*again, env=keys_of(sandbox)).exit_code == 1
        elif edited == "copy":
            assert run("post", mine, env=keys_of(sandbox)).exit_code == 1
    assert len(sandbox.taken) == 5


def test_a_file_that_failed_is_named_as_it_can_be_posted(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    wrong = keys_of(sandbox) | {"LEADPOST_SECRET_KEY": "wrong"}
    assert run("post", corrected(rejects_of(path)), env=wrong).exit_code == 3
    entries_become(path, state="failed", error_type="ServerError")
    result = run(*again, env=keys_of(sandbox))
    assert f"rejects:   {path}.rejects.csv (1 not through: 1 good as they are; later post" in (
        result.stdout
    )
    assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
    assert run(*again, env=keys_of(sandbox)).exit_code == 0


def test_a_field_that_another_process_adds_at_the_end_is_not_left_out(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    added = {"SchemaName": "mx_Custom_2", "Value": "more"}
    better = payload(0) | {"Fields": [*payload(0)["Fields"], added]}
    write = Outputs.write

    async def corrected_before(*args: Any) -> None:
        monkeypatch.undo()
        async with Outbox(url_of(Path(f"{path}.outbox.db"))) as outbox:
            await outbox.correct({"leads.csv:0": better}, calls={"leads.csv:0": 1})
            await changed(outbox, state="failed", calls=2)
        await write(*args)

    sandbox.fail("500-mx")
    monkeypatch.setattr(Outputs, "write", corrected_before)
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert result.stderr.endswith("and has a field more: run the same command again\n")
    assert not rejects_of(path).exists()
    assert run("post", path, env=keys_of(sandbox)).exit_code == 1
    assert [row["mx_Custom_2"] for row in read_csv(rejects_of(path))] == ["more"]


def test_results_of_another_file_are_not_replaced(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    text = corrected(rejects_of(path)).read_bytes()
    others = write_csv(tmp_path / "others.csv", [record(5), bad(6)]).read_bytes()
    result = run("post", "-", "--skip-invalid", env=keys_of(sandbox), stdin=others)
    assert result.exit_code == 1
    result = run("post", "-", env=keys_of(sandbox), stdin=text)
    assert (result.exit_code, len(sandbox.taken)) == (2, 3)
    assert (
        "stdin.results.csv, stdin.rejects.csv: there already, of another file, or" in result.stderr
    )
    base = ["--output-base", "mine"]
    assert run("post", "-", *base, env=keys_of(sandbox), stdin=text).exit_code == 0


@pytest.mark.parametrize("change", ["emptied", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_posted_loses_nothing(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    rejects = corrected(rejects_of(path))
    write = Outputs.write

    async def changed_before(*args: Any) -> None:
        if change == "removed":
            rejects.unlink()
        else:
            rejects.write_text("" if change == "emptied" else path.read_text())
        await write(*args)

    monkeypatch.setattr(Outputs, "write", changed_before)
    result = run("post", rejects, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 3)
    assert "Traceback" not in result.output
    monkeypatch.undo()
    assert run(*again, env=keys_of(sandbox)).exit_code == 0


@pytest.mark.parametrize("first", ["input", "rejects"])
@pytest.mark.parametrize("how", ["inserted", "swapped"])
def test_rows_that_moved_in_the_input_are_told(
    tmp_path: Path, sandbox: Sandbox, how: str, first: str
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1, 2)
    corrected(rejects_of(path))
    rows = [record(0), bad(2), bad(1)] if how == "swapped" else [record(0), bad(5), bad(1), bad(2)]
    write_csv(path, rows)
    if first == "rejects":
        assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
    result = run(*again, env=keys_of(sandbox))
    assert result.exit_code == (2 if first == "rejects" else 1)
    if first == "rejects":
        assert "line 3: not as it was when it was put into the outbox" in result.stderr
        write_csv(path, [record(0), bad(1), bad(2)])
        assert run(*again, env=keys_of(sandbox)).exit_code == 0
    assert len(notes(sandbox)) == len(set(notes(sandbox))) == (3 if first == "rejects" else 1)


def test_an_old_copy_does_not_undo_a_correction_that_waits(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    sandbox.fail("500-mx", "500-mx")
    assert run("post", path, env=keys_of(sandbox)).exit_code == 1
    one, two = (tmp_path / f"{name}.csv" for name in ("one", "two"))
    for copy in (one, two):
        shutil.copy(rejects_of(path), copy)
    corrected(one, ActivityNote="better")
    entries = Path(f"{path}.outbox.db")

    async def put() -> None:
        with opened(str(one), None, None, send_empty=False) as rejects:
            async with Outbox(url_of(entries)) as outbox:
                of = FileEntries(
                    outbox, await outbox.identity(), rejects, path.name, are_rejects=True
                )
                await of.put(await of.compare(iter([]), ""))

    asyncio.run(put())  # and the run ends before anything is sent
    result = run("post", two, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 0)
    assert "line 2: another correction of it was put, and is not sent yet" in result.stderr
    assert "2 rows corrected already; nothing was sent" in result.stderr
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    assert notes(sandbox) == ["better"] * 2


def test_what_was_corrected_and_pruned_is_not_posted_again(tmp_path: Path) -> None:
    path = tmp_path / "leads.csv"
    with Sandbox(limit=None, pace=1000) as sandbox:
        again = posted_with_bad_rows(path, sandbox, 1, rows=2)
        old = tmp_path / "old.csv"
        shutil.copy(rejects_of(path), old)
        assert run("post", corrected(rejects_of(path)), env=keys_of(sandbox)).exit_code == 0
        outbox = ["--outbox", f"{path}.outbox.db"]
        assert run("verify", *outbox, env=keys_of(sandbox)).exit_code == 0
        for _ in range(2):
            assert run("outbox", "prune", "--older-than", "0s", *outbox).exit_code == 0
            write_rows(path, 2)
            for file in (path, corrected(old)):
                assert run("post", file, env=keys_of(sandbox)).exit_code == 2
        assert len(sandbox.taken) == 2
        assert "PERSONAL" not in run(*again).output


@pytest.mark.parametrize("where", ["input", "rejects"])
def test_a_time_may_be_corrected(tmp_path: Path, where: str) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        later = "2025-01-31 14:13:44"
        if where == "rejects":
            corrected(rejects_of(path), ActivityDateTime=later)
            assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
        else:
            write_csv(path, [record(0, ActivityDateTime=later)])
            result = run("post", path, env=keys_of(sandbox))
            assert (result.exit_code, "(an offset corrects a time)" in result.stderr) == (2, True)
            write_csv(path, [record(0, ActivityDateTime=f"{later}+00:00")])
            assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        assert sandbox.taken[0].payload["ActivityDateTime"] == later


def test_an_empty_text_may_be_left_out_in_json(tmp_path: Path) -> None:
    path = tmp_path / "leads.jsonl"
    empty = payload(0) | {"ActivityNote": ""}
    path.write_text(json.dumps(empty))
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        del empty["ActivityNote"]
        path.write_text(json.dumps(empty))
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        assert "ActivityNote" not in sandbox.taken[0].payload


def test_they_need_no_send_empty_again(tmp_path: Path) -> None:
    rows = [record(0, mx_Custom_1=""), record(1, mx_Custom_1="", ActivityEvent="x")]
    path = write_csv(tmp_path / "leads.csv", rows)
    again = ["post", path, "--skip-invalid", "--send-empty"]
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run(*again, env=keys_of(sandbox)).exit_code == 1
        found = read_csv(rejects_of(path))
        write_csv(rejects_of(path), [row | {"ActivityEvent": "201"} for row in found])
        assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
        assert run(*again, env=keys_of(sandbox)).exit_code == 0
    fields = [taken.payload["Fields"][0]["Value"] for taken in sandbox.taken]
    assert fields == ["", ""]


def test_results_of_another_day_say_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    for _ in range(2):
        again = posted_with_bad_rows(path, sandbox, 1)
        assert run("post", corrected(rejects_of(path)), env=keys_of(sandbox)).exit_code == 0
        assert run(*again, env=keys_of(sandbox)).exit_code == 0
        for end in ("", ".outbox.db", ".results.csv", ".rejects.csv"):  # as is advised
            Path(f"{path}{end}").unlink()
    assert (tmp_path / "leads.csv.rejects.csv.results.csv").exists()
    assert len(sandbox.taken) == 6


def test_the_inputs_own_results_are_not_those_of_its_rejects(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    mine = tmp_path / "mine.csv"
    shutil.copy(corrected(rejects_of(path)), mine)
    result = run("post", mine, "--output-base", path, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert f"error: {path}: found the base of the input's results, wanted another" in result.stderr


def test_an_edit_that_comes_while_they_are_written_is_kept(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    take = RowsFile.take

    def edited_before(*args: Any) -> None:
        rejects_of(path).write_text("edited")
        take(*args)

    monkeypatch.setattr(RowsFile, "take", edited_before)
    assert run(*again, env=keys_of(sandbox)).exit_code == 1
    assert (tmp_path / "leads.csv.rejects.1.csv").read_text() == "edited"
    assert len(read_csv(rejects_of(path))) == 1


def test_rows_that_were_accepted_from_there_are_not_listed_as_bad(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    assert run("post", corrected(rejects_of(path)), env=keys_of(sandbox)).exit_code == 0
    assert "line 3, ActivityEvent" in run(*again, env=keys_of(sandbox)).stderr
    assert "line 3, ActivityEvent" not in run(*again, env=keys_of(sandbox)).stderr


def test_a_file_of_no_rows_asks_for_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    header, *_ = rejects_of(path).read_text().splitlines()
    rejects_of(path).write_text(f"{header}\n")
    assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0


def test_what_was_seen_on_the_lead_is_said_to_be_there(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 3)
    command = ["outbox", "--outbox", f"{path}.outbox.db", "arrived"]
    with Sandbox(limit=None, faults=Faults(script=["cut-after", "cut-after"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        one, other = (row["leadpost_key"] for row in read_csv(Path(f"{path}.uncertain.csv")))
        told = run(*command, "--key", one, "--key", "leads.csv:9")
        assert told.exit_code == 1
        assert told.stdout == "1 succeeded\n"
        assert told.stderr == "1 left as they are: not there, or not uncertain\n"
        listed = run("outbox", "list", "--json", "--outbox", f"{path}.outbox.db").stdout
        (number,) = [json.loads(line)["id"] for line in listed.splitlines() if f'"{other}"' in line]
        assert run(*command, "--id", number, "--key", other).stdout == "1 succeeded\n"
        assert run(*command, "--id", number).stdout == "0 succeeded\n"
        assert run("post", f"{path}.uncertain.csv", env=keys_of(sandbox)).exit_code == 0
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        assert len(sandbox.taken) == 3
    result = run(*command)
    assert result.exit_code == 2
    assert "give --key or --id" in result.stderr


def test_a_row_whose_key_is_another_rows_by_now_is_not_posted(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1, rows=2)
    old = tmp_path / "old.csv"
    shutil.copy(rejects_of(path), old)
    write_csv(path, [record(0), bad(5), bad(1)])
    assert run(*again, env=keys_of(sandbox)).exit_code == 1
    result = run("post", corrected(old), env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 1)
    assert "line 2: not as it was when it was put" in result.stderr
    rows = read_csv(rejects_of(path))
    write_csv(rejects_of(path), [row | {"ActivityEvent": "201"} for row in rows])
    assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
    assert run(*again, env=keys_of(sandbox)).exit_code == 0
    assert notes(sandbox) == ["Note 0", "Note 1", "Note 5"]


def test_an_outbox_that_is_pruned_during_a_run_is_told(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "leads.csv", 3)
    write = Outputs.write

    async def pruned_before(*args: Any) -> None:
        async with Outbox(url_of(Path(f"{path}.outbox.db"))) as outbox:
            await changed(outbox, state="succeeded")
            assert await outbox.prune(timedelta(0)) == 3
            await outbox.put(payload(9))
        await write(*args)

    monkeypatch.setattr(Outputs, "write", pruned_before)
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 1
    assert "3 rows pruned meanwhile: what became of them is not known\n" in result.stdout
    assert "not sent" not in result.stdout
    monkeypatch.undo()
    assert run("post", path, env=keys_of(sandbox)).exit_code == 2
    assert len(sandbox.taken) == 3


def test_lead_and_note_may_both_be_corrected_in_them(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        (row,) = read_csv(rejects_of(path))
        write_csv(rejects_of(path), [row | record(4)])
        assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 0
        assert notes(sandbox) == ["Note 4"]


def test_rows_that_got_through_may_be_deleted_from_them(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1, 2)
    sandbox.fail("500-mx")
    command = ["post", corrected(rejects_of(path))]
    assert run(*command, env=keys_of(sandbox)).exit_code == 1
    results = read_csv(Path(f"{rejects_of(path)}.results.csv"))
    left = [row["state"] for row in results].index("rejected")
    row = read_csv(rejects_of(path))[left]
    write_csv(rejects_of(path), [row | {"ActivityNote": "better"}])
    assert run(*command, env=keys_of(sandbox)).exit_code == 0
    assert "better" in notes(sandbox)


def test_send_empty_may_be_asked_for_in_them(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0, mx_Custom_1="")])
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        result = run("post", rejects_of(path), "--send-empty", env=keys_of(sandbox))
        assert result.exit_code == 0
        assert sandbox.taken[0].payload["Fields"] == [{"SchemaName": "mx_Custom_1", "Value": ""}]


@pytest.mark.parametrize("options", [["--send-empty"], []])
def test_an_empty_column_that_is_taken_out_of_them_is_no_fault(
    tmp_path: Path, options: list[str]
) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0, mx_Custom_1="")])
    with Sandbox(limit=None, faults=Faults(script=["500-mx"] * 2)) as sandbox:
        assert run("post", path, *options, env=keys_of(sandbox)).exit_code == 1
        (row,) = read_csv(rejects_of(path))
        del row["mx_Custom_1"]
        write_csv(rejects_of(path), [row])
        assert run("post", path, *options, env=keys_of(sandbox)).exit_code == 1
        assert "left as it is" in run("post", path, env=keys_of(sandbox)).stderr or options
        assert run("post", rejects_of(path), env=keys_of(sandbox)).exit_code == 1
        assert run("post", path, *options, env=keys_of(sandbox)).exit_code == 1
        assert sandbox.report().arrivals == 2


def test_a_column_that_is_added_to_the_input_does_not_change_bad_rows(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    assert run("post", corrected(rejects_of(path)), env=keys_of(sandbox)).exit_code == 0
    write_csv(path, [row | {"mx_Custom_2": ""} for row in (record(0), bad(1), record(2))])
    assert run(*again, env=keys_of(sandbox)).exit_code == 0
    assert len(sandbox.taken) == 3


def test_a_rejected_row_that_is_spoilt_stays_rejected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        spoilt = [row["state"] for row in read_csv(Path(f"{path}.results.csv"))].index("rejected")
        write_csv(path, [bad(n) if n == spoilt else record(n) for n in range(2)])
        result = run("post", path, env=keys_of(sandbox))
        assert (result.exit_code, sandbox.report().arrivals) == (1, 2)
        (row,) = read_csv(rejects_of(path))
        assert row["ActivityEvent"] == "201"


def test_a_correction_that_is_not_right_yet_is_kept(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        stale = tmp_path / "stale.csv"
        shutil.copy(rejects_of(path), stale)
        corrected(rejects_of(path), ActivityEvent="20l", ActivityNote="better")
        command = ["post", rejects_of(path), "--skip-invalid"]
        assert run(*command, env=keys_of(sandbox)).exit_code == 1
        (row,) = read_csv(rejects_of(rejects_of(path)))
        assert (row["ActivityEvent"], row["ActivityNote"]) == ("20l", "better")
        assert row["leadpost_reason"].startswith("InvalidActivity: ActivityEvent")
        write_csv(rejects_of(rejects_of(path)), [row | {"ActivityEvent": "201"}])
        assert run("post", rejects_of(rejects_of(path)), env=keys_of(sandbox)).exit_code == 0
        assert notes(sandbox) == ["better"]
        corrected(stale, ActivityEvent="20l")
        result = run("post", stale, "--skip-invalid", env=keys_of(sandbox))
        assert result.exit_code == 2
        assert "1 row changed since an earlier run" in result.stderr


def test_an_outbox_that_is_not_there_is_not_made(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    other = tmp_path / "other.db"
    result = run("post", corrected(rejects_of(path)), "--outbox", other, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert f"error: {other}: there is no such outbox\n" in result.stderr
    assert not other.exists()


def test_a_row_edited_after_its_own_doubtful_run_is_told(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    sandbox.fail("cut-after")
    command = ["post", corrected(rejects_of(path))]
    assert run(*command, env=keys_of(sandbox)).exit_code == 1
    corrected(rejects_of(path), ActivityNote="another")
    result = run(*command, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 3)
    assert "line 2: not as it was when it was put" in result.stderr


def test_a_row_that_was_sent_from_elsewhere_since_its_own_run_is_told(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    sandbox.fail("500-mx", "500-mx")
    command = ["post", corrected(rejects_of(path))]
    assert run(*command, env=keys_of(sandbox)).exit_code == 1
    write_csv(path, [record(0), record(1, ActivityNote="in the input"), record(2)])
    assert run(*again, env=keys_of(sandbox)).exit_code == 1
    (kept,) = tmp_path.glob("leads.csv.rejects.1.csv")
    kept.rename(rejects_of(path))
    corrected(rejects_of(path), ActivityNote="another")
    result = run(*command, env=keys_of(sandbox))
    assert (result.exit_code, sandbox.report().arrivals) == (2, 4)
    assert "line 2: not as it was when it was put" in result.stderr
