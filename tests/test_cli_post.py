"""`leadpost post`: checks, results, rejects, exit codes, against a sandbox over a real socket."""

import asyncio
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from cli_support import (
    keys_of,
    payload,
    read_csv,
    read_jsonl,
    record,
    run,
    start,
    states_in,
    write_csv,
    write_rows,
)
from rich.console import Console

from leadpost.cli.exits import Exit
from leadpost.cli.inputs import opened
from leadpost.cli.outputs import Outputs
from leadpost.cli.post import How, check_file, post_file
from leadpost.outbox import SharedTokenBucket
from leadpost.sandbox import Answer, Faults, Sandbox, request_id_of

UTC_ASSUMED = "date-times without a zone are read as UTC: --timezone names another"


def states(path: Path) -> list[str]:
    return [row["state"] for row in read_csv(path)]


def post_fast(path: Path, sandbox: Sandbox) -> Exit:
    """What the command does, with a bucket as fast as the sandbox."""

    async def posting() -> Exit:
        url = f"sqlite+aiosqlite:///{path}.outbox.db"
        console = Console(file=io.StringIO())
        with opened(str(path), None, None, send_empty=False) as source:
            outputs = Outputs(str(path), source)
            return await post_file(
                source,
                outputs,
                url,
                sandbox.account(),
                check_file(source, outputs, console, force=False),
                rejects_of=None,
                how=How(),
                bucket=SharedTokenBucket(url, sandbox.account(), period=0.2),
                console=console,
            )

    return asyncio.run(posting())


def test_all_accepted(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_rows(tmp_path / "leads.csv", 20)
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 0
    assert "error" not in result.stderr
    assert sorted(taken.request_id for taken in sandbox.taken) == sorted(
        request_id_of(payload(number)) for number in range(20)
    )
    assert read_csv(tmp_path / "leads.csv.results.csv") == [
        {
            "line": str(number + 2),
            "key": f"leads.csv:{number}",
            "state": "accepted",
            "request_id": request_id_of(payload(number)),
            "version": ANY,
            "activity_id": "",
            "error_type": "",
            "message": "",
        }
        for number in range(20)
    ]
    assert {file.name for file in tmp_path.iterdir()} == {
        "leads.csv",
        "leads.csv.outbox.db",
        "leads.csv.results.csv",
    }
    assert "20 accepted, 0 rejected, 0 uncertain, 0 failed" in result.stdout
    assert f"results:   {path}.results.csv" in result.stdout
    assert f"outbox:    {path}.outbox.db" in result.stdout


def test_in_a_process_of_its_own(tmp_path: Path, sandbox: Sandbox) -> None:
    write_rows(tmp_path / "leads.csv", 20)
    process = start(["post", "leads.csv", "--json"], keys_of(sandbox), tmp_path)
    assert process.wait() == 0
    summary = json.loads((tmp_path / "stdout").read_text())
    seconds = summary.pop("seconds")
    assert 0 < seconds < 60
    assert summary == {
        "rows": 20,
        "accepted": 20,
        "rejected": 0,
        "uncertain": 0,
        "failed": 0,
        "not_sent": 0,
        "interrupted": False,
        "results": "leads.csv.results.csv",
        "rejects": None,
        "uncertain_rows": None,
        "outbox": "leads.csv.outbox.db",
    }
    assert "error" not in (tmp_path / "stderr").read_text()


def test_results_are_in_input_order_whatever_came_first(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 150)
    faults = Faults({"slow": 0.2}, slow=0.2)
    with Sandbox(delay=(0, 0.1), period=0.2, faults=faults, seed=3) as sandbox:
        assert post_fast(path, sandbox) is Exit.ALL_ACCEPTED
    results = read_csv(tmp_path / "leads.csv.results.csv")
    assert [row["line"] for row in results] == [str(number + 2) for number in range(150)]
    wanted = [request_id_of(payload(number)) for number in range(150)]
    assert [row["request_id"] for row in results] == wanted
    assert [taken.request_id for taken in sandbox.taken] != wanted
    assert sandbox.report().refused == 0


def test_rejects_can_be_corrected_and_posted_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 6)
    with Sandbox(faults=Faults(script=["ok", "500-mx", "ok", "200-error"])) as sandbox:
        result = run("post", path, env=keys_of(sandbox))
        assert result.exit_code == 1
        assert "(2 not through: 2 to correct; then post this file)" in result.stdout
        rejects = tmp_path / "leads.csv.rejects.csv"
        found = read_csv(rejects)
        reasons = [row.pop("leadpost_reason").partition(":")[0] for row in found]
        assert sorted(reasons) == ["ApplicationError", "Rejected"]
        keys = {row["key"] for row in read_csv(tmp_path / "leads.csv.results.csv")}
        assert {row.pop("leadpost_key") for row in found} < keys
        assert len({row.pop("leadpost_version") for row in found}) == 2
        assert sorted(found, key=lambda row: row["ActivityNote"]) == [
            record(n, ActivityDateTime="2025-01-31 12:13:44+00:00")
            for n in range(6)
            if states(tmp_path / "leads.csv.results.csv")[n] == "rejected"
        ]
        assert run("post", rejects, env=keys_of(sandbox)).exit_code == 0
    assert {taken.request_id for taken in sandbox.taken} == {
        request_id_of(payload(number)) for number in range(6)
    }


