"""Rejects, and what was in doubt, posted as files: each row is the same one as in its input."""

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
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
from rejects_support import (
    corrected,
    entries_become,
    notes,
    posted_with_bad_rows,
    rejects_of,
    states,
)

from leadpost.cli.outputs import Outputs
from leadpost.outbox import Outbox
from leadpost.sandbox import Faults, Sandbox


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
    told = (
        f"{rejects} seems edited: left as it is, though no row belongs there any more: it may go\n"
    )
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


def test_the_name_of_the_file_does_not_matter(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    again = posted_with_bad_rows(path, sandbox, 1)
    for number in range(2):
        mine = tmp_path / f"mine {number}.csv"
        shutil.copy(rejects_of(path), mine)
        assert run("post", corrected(mine), env=keys_of(sandbox)).exit_code == 0
    assert run(*again, env=keys_of(sandbox)).exit_code == 0
    assert len(sandbox.taken) == 3


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
        doubt = "1 row posted again that may have arrived, as the file asks for\n"
        for again in (True, False):
            result = run("post", uncertain, env=keys_of(sandbox))
            assert (result.exit_code, doubt in result.stderr) == (0, again)
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


def test_a_file_that_only_has_the_name_of_rejects_is_like_any_other(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_rows(tmp_path / "leads.csv.rejects.csv", 1)
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    assert Path(f"{path}.outbox.db").exists()


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


def test_what_a_version_tells_of_a_row_cannot_be_found_by_trying(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    versions = set[str]()
    for name in ("a.csv", "b.csv"):
        path = write_rows(tmp_path / name, 1)
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        (row,) = read_csv(Path(f"{path}.results.csv"))
        versions |= set(row["version"].split("-")[1:])
    assert len(versions) == 4  # the same activity, and no digest twice
