"""The files that `leadpost post` leaves: who may read them, and what the user made of them."""

import os
import time
from pathlib import Path

import pytest
from cli_support import keys_of, read_csv, record, run, url_of, write_csv, write_rows

from leadpost.cli.results import Posted, Result
from leadpost.sandbox import Faults, Sandbox


def bad_file(path: Path, bad: int) -> Path:
    return write_csv(path, [record(0), *(record(n, ActivityEvent="x") for n in range(1, bad + 1))])


def states(path: Path) -> list[str]:
    return [row["state"] for row in read_csv(path)]


def edit(path: Path, text: str) -> None:
    """Write what a person would, some time after the run."""
    path.write_text(text)
    later = time.time() + 1
    os.utime(path, (later, later))


def beside(path: Path) -> set[str]:
    """What stands beside a file, without the file's name."""
    return {other.name.removeprefix(path.name) for other in path.parent.iterdir()} - {""}


def test_rejects_that_were_edited_stay_where_the_same_rows_belong(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = bad_file(tmp_path / "leads.csv", 1)
    again = ["post", path, "--skip-invalid"]
    rejects = tmp_path / "leads.csv.rejects.csv"
    assert run(*again, env=keys_of(sandbox)).exit_code == 1
    text = rejects.read_text().replace("Note 1", "corrected")
    edit(rejects, text)
    for _ in range(2):
        result = run(*again, env=keys_of(sandbox))
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1] == f"{rejects} seems edited: left as it is"
        assert "(1 not through: 1 to correct; then post this file)" in result.stdout
        assert rejects.read_text() == text
    assert beside(path) == {".outbox.db", ".results.csv", ".rejects.csv"}


