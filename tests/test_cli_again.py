"""The same command again: what it takes up, and what it refuses."""

from pathlib import Path

import pytest
from cli_support import (
    bad,
    keys_of,
    payload,
    read_csv,
    record,
    run,
    states_in,
    write_csv,
    write_rows,
)

from leadpost.sandbox import Faults, Sandbox, request_id_of


def accepted(path: Path) -> list[str]:
    rows = read_csv(path.with_name(f"{path.name}.results.csv"))
    return [row["request_id"] for row in rows if row["state"] == "accepted"]


def test_rows_appended_since_are_taken_up(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    with Sandbox() as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        write_rows(path, 4)
        result = run("post", path, env=keys_of(sandbox))
        assert result.exit_code == 0
        assert "going on: 2 of 4 rows were done before" in result.stderr
        assert len(sandbox.taken) == 4
    assert accepted(path) == [request_id_of(payload(n)) for n in range(4)]


ORIGINAL = [record(0), record(1, ActivityEvent="bad"), record(2), record(3)]
NOT_AS_IT_WAS = "not as it was when it was put into the outbox"


@pytest.mark.parametrize(
    ("rows", "lines", "told"),
    [
        pytest.param(
            [*ORIGINAL[:2], record(2, ActivityNote="PERSONAL"), ORIGINAL[3]],
            [f"line 4: {NOT_AS_IT_WAS}"],
            "1 row changed since",
            id="changed",
        ),
        pytest.param(
            [*ORIGINAL[:3], record(3, ActivityEvent="bad")],
            [f"line 5: {NOT_AS_IT_WAS}"],
            "1 row changed since",
            id="spoilt",
        ),
        pytest.param(ORIGINAL[:3], [], "1 row missing since", id="removed"),
        pytest.param(
            [record(n, ActivityNote="PERSONAL") for n in range(30)],
            [*(f"line {line}: {NOT_AS_IT_WAS}" for line in (2, 4, 5))],
            "3 rows changed since",
            id="another file",
        ),
    ],
)
def test_rows_changed_since_are_told(
    tmp_path: Path, rows: list[dict[str, str]], lines: list[str], told: str
) -> None:
    path = write_csv(tmp_path / "leads.csv", ORIGINAL)
    with Sandbox() as sandbox:
        assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
        before = (tmp_path / "leads.csv.results.csv").read_bytes()
        write_csv(path, rows)
        result = run("post", path, "--skip-invalid", "--json", env=keys_of(sandbox))
        assert result.exit_code == 2
        assert sandbox.report().arrivals == 3
    found = [line for line in result.stderr.splitlines() if NOT_AS_IT_WAS in line]
    assert found == lines
    assert f"error: {path}: {told}" in result.stderr
    assert "put it back as it stood" in result.stderr
    assert "PERSONAL" not in result.output
    assert (tmp_path / "leads.csv.results.csv").read_bytes() == before
    assert states_in(tmp_path / "leads.csv.outbox.db").total() == 3


def test_rows_once_left_to_the_rejects_need_no_option_again(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1)])
    assert run("post", path, env=keys_of(sandbox)).exit_code == 2
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 1
    assert "going on: 2 of 2 rows were done before" in result.stderr
    assert "1 accepted, 1 rejected" in result.stdout
    write_csv(path, [record(0), bad(1), record(2), bad(3)])  # a bad row that is new
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert "this run sends nothing" in result.stdout
    assert len(sandbox.taken) == 1


@pytest.mark.parametrize("sent", [True, False])
def test_a_row_spoilt_since_is_told(tmp_path: Path, sandbox: Sandbox, *, sent: bool) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    wrong = {} if sent else {"LEADPOST_ACCESS_KEY": "wrong"}
    assert run("post", path, env=keys_of(sandbox) | wrong).exit_code == (0 if sent else 3)
    before = sandbox.report().arrivals
    write_csv(path, [record(0), bad(1)])
    for options in ([], ["--skip-invalid"]):
        result = run("post", path, *options, env=keys_of(sandbox))
        assert (result.exit_code, sandbox.report().arrivals) == (2, before)
    assert f"line 3: {NOT_AS_IT_WAS}\n" in result.stderr


