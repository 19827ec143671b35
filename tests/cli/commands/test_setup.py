"""`leadpost setup`: keys are asked for, checked, and kept in a file of the user's own."""

from __future__ import annotations

import pytest
from documents import ROOT
from files_support import Desk, cells, write_csv

from leadpost.cli.account import keys_path, read_account
from leadpost.cli.outbox_url import _own
from leadpost.cli.verdicts import Line


@pytest.fixture(autouse=True)
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadpost.cli.commands.setup.is_interactive", lambda: True)
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
        ("access", "→ correct AccessKey and SecretKey, or the host, or activate the user\n"),
        ("secret", "→ correct AccessKey and SecretKey, or the host, or activate the user\n"),
        ("api", "→ correct x-api-key\n"),
    ],
)
def test_rejected_keys_are_named_and_not_written(bare: Desk, wrong: str, said: str) -> None:
    done = bare.run("setup", stdin=answers(bare, **{wrong: "wrong-key-0123"}) + "n\n")
    assert done.exit_code == 3
    assert len([line for line in done.stdout.splitlines() if line.startswith("failed")]) == 1
    assert said in done.stdout
    assert "LEADPOST_" not in done.output
    assert "Nothing was written" in done.stderr
    assert "wrong-key" not in done.output
    assert not keys_path().exists()


def test_keys_are_named_by_their_variables_only_if_these_were_the_source(bare: Desk) -> None:
    wrong = {"access": "wrong-key-0123", "secret": "wrong-key-4567"}
    assert bare.run("setup", stdin=answers(bare, **wrong) + "y\n").exit_code == 0
    assert "correct AccessKey and SecretKey, or" in bare.run("doctor").stdout
    said = bare.run("doctor", LEADPOST_SECRET_KEY="wrong-key-8901").stdout
    assert "correct AccessKey and SecretKey (LEADPOST_SECRET_KEY), or" in said
    (bare.folder / ".env").write_text(keys_path().read_text())
    said = bare.run("doctor").stdout
    assert "correct AccessKey (LEADPOST_ACCESS_KEY) and SecretKey (LEADPOST_SECRET_KEY), or" in said


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


def test_a_malformed_key_is_refused(bare: Desk) -> None:
    done = bare.run("setup", stdin=answers(bare, api="two words") + "y\n")
    assert done.exit_code == 2
    assert "error: x-api-key: contains a space or a character" in done.stderr
    assert "two words" not in done.output
    assert not keys_path().exists()


def test_any_key_is_read_as_it_was_written(bare: Desk) -> None:
    key = "it's-$x-\\'-\\"
    assert bare.run("setup", stdin=answers(bare, api=key) + "y\n").exit_code == 0
    assert read_account(None).api_key == key


def test_a_region_may_be_entered_in_any_case(bare: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody_is_asked(*_: object) -> list[Line]:
        return []

    monkeypatch.setattr("leadpost.cli.commands.setup.diagnose", nobody_is_asked)
    assert bare.run("setup", stdin=answers(bare, host="India")).exit_code == 0
    assert read_account(None).host == "https://asyncapi-in21.leadsquared.com"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_readme_says_where_the_keys_and_the_outbox_are(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "~")
    section = (ROOT / "leadpost/cli/README.md").read_text().split("\n## Keys\n")[1]
    assert f"`{keys_path().parent}`" in section
    assert f"`{keys_path().name}`, beside `{_own().rpartition('/')[2]}`" in section


def test_elsewhere_it_asks_nothing(bare: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadpost.cli.commands.setup.is_interactive", lambda: False)
    done = bare.run("setup")
    assert done.exit_code == 2
    assert "setup needs a terminal" in done.stderr