def test_rejects_of_json_are_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "leads.json"
    unlike: list[Any] = [7, {"ActivityNote": "नमस्ते \ud800"}]
    path.write_text(json.dumps([payload(0), payload(1), *unlike]))
    with Sandbox(faults=Faults(script=["500-mx"])) as sandbox:
        result = run("post", path, "--skip-invalid", env=keys_of(sandbox))
        assert result.exit_code == 1
        assert "line 1, item 3, activity: found a value of type int" in result.stderr
        rejects = tmp_path / "leads.json.rejects.jsonl"
        assert "नमस्ते" in rejects.read_text()
        found = read_jsonl(rejects)
        assert all(row.pop("leadpost_reason") for row in found)
        assert len({row.pop("leadpost_version") for row in found}) == 3
        assert [row.pop("leadpost_key") for row in found][1:] == ["leads.json:2", "leads.json:3"]
        assert found[0].pop("ActivityDateTime") == "2025-01-31 12:13:44+00:00"
        moment = {"ActivityDateTime": payload(0)["ActivityDateTime"]}
        assert found[0] | moment in [payload(0), payload(1)]
        assert found[1:] == [{"leadpost_row": 7}, unlike[1]]
        assert len(found) == 3
        again = run("post", rejects, "--skip-invalid", env=keys_of(sandbox))
    assert again.exit_code == 1
    assert sorted(taken.payload["ActivityNote"] for taken in sandbox.taken) == ["Note 0", "Note 1"]


def test_what_may_have_arrived_is_no_reject(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 4)
    with Sandbox(faults=Faults(script=["cut-after", "502-after"])) as sandbox:
        result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 1
    assert "(2 may have arrived" in result.stdout
    assert len(read_csv(tmp_path / "leads.csv.uncertain.csv")) == 2
    assert not (tmp_path / "leads.csv.rejects.csv").exists()
    assert (
        sorted(states(tmp_path / "leads.csv.results.csv")) == ["accepted"] * 2 + ["uncertain"] * 2
    )
    assert len(sandbox.taken) == 4


def test_what_may_have_arrived_is_posted_again_where_that_is_wanted(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    with Sandbox(faults=Faults(script=["cut-after"])) as sandbox:
        result = run("post", path, "--on-uncertain", "retry", env=keys_of(sandbox))
    assert result.exit_code == 0
    assert sandbox.report().duplicates == 1


def bad_file(path: Path, bad: int = 2) -> Path:
    rows = [record(0), *(record(n, ActivityEvent="x") for n in range(1, bad + 1)), record(bad + 1)]
    return write_csv(path, rows)


def test_nothing_is_sent_of_a_file_with_a_bad_row(tmp_path: Path, sandbox: Sandbox) -> None:
    path = bad_file(tmp_path / "leads.csv")
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"line {line}, ActivityEvent: found text of the form 'a',"
        " wanted a positive integer such as 201"
        for line in (3, 4)
    ] + ["(in forms, 9 stands for a digit and a for a letter)", UTC_ASSUMED]
    assert "this run sends nothing" in result.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["leads.csv"]
    assert sandbox.report().arrivals == 0


def test_the_first_20_problems_are_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    result = run("post", bad_file(tmp_path / "leads.csv", 30), "--dry-run")
    lines = result.stderr.splitlines()
    assert (len(lines), lines[20]) == (23, "… and 10 more")


