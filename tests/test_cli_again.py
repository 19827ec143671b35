"""The same command again: what it takes up, what it refuses, what it knows of posted rejects."""

import json
from pathlib import Path

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

from leadpost.sandbox import Faults, Sandbox, request_id_of


def accepted(path: Path) -> list[str]:
    rows = read_csv(path.with_name(f"{path.name}.results.csv"))
    return [row["request_id"] for row in rows if row["state"] == "accepted"]


def bad(number: int) -> dict[str, str]:
    return record(number, ActivityEvent="x")


def corrected(path: Path, *numbers: int) -> Path:
    """Write rejects as a person would who corrected these rows."""
    return write_csv(path.with_name(f"{path.name}.rejects.csv"), map(record, numbers))


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
    assert "Give changed rows a file of their own" in result.stderr
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
    assert run("post", corrected(path, 1), env=keys_of(sandbox)).exit_code == 0
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    write_csv(path, [record(0), bad(1), record(2), bad(3)])  # a bad row that is new
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert "nothing was sent" in result.stdout
    assert len(sandbox.taken) == 2


def test_a_row_spoilt_since_is_no_row_left_to_the_rejects(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    write_csv(path, [record(0), bad(1)])
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert "nothing was sent: correct the bad rows" in result.stdout


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


def test_rejects_that_were_posted_are_known(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1), bad(2)])
    again = ["post", path, "--skip-invalid"]
    assert run(*again, env=keys_of(sandbox)).exit_code == 1
    rejects = corrected(path, 1, 2)
    text = rejects.read_text()
    assert run("post", rejects, env=keys_of(sandbox)).exit_code == 0
    result = run(*again, env=keys_of(sandbox))
    assert result.exit_code == 0
    assert "3 rows in 0 s: 1 accepted, 2 rejected, 0 uncertain, 0 failed" in result.stdout
    told = f"rejects:   {rejects} (2 not through: the file was posted since: 2 accepted)\n"
    assert told in result.stdout
    summary = json.loads(run(*again, "--json", env=keys_of(sandbox)).stdout)
    assert (summary["rejected"], summary["rejects_since"]) == (2, {"accepted": 2})
    assert (rejects.read_text(), len(sandbox.taken)) == (text, 3)


def test_rejects_of_which_some_are_not_through_yet(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1), bad(2), bad(3)])
    again = ["post", path, "--skip-invalid"]
    with Sandbox(limit=None, faults=Faults(script=["ok", "500-mx"])) as sandbox:
        assert run(*again, env=keys_of(sandbox)).exit_code == 1
        rejects = write_csv(corrected(path, 1), [record(1), record(2), bad(3)])
        assert run("post", rejects, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
        result = run(*again, env=keys_of(sandbox))
    assert result.exit_code == 1
    assert "(3 not through: the file was posted since: 1 accepted, 1 rejected)" in result.stdout


def test_rejects_that_were_posted_through_the_same_outbox_are_known(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1)])
    outbox = ["--outbox", url_of(tmp_path / "all.db")]
    again = ["post", path, "--skip-invalid", *outbox]
    assert run(*again, env=keys_of(sandbox)).exit_code == 1
    assert run("post", corrected(path, 1), *outbox, env=keys_of(sandbox)).exit_code == 0
    result = run(*again, env=keys_of(sandbox))
    assert (result.exit_code, "since: 1 accepted)" in result.stdout) == (0, True)


def test_what_was_in_doubt_and_posted_by_itself_is_known(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    uncertain = tmp_path / "leads.csv.uncertain.csv"
    with Sandbox(limit=None, faults=Faults(script=["cut-before"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        assert run("post", uncertain, env=keys_of(sandbox)).exit_code == 0
        result = run("post", path, "--json", env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (0, 2)
    assert json.loads(result.stdout)["uncertain_since"] == {"accepted": 1}


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


@pytest.mark.parametrize("place", range(3))
def test_a_bad_row_is_not_corrected_in_two_places(
    tmp_path: Path, sandbox: Sandbox, place: int
) -> None:
    path = write_csv(
        tmp_path / "leads.csv", [bad(n) if n == place else record(n) for n in range(3)]
    )
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    assert run("post", corrected(path, place), env=keys_of(sandbox)).exit_code == 0
    write_rows(path, 3)
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 3)
    told = f"line {place + 2}: corrected here, and the rejects were posted too\n"
    assert told in result.stderr
    assert result.stderr.endswith(
        f"error: {path}: 1 row corrected twice since an earlier run; nothing was sent. What was"
        " posted of the rejects counts: undo the change of these rows here, and give those that"
        " were not posted there a file of their own\n"
    )


@pytest.mark.parametrize("name", ["rejects.csv", "rejects.1.csv"])
def test_rejects_whose_rows_got_through_since_are_not_posted(
    tmp_path: Path, sandbox: Sandbox, name: str
) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1), bad(2)])
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    write_csv(path, [record(0), record(1), bad(2)])
    assert run("post", path, env=keys_of(sandbox)).exit_code == 1
    old = corrected(path, 1, 2).rename(tmp_path / f"leads.csv.{name}")
    result = run("post", old, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert (
        f"error: {old}: found 2 rows, wanted no more than the 1 that did not get through, by"
        f" {path}.results.csv; nothing was sent. Leave out what got through since"
    ) in result.stderr
    write_csv(old, [record(2)])
    assert run("post", old, env=keys_of(sandbox)).exit_code == 0
    assert len(sandbox.taken) == 3


@pytest.mark.parametrize("results", [None, "line\n2\n"])
def test_rejects_without_their_results_are_a_file_like_any_other(
    tmp_path: Path, sandbox: Sandbox, results: str | None
) -> None:
    path = write_csv(tmp_path / "leads.csv.rejects.csv", [record(0)])
    if results is not None:
        (tmp_path / "leads.csv.results.csv").write_text(results)
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0


def test_a_file_of_bad_rows_alone_is_not_corrected_in_two_places(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_csv(tmp_path / "leads.csv", [bad(0)])
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    assert run("post", corrected(path, 0), env=keys_of(sandbox)).exit_code == 0
    write_rows(path, 1)
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 1)
    assert "1 row corrected twice since an earlier run" in result.stderr


def test_without_the_results_nobody_knows_which_rows_were_bad(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_csv(tmp_path / "leads.csv", [record(0), bad(1), record(2)])
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    (tmp_path / "leads.csv.results.csv").unlink()
    write_rows(path, 3)
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, len(sandbox.taken)) == (2, 2)
    assert f"line 3: {NOT_AS_IT_WAS}\n" in result.stderr


def test_rows_that_were_pruned_are_not_posted_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 4)
    with Sandbox(faults=Faults(script=["ok", "ok", "500-mx"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        outbox = f"{path}.outbox.db"
        assert run("outbox", "prune", "--older-than", "0s", "--outbox", outbox).exit_code == 0
        assert states_in(Path(outbox)).total() == 3
        result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, sandbox.report().arrivals) == (2, 4)
    assert ": had a result, and is in the outbox no more\n" in result.stderr
    assert f"error: {path}: 1 row pruned since an earlier run" in result.stderr
