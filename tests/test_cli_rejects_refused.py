"""Rejects of which nothing is posted: of other files or days, outrun, moved, pruned."""

import asyncio
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli_support import (
    bad,
    keys_of,
    payload,
    read_csv,
    record,
    run,
    url_of,
    write_csv,
    write_rows,
)
from outbox_support import changed
from rejects_support import (
    corrected,
    notes,
    posted_with_bad_rows,
    rejects_of,
    version_in,
)

from leadpost.cli.exits import InputError
from leadpost.cli.file_entries import FileEntries
from leadpost.cli.inputs import opened
from leadpost.outbox import Outbox
from leadpost.sandbox import Faults, Sandbox


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
