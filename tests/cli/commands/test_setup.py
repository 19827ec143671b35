"""`leadpost setup`: keys are asked for, checked, and kept in a file of the user's own."""

from __future__ import annotations

import pytest
from files_support import Desk, cells, write_csv

from leadpost.cli.account import keys_path, read_account
from leadpost.cli.commands.doctor import Line


@pytest.fixture(autouse=True)
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadpost.cli.commands.setup.is_terminal", lambda: True)
    for name in ("HOST", "ACCESS_KEY", "SECRET_KEY", "API_KEY"):
        monkeypatch.delenv(f"LEADPOST_{name}", raising=False)


@pytest.fixture
def bare(desk: Desk) -> Desk:
    """A desk without keys in the environment."""
    desk.environment = {"COLUMNS": "200", "NO_COLOR": "1"}
    return desk


def answers(desk: Desk, **changes: str) -> str:
    account = desk.sandbox.account()
    given = {
        "host": desk.sandbox.url,
        "access": account.access_key,
        "secret": account.secret_key,
        "api": account.api_key,
    } | changes
    return "".join(f"{value}\n" for value in given.values())


def test_keys_are_checked_and_written(bare: Desk) -> None:
    done = bare.run("setup", stdin=answers(bare))
    assert done.exit_code == 0, done.output
    assert "accepted in the query" in done.stdout
    assert "--timezone Asia/Kolkata" in done.stdout
    assert f"Written to {keys_path()}" in done.stdout
    assert keys_path().stat().st_mode & 0o777 == 0o600
    for key in bare.sandbox.account().secrets:
        assert key not in done.output
    path = write_csv(bare.folder / "calls.csv", [cells(0)])
    assert bare.post(path)[0] == 0
    assert bare.notes() == ["Note 0"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("access", "correct LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY"),
        ("secret", "correct LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY"),
        ("api", "correct LEADPOST_API_KEY"),
    ],
)
def test_rejected_keys_are_named_and_not_written(bare: Desk, wrong: str, said: str) -> None:
    done = bare.run("setup", stdin=answers(bare, **{wrong: "wrong-key-0123"}) + "n\n")
    assert done.exit_code == 3
    assert len([line for line in done.stdout.splitlines() if line.startswith("failed")]) == 1
    assert said in done.stdout
    assert "Nothing was written" in done.stderr
    assert "wrong-key" not in done.output
    assert not keys_path().exists()


def test_what_is_neither_a_region_nor_a_host_is_asked_for_again(bare: Desk) -> None:
    done = bare.run("setup", stdin="indai\n" + answers(bare))
    assert done.exit_code == 0, done.output
    assert "'indai' is neither a region nor a host such as asyncapi-in21" in done.stderr


def test_a_file_that_is_there_is_replaced_only_if_wanted(bare: Desk) -> None:
    keys_path().parent.mkdir(parents=True)
    keys_path().write_text("there")
    assert bare.run("setup", stdin="n\n").exit_code == 2
    assert keys_path().read_text() == "there"
    assert bare.run("setup", stdin="y\n" + answers(bare)).exit_code == 0
    assert "ACCESS_KEY" in keys_path().read_text()


@pytest.mark.parametrize(("answer", "written"), [("y", True), ("n", False)])
def test_keys_that_cannot_be_checked_are_written_if_wanted(
    bare: Desk, answer: str, *, written: bool
) -> None:
    done = bare.run("setup", stdin=answers(bare, host="http://127.0.0.1:9") + f"{answer}\n")
    assert "failed   keys" in done.stdout
    assert done.exit_code == (0 if written else 75)
    assert keys_path().exists() is written


@pytest.mark.parametrize("key", ["two words", "it's"])
def test_a_malformed_key_is_refused(bare: Desk, key: str) -> None:
    done = bare.run("setup", stdin=answers(bare, api=key) + "y\n")
    assert done.exit_code == 2
    assert "LEADPOST_API_KEY" in done.stderr
    assert key not in done.output
    assert not keys_path().exists()


def test_a_region_may_be_entered_in_any_case(bare: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody_is_asked(*_: object) -> list[Line]:
        return []

    monkeypatch.setattr("leadpost.cli.commands.setup.diagnose", nobody_is_asked)
    assert bare.run("setup", stdin=answers(bare, host="India")).exit_code == 0
    assert read_account(None).host == "https://asyncapi-in21.leadsquared.com"


def test_elsewhere_it_asks_nothing(bare: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadpost.cli.commands.setup.is_terminal", lambda: False)
    done = bare.run("setup")
    assert done.exit_code == 2
    assert "setup needs a terminal" in done.stderr