def test_rejects_that_were_edited_are_kept_where_others_belong(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "leads.csv"
    rejects = tmp_path / "leads.csv.rejects.csv"
    for bad in range(1, 4):
        bad_file(path, bad)
        result = run("post", path, "--skip-invalid", env=keys_of(sandbox))
        assert result.exit_code == 1
        assert len(read_csv(rejects)) == bad
        if bad > 1:
            kept = tmp_path / f"leads.csv.rejects.{bad - 1}.csv"
            assert kept.read_text() == f"corrected {bad - 1}"
            assert result.stderr.splitlines()[-1] == (
                f"{rejects} seems edited, and lacks rows that belong there, or their latest"
                f" version: kept as {kept}"
            )
        edit(rejects, f"corrected {bad}")


def test_what_was_not_edited_is_replaced(tmp_path: Path, sandbox: Sandbox) -> None:
    path = tmp_path / "leads.csv"
    for bad in range(1, 4):
        bad_file(path, bad)
        result = run("post", path, "--skip-invalid", env=keys_of(sandbox))
        assert "edited" not in result.stderr
        assert len(read_csv(tmp_path / "leads.csv.rejects.csv")) == bad
    assert beside(path) == {".outbox.db", ".results.csv", ".rejects.csv"}


def test_what_was_saved_as_it_is_is_not_kept(tmp_path: Path, sandbox: Sandbox) -> None:
    path = bad_file(tmp_path / "leads.csv", 1)
    rejects = tmp_path / "leads.csv.rejects.csv"
    for _ in range(2):
        result = run("post", path, "--skip-invalid", env=keys_of(sandbox))
        assert "edited" not in result.stderr
        edit(rejects, rejects.read_bytes().decode())
    assert beside(path) == {".outbox.db", ".results.csv", ".rejects.csv"}


def test_edits_are_kept_though_the_results_are_away_or_newer(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = bad_file(tmp_path / "leads.csv", 1)
    results, rejects = (tmp_path / f"leads.csv.{name}.csv" for name in ("results", "rejects"))
    again = ["post", path, "--skip-invalid"]
    run(*again, env=keys_of(sandbox))
    text = rejects.read_text().replace("Note 1", "corrected")
    edit(rejects, text)
    edit(results, results.read_text())
    later = time.time() + 9
    os.utime(results, (later, later))
    assert "left as it is" in run(*again, env=keys_of(sandbox)).stderr
    assert rejects.read_text() == text
    for nothing in (None, "", "line,state\n3,rejected\n"):
        results.unlink() if nothing is None else results.write_text(nothing)
        assert "left as it is" in run(*again, env=keys_of(sandbox)).stderr
        assert rejects.read_text() == text


@pytest.mark.parametrize("spoilt", ["", "nothing\n", "leadpost_key\nleads.csv:1\n"])
def test_edits_that_lack_a_row_are_kept_beside(
    tmp_path: Path, sandbox: Sandbox, spoilt: str
) -> None:
    path = bad_file(tmp_path / "leads.csv", 2)
    rejects = tmp_path / "leads.csv.rejects.csv"
    again = ["post", path, "--skip-invalid"]
    run(*again, env=keys_of(sandbox))
    lines = rejects.read_text().splitlines(keepends=True)
    for number, text in enumerate(("".join(lines[:-1]), spoilt), 1):
        edit(rejects, text)
        assert f"kept as {path}.rejects.{number}.csv\n" in run(*again, env=keys_of(sandbox)).stderr
        assert (tmp_path / f"leads.csv.rejects.{number}.csv").read_text() == text
        assert len(read_csv(rejects)) == 2


def test_an_edited_file_is_kept_where_there_are_no_such_rows_any_more(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    uncertain = tmp_path / "leads.csv.uncertain.csv"
    with Sandbox(faults=Faults(script=["cut-after"])) as sandbox:
        assert run("post", path, env=keys_of(sandbox)).exit_code == 1
        edit(uncertain, "looked at")
        outbox = ["outbox", "--outbox", f"{path}.outbox.db"]
        assert run(*outbox, "retry", "--state", "uncertain", "--yes").exit_code == 0
        assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    assert uncertain.read_text() == "looked at"


def test_where_no_time_can_be_set_what_differs_is_kept(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: object, **options: object) -> None:
        del args, options
        raise PermissionError

    path = bad_file(tmp_path / "leads.csv", 1)
    with monkeypatch.context() as patch:
        patch.setattr("os.utime", refused)
        assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    edit(tmp_path / "leads.csv.rejects.csv", "corrected")
    assert "seems edited" in run("post", path, "--skip-invalid", env=keys_of(sandbox)).stderr


def test_no_other_user_may_read_them_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bad_file(tmp_path / "leads.csv", 1)
    path.write_text(path.read_text() + ",".join(record(2).values()) + "\n")
    old = tmp_path / "leads.csv.rejects.csv"
    old.write_text("of an earlier version")
    old.chmod(0o644)
    result_of = Result.of
    during = dict[str, int]()

    def modes() -> dict[str, int]:
        return {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}

    def looking(posted: Posted) -> Result:
        during.update(modes())
        return result_of(posted)

    monkeypatch.setattr(Result, "of", looking)
    before = os.umask(0)
    try:
        with Sandbox(faults=Faults(script=["cut-after"])) as sandbox:
            args = ["post", path, "--skip-invalid", "--force"]
            assert run(*args, env=keys_of(sandbox)).exit_code == 1
    finally:
        os.umask(before)
    assert {mode for name, mode in during.items() if name.endswith(".tmp")} == {0o600}
    assert sum(name.endswith(".tmp") for name in during) == 3
    after = modes()
    for name in ("results", "rejects", "uncertain"):
        assert after[f"leads.csv.{name}.csv"] == 0o600


def test_a_new_file_under_an_old_name_is_told_what_to_do(tmp_path: Path, sandbox: Sandbox) -> None:
    path = bad_file(tmp_path / "leads.csv", 1)
    assert run("post", path, "--skip-invalid", env=keys_of(sandbox)).exit_code == 1
    write_csv(path, [record(7)])
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    names = " and ".join(f"{path}.{end}" for end in ("outbox.db", "results.csv", "rejects.csv"))
    told = "that were given then. If this is a new file under an old name: --output-base NAME"
    assert result.stderr.endswith(f"{told}, or move {names} away\n")
    for file in names.split(" and "):
        Path(file).rename(f"{file}.old")
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0


def test_new_contents_of_standard_input_are_told_what_to_do(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [write_csv(tmp_path / "leads.csv", [record(n)]).read_bytes() for n in range(2)]
    assert run("post", "-", env=keys_of(sandbox), stdin=texts[0]).exit_code == 0
    result = run("post", "-", env=keys_of(sandbox), stdin=texts[1])
    assert "NAME, or move stdin.outbox.db and stdin.results.csv away\n" in result.stderr


def test_an_outbox_of_many_files_is_not_to_be_moved(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    outbox = ["--outbox", url_of(tmp_path / "all.db")]
    assert run("post", path, *outbox, env=keys_of(sandbox)).exit_code == 0
    write_csv(path, [record(7)])
    result = run("post", path, *outbox, env=keys_of(sandbox))
    assert result.stderr.endswith("under an old name: --output-base NAME\n")
    base = ["--output-base", tmp_path / "new"]
    assert run("post", path, *outbox, *base, env=keys_of(sandbox)).exit_code == 0


@pytest.mark.parametrize("name", ["results.csv", "rejects.csv", "uncertain.csv"])
def test_no_file_is_overwritten_unless_forced(tmp_path: Path, sandbox: Sandbox, name: str) -> None:
    path = write_rows(tmp_path / "leads.csv", 2)
    old = tmp_path / f"leads.csv.{name}"
    old.write_text("old")
    result = run("post", path, env=keys_of(sandbox))
    assert (result.exit_code, old.read_text()) == (2, "old")
    assert f"error: {old}: there already, and this outbox knows" in result.stderr
    assert sandbox.report().arrivals == 0
    assert run("post", path, "--force", env=keys_of(sandbox)).exit_code == 0
    assert states(tmp_path / "leads.csv.results.csv") == ["accepted"] * 2
    assert old.exists() == (name == "results.csv")


def test_the_input_is_never_overwritten(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_rows(tmp_path / "leads.rejects.csv", 1)
    base = tmp_path / "leads"
    result = run("post", path, "--force", "--output-base", base, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert "would be overwritten" in result.stderr
    assert read_csv(path) == [record(0)]


def test_a_folder_that_takes_no_results_is_told_before_anything_is_sent(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = write_rows(tmp_path / "leads.csv", 1)
    base = tmp_path / "nowhere" / "leads"
    result = run("post", path, "--output-base", base, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert f"error: {base.parent}: found no folder that this user may write to" in result.stderr
    assert "choose an --output-base" in result.stderr
    assert (sandbox.report().arrivals, [*tmp_path.iterdir()]) == (0, [path])


def test_results_that_cannot_be_written_are_in_the_outbox(tmp_path: Path, sandbox: Sandbox) -> None:
    path = write_rows(tmp_path / "leads.csv", 3)
    results = tmp_path / "leads.csv.results.csv"
    results.mkdir()
    assert run("post", path, "--force", env=keys_of(sandbox)).exit_code == 2
    result = run("post", path, env=keys_of(sandbox))
    assert result.exit_code == 2
    assert "error: the results could not be written: " in result.stderr
    assert "the outbox has all of them: run the same command again" in result.stderr
    assert {file.name for file in tmp_path.iterdir()} == {
        "leads.csv",
        "leads.csv.outbox.db",
        "leads.csv.results.csv",
    }
    results.rmdir()
    assert run("post", path, env=keys_of(sandbox)).exit_code == 0
    assert states(results) == ["accepted"] * 3
    assert len(sandbox.taken) == 3
