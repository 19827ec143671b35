"""What rejects hold, and what a person or a spreadsheet makes of that."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_support import (
    bad,
    keys_of,
    payload,
    read_csv,
    read_jsonl,
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
)

from leadpost.cli.outputs import Outputs, RowsFile
from leadpost.outbox import Outbox
from leadpost.sandbox import Faults, Sandbox


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


def test_they_have_the_columns_of_their_input_alone(tmp_path: Path) -> None:
    names = "RelatedProspectId", "ActivityEvent", "ActivityNote"
    rows = [{name: row[name] for name in names} for row in (record(0), bad(1))]
    path = write_csv(tmp_path / "leads.csv", rows)
    with Sandbox(limit=None, faults=Faults(script=["500-mx", "500-mx", "500-mx"])) as sandbox:
        again = ["post", path, "--skip-invalid"]
        assert run(*again, env=keys_of(sandbox)).exit_code == 1
        found = read_csv(rejects_of(path))
        added = {"leadpost_reason", "leadpost_key", "leadpost_version"}
        assert set(found[0]) == {*names, *added}
        mine = write_csv(tmp_path / "mine.csv", [row | {"ActivityEvent": "201"} for row in found])
        assert run("post", mine, env=keys_of(sandbox)).exit_code == 1
        assert run(*again, env=keys_of(sandbox)).exit_code == 1
        assert [row["ActivityEvent"] for row in read_csv(rejects_of(path))] == ["201"] * 2


def test_a_time_that_is_refused_is_left_as_it_is(tmp_path: Path, sandbox: Sandbox) -> None:
    moment = "2025-01-31T12:13:44"
    path = write_csv(tmp_path / "leads.csv", [record(0), record(1, ActivityDateTime=moment)])
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    (row,) = read_csv(rejects_of(path))
    assert row["ActivityDateTime"] == moment


@pytest.mark.parametrize("results", [None, "line\n2\n", "key,state,request_id\nleads.csv:1,x,\n"])
def test_the_results_of_their_input_need_not_be_there(
    tmp_path: Path, sandbox: Sandbox, results: str | None
) -> None:
    path = tmp_path / "leads.csv"
    posted_with_bad_rows(path, sandbox, 1)
    told = Path(f"{path}.results.csv")
    told.unlink() if results is None else told.write_text(results)
    assert run("post", corrected(rejects_of(path)), env=keys_of(sandbox)).exit_code == 0
