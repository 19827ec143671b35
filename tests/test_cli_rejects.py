"""Rejects, and what was in doubt, posted as files: each row is the same one as in its input."""

import asyncio
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_support import (
    keys_of,
    payload,
    read_csv,
    record,
    run,
    states_in,
    url_of,
    write_csv,
    write_rows,
)
from outbox_support import changed

from leadpost import KeyConflict
from leadpost.cli.file_entries import FileEntries
from leadpost.cli.inputs import opened
from leadpost.outbox import Outbox
from leadpost.sandbox import Faults, Sandbox


def bad(number: int) -> dict[str, str]:
    return record(number, ActivityEvent="x")


def corrected(rejects: Path, **changes: str) -> Path:
    """Correct all rows of a file of rejects, as a person would."""
    rows = read_csv(rejects)
    numbers = [int(row["leadpost_key"].rpartition(":")[2]) - 1 for row in rows]
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
        assert "left as it is" in result.stderr  # the rows that are left are in it still
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
    assert read_csv(second)[0]["leadpost_key"] == "leads.csv:2"
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
        " may have, is posted as it was: take these rows out of this file\n"
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


@pytest.mark.parametrize("sent", [True, False])
def test_two_corrections_at_one_moment_are_one(
    tmp_path: Path, sandbox: Sandbox, *, sent: bool
) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    corrected(rejects_of(path))
    write_csv(path, [record(0), record(1, ActivityNote="another"), record(2)])

    class Late(Outbox):
        async def correct(self, *args: Any, **options: Any) -> None:
            if sent and args[0]:
                await changed(self, state="sending", calls=1)
            await super().correct(*args, **options)

    async def both() -> None:
        with (
            opened(str(path), None, None, send_empty=False) as source,
            opened(str(rejects_of(path)), None, None, send_empty=False) as rejects,
        ):
            async with Late(url_of(Path(f"{path}.outbox.db"))) as outbox:
                of_rejects = FileEntries(outbox, rejects, None)
                first = await of_rejects.first_new(iter([]), "")
                await FileEntries(outbox, source, path.name).put(1)
                if sent:
                    with pytest.raises(KeyConflict):
                        await of_rejects.put(first)
                else:
                    await of_rejects.put(first)
                [entry] = [entry async for entry in outbox.entries() if entry.key == "leads.csv:2"]
        assert entry.payload["ActivityNote"] == ("another" if sent else "Note 1")

    asyncio.run(both())


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
    with Sandbox(limit=None, faults=Faults(script=script)) as sandbox:
        for calls in (1, 2):
            assert run("post", path, env=keys_of(sandbox)).exit_code == 1
            assert read_csv(rejects_of(path))[0]["leadpost_calls"] == str(calls)
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
        " leadpost_key and leadpost_calls in each, as they were written. To have it written anew,"
        f" move it away and post {tmp_path}/leads.csv again; to post rows as new ones, give the"
        " file another name\n"
    )


def test_a_file_that_only_has_the_name_of_rejects_is_like_any_other(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_rows(tmp_path / "leads.csv.rejects.csv", 1)
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    assert Path(f"{path}.outbox.db").exists()


@pytest.mark.parametrize(
    ("key", "calls"),
    [("", ""), ("leads.csv", "0"), ("leads.csv:0", "0"), ("leads.csv:3", ""), ("a:1", "-1")],
)
def test_rows_without_what_rejects_say_are_refused_among_them(
    tmp_path: Path, sandbox: Sandbox, key: str, calls: str
) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    rejects = corrected(rejects_of(path))
    added = record(7) | {"leadpost_reason": "", "leadpost_key": key, "leadpost_calls": calls}
    write_csv(rejects, [*read_csv(rejects), added])
    result = run("post", rejects, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert result.stderr.endswith(
        f"error: {rejects}: found 1 row without, the first at line 3, wanted leadpost_key and"
        " leadpost_calls in each, as they were written. To have it written anew, move it away and"
        " post leads.csv again; give rows that are new a file of their own\n"
    )


def test_what_spreadsheets_make_of_them_is_read(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    (row,) = read_csv(corrected(rejects_of(path)))
    cells = {name: row[name] for name in sorted(row)} | {"leadpost_calls": "0.0"}
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
    assert "line 3: has the key of a row before it\n" in result.stderr
    assert "1 row repeated since" in result.stderr


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
        assert "line 2: had a result, and is in the outbox no more\n" in result.stderr
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