def test_a_correction_may_be_taken_back_before_it_is_sent(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    wrong = keys_of(sandbox) | {"LEADPOST_ACCESS_KEY": "wrong"}
    for note in ("first", "second", "first"):
        write_csv(path, [record(0, ActivityNote=note)])
        assert run("post", path, env=wrong).exit_code == 3
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    assert [taken.payload["ActivityNote"] for taken in sandbox.taken] == ["first"]


@pytest.mark.parametrize("option", [["--timezone", "Asia/Kolkata"], ["--send-empty"]])
def test_an_option_that_was_forgotten_is_no_correction(tmp_path: Path, option: list[str]) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0, mx_Custom_1="")])
    with Sandbox(limit=None, faults=Faults(script=["500-mx"])) as sandbox:
        assert run("post", path, *option, env=keys_of(sandbox)).exit_code == 1
        result = run("post", path, env=keys_of(sandbox))
        assert (result.exit_code, sandbox.report().arrivals) == (2, 1)
        told = "as if --timezone or --send-empty were forgotten: give them (an offset corrects a"
        assert f"line 2: {told} time)\n" in result.stderr
        write_csv(path, [record(0, ActivityNote="better", mx_Custom_1="")])
        assert run("post", path, *option, env=keys_of(sandbox)).exit_code == 0
    (taken,) = sandbox.taken
    assert taken.payload["ActivityNote"] == "better"
    in_zone = "2025-01-31 06:43:44" if len(option) == 2 else "2025-01-31 12:13:44"
    assert taken.payload["ActivityDateTime"] == in_zone
    assert ("Fields" in taken.payload) == (len(option) == 1)


def test_the_order_of_the_columns_does_not_count(tmp_path: Path, sandbox: Sandbox) -> None:
    rows = [record(n, mx_Custom_2="x") for n in range(2)]
    path = write_csv(tmp_path / "leads.csv", rows)
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    write_csv(path, [dict(sorted(row.items(), reverse=True)) for row in rows])
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    assert len(sandbox.taken) == 2


def test_no_more_than_20_changed_rows_are_listed(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 25)
    with Sandbox(limit=None) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        write_csv(path, (record(n, ActivityNote="other") for n in range(25)))
        result = run("post", path, env=keys_of(sandbox))
    lines = result.stderr.splitlines()
    told = [line for line in lines if NOT_AS_IT_WAS in line]
    assert (result.exit_code, len(told)) == (2, 20)
    assert "… and 5 more" in lines


@pytest.mark.parametrize("wrong", [(0,), (1,), (3,), (0, 2, 3), (0, 1, 2, 3)])
def test_a_bad_row_may_be_corrected_where_it_stands(
    tmp_path: Path, sandbox: Sandbox, wrong: tuple[int, ...]
) -> None:
    rows = [bad(n) if n in wrong else record(n) for n in range(4)]
    path = write_csv(tmp_path / "leads.csv", rows)
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    before = len(sandbox.taken)
    write_rows(path, 4)
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, before, len(sandbox.taken)) == (0, 4 - len(wrong), 4)
    assert accepted(path) == [request_id_of(payload(n)) for n in range(4)]
    assert not (tmp_path / "leads.csv.rejects.csv").exists()


