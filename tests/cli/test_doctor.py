"""`leadpost doctor`: what each answer means, and what to do about it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from documents import ROOT
from files_support import Desk, lead

from leadpost import Account, User
from leadpost.cli.diagnosis import diagnose, hosts_check
from leadpost.sandbox import Answer, Sandbox
from leadpost.sandbox.endpoints import Call


def doctor(desk: Desk, *args: object, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = desk.run("doctor", "--json", *args, **environment)
    return done.exit_code, {check["name"]: check for check in json.loads(done.stdout)}


def test_all_is_well_and_nothing_is_posted(desk: Desk) -> None:
    done = desk.run("doctor")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "→" not in line]
    assert [(line[:7].strip(), line[9:34].strip()) for line in lines] == [
        ("ok", "keys"),
        ("ok", "hosts"),
        ("ok", "time zone"),
        ("ok", "metrics path"),
        ("ok", "keys for status calls"),
        ("ok", "status path"),
        ("ok", "createcustom status path"),
        ("ok", "createcustom metrics path"),
        ("ok", "sync host"),
        ("unknown", "submit path"),
        ("unknown", "FAILURE"),
    ]
    assert "→ for date-times of files without an offset: --timezone Asia/Kolkata" in done.stdout
    assert desk.notes() == []


def test_each_assumption_that_can_be_set_is_one_line(desk: Desk) -> None:
    table = (ROOT / "leadpost/README.md").read_text().split("\n## Unconfirmed\n")[1]
    settings = set(re.findall(r"^\|[^|]+\| `(LEADPOST_\w+)`", table, re.MULTILINE))
    for args in ((), ("--post", lead(0), "--yes")):
        _, found = doctor(desk, *args)
        shown = [check["setting"] for check in found.values() if check["setting"]]
        assert len(shown) == len(set(shown))
        assert settings <= set(shown)


@pytest.mark.parametrize(
    ("host", "sync_host", "verdict"),
    [
        ("asyncapi-in21.leadsquared.com", "", "ok"),
        ("asyncapi-us11.leadsquared.com", "", "failed"),
        ("api.example.com", "api-in21.leadsquared.com", "unknown"),
    ],
)
def test_the_right_hosts_are_named(host: str, sync_host: str, verdict: str) -> None:
    account = Account(host=host, sync_host=sync_host, access_key="a", secret_key="b", api_key="c")
    user = User("api-in21.leadsquared.com", "Asia/Kolkata", {})
    check = hosts_check(account, user)
    assert check.verdict == verdict
    if verdict != "ok":
        assert "LEADPOST_HOST=asyncapi-in21.leadsquared.com" in check.remedy


@pytest.mark.parametrize("name", ["ACCESS_KEY", "SECRET_KEY"])
def test_wrong_keys(desk: Desk, name: str) -> None:
    code, found = doctor(desk, **{f"LEADPOST_{name}": "wrong-key-0123"})
    assert code == 3
    assert [*found] == ["keys"]
    assert found["keys"]["verdict"] == "failed"
    assert "correct LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY" in found["keys"]["remedy"]
    assert "wrong-key" not in str(found)


def test_a_wrong_api_key_is_told_apart(desk: Desk) -> None:
    code, found = doctor(desk, LEADPOST_API_KEY="wrong")
    assert code == 3
    assert found["x-api-key"]["remedy"] == "correct LEADPOST_API_KEY"


@pytest.mark.parametrize(("used", "other"), [("query", "headers"), ("headers", "query")])
def test_keys_that_are_taken_in_the_other_way(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, used: str, other: str
) -> None:
    def key(call: Call, name: str) -> str | None:
        return call.query.get(name) if other == "query" else call.headers.get(f"x-lsq-{name}")

    monkeypatch.setattr("leadpost.sandbox.vendor._key", key)
    code, found = doctor(desk, LEADPOST_KEYS_IN=used)
    assert code == 3
    assert found["keys"]["remedy"] == f"set LEADPOST_KEYS_IN={other}"


def test_an_account_that_wants_keys_with_status_calls_is_found(desk: Desk) -> None:
    with Sandbox(limit=None, keys_for_status=True) as sandbox:
        code, found = doctor(desk, LEADPOST_HOST=sandbox.url)
        assert code == 1
        assert found["keys for status calls"]["remedy"] == "set LEADPOST_KEYS_FOR_STATUS=true"
        environment = {"LEADPOST_HOST": sandbox.url, "LEADPOST_KEYS_FOR_STATUS": "true"}
        assert doctor(desk, **environment)[0] == 0


@pytest.mark.parametrize(
    ("variable", "check", "remedy"),
    [
        ("METRICS_PATH", "metrics path", "set LEADPOST_METRICS_PATH; if more is missing"),
        ("STATUS_PATH", "status path", "set LEADPOST_STATUS_PATH"),
        (
            "CREATECUSTOM_METRICS_PATH",
            "createcustom metrics path",
            "set LEADPOST_CREATECUSTOM_METRICS_PATH",
        ),
    ],
)
def test_a_path_that_is_not_there(desk: Desk, variable: str, check: str, remedy: str) -> None:
    code, found = doctor(desk, **{f"LEADPOST_{variable}": "/elsewhere"})
    assert code == 1
    assert found[check]["verdict"] == "failed"
    assert found[check]["remedy"].startswith(remedy)


def test_the_rival_status_path_is_found(desk: Desk) -> None:
    with Sandbox(limit=None, status_path="/activity/status") as sandbox:
        code, found = doctor(desk, LEADPOST_HOST=sandbox.url)
    assert code == 1
    assert found["status path"]["remedy"] == "set LEADPOST_STATUS_PATH=/activity/status"


def test_a_host_that_cannot_be_reached_is_one_line(desk: Desk) -> None:
    code, found = doctor(desk, LEADPOST_HOST="http://127.0.0.1:9")
    assert code == 1
    assert [*found] == ["host"]
    assert found["host"]["remedy"] == "check LEADPOST_REGION or LEADPOST_HOST, and your network"


def test_a_synchronous_host_that_cannot_be_reached(desk: Desk) -> None:
    code, found = doctor(desk, LEADPOST_SYNC_HOST="http://127.0.0.1:9")
    assert code == 1
    assert found["sync host"]["verdict"] == "failed"
    assert found["sync host"]["remedy"] == "set LEADPOST_SYNC_HOST"


def test_an_unknown_synchronous_host_is_asked_for(desk: Desk) -> None:
    account = desk.sandbox.account()
    object.__setattr__(account, "sync_host", "")  # as for a host with a name of its own
    found = {check.name: check for check in asyncio.run(diagnose(account, None))}
    assert "keys" not in found
    assert found["sync host"].verdict == "unknown"
    assert found["sync host"].remedy == "set LEADPOST_SYNC_HOST"


def test_a_time_zone_that_leadsquared_does_not_name(desk: Desk) -> None:
    user = {"LSQCommonServiceURLs": {"api": "https://api-in21.leadsquared.com/v2/"}}
    desk.sandbox.fail(Answer(200, json.dumps(user), {"content-type": "application/json"}))
    code, found = doctor(desk)
    assert code == 0
    assert found["time zone"]["verdict"] == "unknown"
    assert found["time zone"]["remedy"] == "name it: --timezone"


def test_an_answer_that_says_neither_is_unknown(desk: Desk) -> None:
    desk.sandbox.fail("503", *["ok"] * 6, "503")
    code, found = doctor(desk)
    assert code == 0
    assert found["keys"]["verdict"] == "unknown"
    assert found["status path"]["verdict"] == "ok"
    assert found["sync host"]["verdict"] == "unknown"


def test_one_activity_is_posted_and_followed(desk: Desk) -> None:
    done = desk.run("doctor", "--post", lead(0))
    assert done.exit_code == 2
    assert "there is no terminal to ask at: add --yes" in done.stderr
    code, found = doctor(desk, "--post", lead(0), "--yes")
    assert code == 0
    assert found["test activity"]["meaning"].startswith("accepted, RequestID ")
    assert found["its status"]["meaning"].startswith("succeeded: ")
    assert desk.notes() == ["A test by leadpost doctor, to be deleted"]


@pytest.mark.parametrize(("answer", "code", "posted"), [("y", 0, 1), ("n", 2, 0)])
def test_a_test_is_posted_only_if_wanted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, posted: int
) -> None:
    monkeypatch.setattr("leadpost.cli.commands.doctor.is_interactive", lambda: True)
    done = desk.run("doctor", "--post", lead(0), stdin=f"{answer}\n")
    assert done.exit_code == code, done.output
    assert f"Post a test activity of type 201 on lead {lead(0)}? [y/N]" in done.stderr
    assert len(desk.notes()) == posted


@pytest.mark.parametrize(
    ("fault", "code", "verdict", "remedy", "posted"),
    [("cut-after", 0, "unknown", "look at the lead", 1), ("500-mx", 1, "failed", "", 0)],
)
def test_a_post_that_goes_wrong_is_not_repeated(  # noqa: PLR0917  a table's columns
    desk: Desk, fault: str, code: int, verdict: str, remedy: str, posted: int
) -> None:
    desk.sandbox.fail(*["ok"] * 8, fault)
    ended, found = doctor(desk, "--post", lead(0), "--yes")
    assert (ended, found["test activity"]["verdict"]) == (code, verdict)
    assert found["test activity"]["remedy"] == remedy
    assert "its status" not in found
    assert len(desk.notes()) == posted


def test_a_test_that_the_queue_fails(desk: Desk) -> None:
    code, found = doctor(desk, "--post", lead(0), "--yes", "--event", "999")
    assert (code, found["its status"]["verdict"]) == (1, "failed")


def test_a_status_that_is_refused_can_be_asked_for_later(desk: Desk) -> None:
    desk.sandbox.fail(*["ok"] * 9, "500-mx")
    code, found = doctor(desk, "--post", lead(0), "--yes")
    assert (code, found["test activity"]["verdict"]) == (1, "ok")
    assert found["its status"]["verdict"] == "failed"
    assert found["its status"]["remedy"].startswith("ask later: leadpost status ")


def test_a_status_that_is_not_final_in_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadpost.cli.commands.doctor._PATIENCE", 0.0)
    with Sandbox(limit=None, pace=0.001) as sandbox:
        code, found = doctor(desk, "--post", lead(0), "--yes", LEADPOST_HOST=sandbox.url)
    assert code == 0
    assert found["its status"]["verdict"] == "unknown"
    assert found["its status"]["remedy"].startswith("ask later: leadpost status ")


def test_no_key_is_shown_whatever_leadsquared_quotes(desk: Desk) -> None:
    keys = " ".join(desk.sandbox.account().secrets)
    text = json.dumps({"Status": "Error", "ExceptionType": "MXOops", "ExceptionMessage": keys})
    desk.sandbox.fail(Answer(401, text, {"content-type": "application/json"}))
    done = desk.run("doctor")
    for key in desk.sandbox.account().secrets:
        assert key not in done.output
