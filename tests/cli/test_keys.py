"""Where the keys come from, and that they go nowhere else."""

import io
import json
from pathlib import Path

import pytest
from cli_support import texts_of
from files_support import cells, keys_of, open_bucket, run, write_csv
from support import ACCESS_KEY, API_KEY, KEYS, SECRET_KEY

from leadpost import ConfigurationError
from leadpost.cli.account import keys_path, merged, read_account
from leadpost.cli.commands.setup import write_keys
from leadpost.cli.exits import InputError
from leadpost.sandbox import Answer, Faults, Sandbox
from leadpost.sandbox.answers import JSON
from leadpost.sandbox.faults import NAMES

FILE = f"""
# the account
LEADPOST_REGION=india
export LEADPOST_ACCESS_KEY={ACCESS_KEY}
LEADPOST_SECRET_KEY='{SECRET_KEY}'
LEADPOST_API_KEY="{API_KEY}"
"""


ENDING = {"keys-refused", "away"}

pytestmark = pytest.mark.usefixtures("bare")


@pytest.mark.parametrize("name", [".env", "keys.env"])
def test_an_env_file_is_read_as_it_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(FILE)
    account = read_account(None if name == ".env" else path)
    assert (account.access_key, account.secret_key, account.api_key) == KEYS
    assert account.host == "https://asyncapi-in21.leadsquared.com"


def test_a_dollar_in_a_key_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("rACCESS", "expanded")
    (tmp_path / ".env").write_text(FILE.replace(ACCESS_KEY, "a${rACCESS}$rACCESS"))
    assert read_account(None).access_key == "a${rACCESS}$rACCESS"


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(FILE)
    monkeypatch.setenv("LEADPOST_API_KEY", "from-the-environment")
    monkeypatch.setenv("LEADPOST_SECRET_KEY", "")
    account = read_account(None)
    assert (account.api_key, account.secret_key) == ("from-the-environment", SECRET_KEY)


def test_a_host_of_the_environment_replaces_all_hosts_of_the_file() -> None:
    file = {"LEADPOST_REGION": "india", "LEADPOST_SYNC_HOST": "api", "LEADPOST_API_KEY": "k"}
    host = {"LEADPOST_HOST": "http://127.0.0.1:9"}
    assert merged(file, host) == {**host, "LEADPOST_API_KEY": "k"}
    assert merged(file, {}) == file


def test_without_a_file_the_environment_is_enough() -> None:
    with pytest.raises(ConfigurationError, match=r"leadpost setup.*LEADPOST_REGION"):
        read_account(None)


def test_an_env_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"LEADPOST_API_KEY=\xff\n")
    with pytest.raises(InputError, match=r"\.env cannot be read: UnicodeDecodeError"):
        read_account(None)


@pytest.mark.parametrize("name", ["ACCESS_KEY", "SECRET_KEY", "API_KEY"])
def test_a_missing_key_ends_the_command_with_2_and_its_name(tmp_path: Path, name: str) -> None:
    path = write_csv(tmp_path / "leads.csv", [cells(0)])
    with Sandbox() as sandbox:
        env = {**keys_of(sandbox), f"LEADPOST_{name}": ""}
        for args in (["post", path], ["status", "x"], ["metrics"], ["types"]):
            result = run(*args, env=env)
            assert result.exit_code == 2
            assert f"LEADPOST_{name}" in result.stderr
            assert sandbox.secret_key not in result.output
    assert sandbox.report().arrivals == 0


def test_no_key_stands_anywhere_and_no_personal_text_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost.cli.files.sending.sender.SharedTokenBucket", open_bucket)
    rows = [cells(number, ActivityNote="PERSONAL", mx_Custom_1="PRIVATE") for number in range(26)]
    path = write_csv(tmp_path / "leads.csv", rows)
    names = [n for n in NAMES if "429" not in n and "limit" not in n and n not in ENDING]
    keys = (Sandbox.access_key, Sandbox.secret_key, Sandbox.api_key)
    quoting = json.dumps({"Status": "Error", "Message": f"{keys} PERSONAL PRIVATE"})
    quotes = [Answer(status, quoting, JSON) for status in (200, 400, 502)]
    wanted: list[str | Answer] = [*names, *quotes]
    script = [fate for fault in wanted for fate in ("ok", fault)]  # so that there is no outage
    faults = Faults(script=script, slow=0)
    with Sandbox(limit=None, faults=faults) as sandbox:
        env = keys_of(sandbox)
        posted = run("post", path, "-v", "--timezone", "UTC", "--quiet", env=env)
        listed = run("outbox", "list", env=env)
    assert (posted.exit_code, listed.exit_code) == (1, 0)
    shown = posted.output + listed.output + (tmp_path / "leads.csv.results.csv").read_text()
    for quoted in ("HTTP 200: ", "HTTP 400: ", "HTTP 502, it may have arrived: "):
        assert f"{quoted}('***', '***', '***') PERSONAL PRIVATE" in shown
    for text in (*keys, "PERSONAL", "PRIVATE"):
        assert text not in caplog.text
    for key in keys:
        assert key not in shown
        assert key not in texts_of(tmp_path)


def test_texts_of_an_invalid_row_are_in_no_log(
    tmp_path: Path, everything_logged: io.StringIO
) -> None:
    rows = [cells(0), cells(1, ActivityNote="PERSONAL", ActivityDateTime="PRIVATE")]
    path = write_csv(tmp_path / "leads.csv", rows)
    with Sandbox() as sandbox:
        options = ("-v", "--timezone", "UTC", "--account-check", "off", "--skip-invalid")
        done = run("post", path, *options, env=keys_of(sandbox))
        assert (done.exit_code, len(sandbox.accepted)) == (1, 1)
    assert "PRIVATE is not a date-time" in done.output
    assert "PERSONAL" in path.with_name("leads.csv.rejects.csv").read_text()
    assert "outbox: 1 accepted" in everything_logged.getvalue()
    for text in ("PERSONAL", "PRIVATE"):
        assert text not in everything_logged.getvalue()


def test_what_setup_wrote_is_read_where_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_keys(
        keys_path(),
        {
            "LEADPOST_REGION": "india",
            "LEADPOST_ACCESS_KEY": ACCESS_KEY,
            "LEADPOST_SECRET_KEY": SECRET_KEY,
            "LEADPOST_API_KEY": API_KEY,
        },
    )
    assert keys_path().stat().st_mode & 0o777 == 0o600
    assert read_account(None).access_key == ACCESS_KEY
    monkeypatch.setenv("LEADPOST_API_KEY", "another")
    assert read_account(None).api_key == "another"
    (tmp_path / ".env").write_text("LEADPOST_REGION=usa\n")
    with pytest.raises(ConfigurationError, match="LEADPOST_SECRET_KEY"):
        read_account(None)


def test_a_dry_run_needs_no_keys_but_takes_no_half_of_them(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "leads.csv", [cells(0)])
    result = run("post", path, "--dry-run", "--timezone", "UTC")
    assert result.exit_code == 0, result.output
    assert "no keys: only the file is checked" in result.output
    half = run("post", path, "--dry-run", env={"LEADPOST_API_KEY": API_KEY})
    assert half.exit_code == 2
    assert "LEADPOST_REGION" in half.stderr