def test_rows_that_leadsquared_refused_may_be_corrected_where_they_stand(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 3)
    with Sandbox(limit=None, faults=Faults(script=["500-mx", "ok", "500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        results = read_csv(tmp_path / "leads.csv.results.csv")
        refused = [n for n in range(3) if results[n]["state"] == "rejected"]
        rows = [record(n, ActivityNote="b") if n in refused else record(n) for n in range(3)]
        write_csv(path, rows)
        result = run("post", path, env=keys_of(sandbox))
        assert (result.exit_code, len(sandbox.taken)) == (0, 3)
        assert "going on: 1 of 3 rows were done before" in result.stderr
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
        write_csv(
            path, [record(n, ActivityNote="c") if n in refused else record(n) for n in range(3)]
        )
        result = run("post", path, env=keys_of(sandbox))
        assert (result.exit_code, len(sandbox.taken)) == (2, 3)
    assert f"error: {path}: 2 rows changed since" in result.stderr
    assert not (tmp_path / "leads.csv.rejects.csv").exists()


def test_rows_that_were_not_sent_yet_may_be_corrected(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_rows(tmp_path / "leads.csv", 3)
    wrong = keys_of(sandbox) | {"LEADPOST_ACCESS_KEY": "wrong"}
    assert run("post", path, env=wrong).exit_code == 3
    states = [row["state"] for row in read_csv(tmp_path / "leads.csv.results.csv")]
    unsent = [n for n in range(3) if states[n] == "not_sent"]
    rows = [record(n, ActivityNote=f"b {n}") if n in unsent else record(n) for n in range(3)]
    write_csv(path, rows)
    assert run("post", path, env=keys_of(sandbox)).exit_code in {0, 1}
    posted = {taken.payload["ActivityNote"] for taken in sandbox.taken}
    assert posted >= {f"b {n}" for n in unsent} != set()


@pytest.mark.parametrize("is_same", [True, False])
def test_rows_that_may_have_arrived_are_not_corrected(tmp_path: Path, *, is_same: bool) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    with Sandbox(faults=Faults(script=["cut-after"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        write_csv(path, [record(0 if is_same else 1)])
        result = run("post", path, env=keys_of(sandbox))
        assert (result.exit_code, sandbox.report().arrivals) == (1 if is_same else 2, 1)
    assert (f"line 2: {NOT_AS_IT_WAS}" in result.stderr) == (not is_same)


def test_without_the_results_nobody_knows_which_rows_were_bad(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1), record(2)])
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    (tmp_path / "leads.csv.results.csv").unlink()
    write_rows(path, 3)
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert "line 3: rows after it were, and no results tell why: run this once with" in (
        result.stderr
    )
    assert "1 row not put by an earlier run; nothing was sent" in result.stderr


def test_rows_that_were_pruned_are_not_posted_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 4)
    with Sandbox(faults=Faults(script=["ok", "ok", "500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        outbox = f"{path}.outbox.db"
        assert run("outbox", "prune", "--older-than", "0s", "--outbox", outbox).exit_code == 0
        assert states_in(Path(outbox)).total() == 3
        result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, sandbox.report().arrivals) == (2, 4)
    assert ": had a result, and the outbox forgot its activity\n" in result.stderr
    assert f"error: {path}: 1 row pruned since an earlier run" in result.stderr


def test_another_file_under_the_name_is_no_correction(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    wrong = keys_of(sandbox) | {"LEADPOST_SECRET_KEY": "wrong"}
    assert run("post", path, env=wrong).exit_code == 3
    before = sandbox.report().arrivals
    write_csv(path, [record(n) for n in range(7, 11)])
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, sandbox.report().arrivals) == (2, before)
    told = "has another lead, and more differs too: a correction keeps either"
    assert [line for line in range(2, 6) if f"line {line}: {told}" in result.stderr] == [2, 3]
    assert f"error: {path}: 2 rows replaced; nothing was sent" in result.stderr
    lead = {"RelatedProspectId": record(9)["RelatedProspectId"]}
    write_csv(path, [record(n) | lead for n in (0, 1)])
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0


def test_an_outbox_that_was_forgotten_does_not_post_a_file_again(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    outbox = ["--outbox", tmp_path / "all.db"]
    assert run("post", path, *outbox, env=keys_of(sandbox)).exit_code == 0
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert (
        "give the --outbox and --output-base of that run: else all of it is posted" in result.stderr
    )
    assert not Path(f"{path}.outbox.db").exists()
    assert run("post", path, *outbox, env=keys_of(sandbox)).exit_code == 0


def test_bad_rows_are_no_better_for_being_forced(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1)])
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    (tmp_path / "leads.csv.outbox.db").unlink()
    result = run("post", path, "--force", env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 1)
    assert "this run sends nothing" in result.stdout


def test_an_option_that_was_forgotten_is_named_for_what_got_through_too(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    zone = ["--timezone", "Asia/Kolkata"]
    assert run("post", path, *zone, env=keys_of(sandbox)).exit_code == 0
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert f"error: {path}: 2 rows read with other options; nothing was sent" in result.stderr
    assert run("post", path, *zone, env=keys_of(sandbox)).exit_code == 0


def test_a_name_with_a_colon_is_refused(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_rows(tmp_path / "a:b.csv", 1)
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert f"error: {path}: found a colon in the name" in result.stderr
    base = ["--output-base", tmp_path / "ab"]
    assert run("post", path, *base, env=keys_of(sandbox)).exit_code == 0