def test_forms_are_explained_only_where_there_are_some(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0, ActivityEvent="")])
    result = run("post", path, "--dry-run")
    assert len(result.stderr.splitlines()) == 1
    assert f"{path}: 1 row, 0 good, 1 bad" in result.stdout


def test_the_good_rows_are_posted_if_the_bad_ones_are_skipped(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = bad_file(tmp_path / "leads.csv")
    path.write_text(path.read_text() + "too,few\n")
    result = run("post", path, "--skip-invalid", env=keys_of(sandbox))
    assert result.exit_code == 1
    results = read_csv(tmp_path / "leads.csv.results.csv")
    assert [(row["line"], row["state"], row["error_type"]) for row in results] == [
        ("2", "accepted", ""),
        ("3", "rejected", "InvalidActivity"),
        ("4", "rejected", "InvalidActivity"),
        ("5", "accepted", ""),
        ("6", "rejected", "InvalidActivity"),
    ]
    assert {taken.request_id for taken in sandbox.taken} == {
        request_id_of(payload(0)),
        request_id_of(payload(3)),
    }
    rejects = tmp_path / "leads.csv.rejects.csv"
    last = rejects.read_text().splitlines()[-1]
    assert re.fullmatch(
        r'".* 2 cells, wanted 5 as in the header",leads.csv:4,v0-[-\w]{21},too,few', last
    )
    again = run("post", rejects, "--dry-run")
    assert "line 4, row: found 2 cells, wanted 5 as in the header" in again.stderr


def test_a_dry_run_sends_nothing_and_needs_no_keys(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 1001)
    result = run("post", path, "--dry-run")
    assert (result.exit_code, result.stderr) == (0, f"{UTC_ASSUMED}\n")
    assert result.stdout == (
        f"{path}: 1001 rows, 1001 good, 0 bad\n"
        "posting 1001 takes about 3 min 20 s at 25 calls per 5 s\n"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["leads.csv"]
    slower = run("post", path, "--dry-run", "--limit", "10")
    assert "about 8 min 20 s at 10 calls per 5 s" in slower.stdout


@pytest.mark.parametrize(("option", "code"), [("--dry-run", 2), ("--skip-invalid", 1)])
def test_a_dry_run_of_a_bad_file(tmp_path: Path, option: str, code: int) -> None:
    path = bad_file(tmp_path / "leads.csv")
    result = run("post", path, "--dry-run", option, "--json")
    assert result.exit_code == code
    found = json.loads(result.stdout)
    problem = found["problems"].pop(0)
    assert problem == {
        "line": 3,
        "item": None,
        "column": "ActivityEvent",
        "found": "text of the form 'a'",
        "wanted": "a positive integer such as 201",
    }
    del found["problems"]
    assert found == {"rows": 4, "good": 2, "bad": 2, "seconds": 0.0}


def test_standard_input_and_a_name_for_its_results(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = write_rows(tmp_path / "leads.csv", 2).read_bytes()
    assert run("post", "-", env=keys_of(sandbox), stdin=text).exit_code == 0
    base = ["--output-base", "mine"]
    assert run("post", "-", *base, env=keys_of(sandbox), stdin=text).exit_code == 0
    assert states(tmp_path / "stdin.results.csv") == states(tmp_path / "mine.results.csv")


def test_options_reach_the_activities(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_csv(tmp_path / "leads", [record(0, ActivityNote="")])
    options = ["--timezone", "Asia/Kolkata", "--send-empty", "--format", "csv"]
    assert run("post", path, *options, env=keys_of(sandbox)).exit_code == 0
    (taken,) = sandbox.taken
    wanted = {"ActivityNote": "", "ActivityDateTime": "2025-01-31 06:43:44"}
    assert taken.payload == payload(0) | wanted


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_that_date_times_are_read_as_utc_is_said_where_it_is_so(tmp_path: Path, form: str) -> None:
    def told(*options: str, **changes: str) -> str:
        path = tmp_path / f"leads.{form}"
        if form == "csv":
            write_csv(path, [record(0, **changes), record(1, **changes)])
        else:
            path.write_text(json.dumps(payload(0) | changes))
        result = run("post", path, "--dry-run", *options)
        assert result.exit_code == 0
        return result.stderr

    assert told() == f"{UTC_ASSUMED}\n"
    assert told("--timezone", "UTC") == ""
    assert told(ActivityDateTime="2025-01-31T12:13:44+05:30") == ""


@pytest.mark.parametrize("as_json", [False, True])
def test_refused_keys_stop_the_run_with_3(tmp_path: Path, *, as_json: bool) -> None:
    path = write_rows(tmp_path / "leads.csv", 200)
    option = ["--json"] if as_json else []
    with Sandbox() as sandbox:
        env = {**keys_of(sandbox), "LEADPOST_SECRET_KEY": "wrong"}
        result = run("post", path, *option, env=env)
    assert result.exit_code == 3
    assert "error: the keys were refused; nothing more was sent" in result.stderr
    assert sandbox.report().arrivals <= 25
    found = states(tmp_path / "leads.csv.results.csv")
    assert found == ["not_sent"] * 200
    reasons = [row["error_type"] for row in read_csv(tmp_path / "leads.csv.results.csv")]
    assert (reasons[0], reasons[-1]) == ("Unauthorized", "NotSent")
    assert not (tmp_path / "leads.csv.rejects.csv").exists()
    if as_json:
        summary = json.loads(result.stdout)
        assert (summary["not_sent"], summary["rejects"]) == (200, None)
    else:
        assert "200 rows not sent: run the same command again" in result.stdout


def test_a_wrong_url_stops_the_run_and_is_told_with_its_host(tmp_path: Path) -> None:
    path = bad_file(tmp_path / "leads.csv")
    with Sandbox() as sandbox:
        env = {**keys_of(sandbox), "LEADPOST_SUBMIT_PATH": "/elsewhere"}
        result = run("post", path, "--skip-invalid", env=env)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "error: the URL is wrong; nothing more was sent: HTTP 404, no such path at"
        f" {sandbox.url}/elsewhere: see submit_path (LEADPOST_SUBMIT_PATH) and host (LEADPOST_HOST)"
    )
    assert "(2 not through: 2 to correct; then post this file)" in result.stdout
    assert "2 rows not sent: run the same command again" in result.stdout


def test_a_host_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    with Sandbox() as sandbox:
        env = keys_of(sandbox)
    monkeypatch.setattr("leadpost.outbox.worker._UNREACHABLE", 0.0)
    result = run("post", path, env=env)
    assert result.exit_code == 1
    assert "\nerror: a connection failed: ConnectError" in result.stderr
    assert f"(at {env['LEADPOST_HOST']}: see LEADPOST_HOST or" in result.stderr
    assert f"{path}: 1 row in 0 s: 0 accepted, " in result.stdout
    assert "1 row not sent: run the same command again" in result.stdout


def test_an_outage_that_lasts_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadpost.outbox.worker.OUTAGE_TIMEOUT", 1.2)
    path = write_rows(tmp_path / "leads.csv", 2)
    later = Answer(503, "{}", {"retry-after": "1000", "content-type": "application/json"})
    with Sandbox(faults=Faults(script=[later, later])) as sandbox:
        result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        f"error: {sandbox.url} has not answered posts for 1 s (the last one: HTTP 503, ServerError,"
        " Retry-After 1000 s); nothing more was sent"
    )
    assert "2 rows not sent: run the same command again" in result.stdout


def test_a_full_disk_loses_no_row_and_posts_none_twice(tmp_path: Path) -> None:
    write_rows(tmp_path / "leads.csv", 15)
    said = tmp_path / "stderr"
    with Sandbox(delay=0.05) as sandbox:
        # As much as the rows take, and some of what becomes of them.
        process = start(["post", "leads.csv"], keys_of(sandbox), tmp_path, largest_file="800")
        assert process.wait() == 2
        assert said.read_text().splitlines()[-1].startswith("error: sqlite+aiosqlite:///leads.csv.")
        recorded = states_in(tmp_path / "leads.csv.outbox.db")["accepted"]
        told = {taken.request_id for taken in sandbox.taken if taken.request_id in said.read_text()}
        assert len(told) + recorded == len(sandbox.taken)
        assert start(["post", "leads.csv"], keys_of(sandbox), tmp_path).wait() in (0, 1)
        assert sandbox.report().duplicates == 0
    found = Counter(states(tmp_path / "leads.csv.results.csv"))
    assert found["accepted"] + found["uncertain"] == 15
    assert found["uncertain"] >= len(told)


@pytest.mark.parametrize(
    "args",
    [["post"], ["post", "x", "--limit", "26"], ["nothing"], ["post", "x", "--format", "xls"]],
)
def test_wrong_usage_ends_with_2(args: list[str]) -> None:
    assert run(*args).exit_code == 2
