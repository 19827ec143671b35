"""`leadpost doctor`: what each answer means, and what to do about it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from documents import ROOT
from files_support import Desk

from leadpost import Account, AsyncActivityPoster, User
from leadpost.cli.commands.doctor import CHECKS, Check
from leadpost.cli.verdicts import Line
from leadpost.sandbox import Answer, Sandbox
from leadpost.sandbox.answers import invalid
from leadpost.sandbox.endpoints import Call, Endpoint, Endpoints


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
        ("ok", "keys for status"),
        ("ok", "metrics path"),
        ("ok", "status path"),
        ("ok", "createcustom status"),
        ("ok", "createcustom metrics"),
        ("ok", "sync host"),
        ("ok", "sync answers"),
        ("unknown", "submit path"),
        ("unknown", "status FAILURE"),
        ("unknown", "field values"),
        ("unknown", "parameters"),
        ("unknown", "nested sets"),
        ("unknown", "activity id"),
        ("unknown", "gateway answers"),
        ("unknown", "limit of queries"),
        ("unknown", "limit of the account"),
        ("unknown", "lead look-ups"),
        ("unknown", "pages"),
    ]
    assert "keys for status            not needed\n" in done.stdout
    assert "submit path                only posting shows it (LEADPOST_SUBMIT_PATH)" in done.stdout
    assert "→ for date-times of files without an offset: --timezone Asia/Kolkata" in done.stdout
    assert desk.notes() == []


def test_the_user_is_asked_for_first(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[str] = []
    find = Endpoints.find

    def noted(self: Endpoints, call: Call) -> Endpoint | Answer:
        paths.append(call.path)
        return find(self, call)

    monkeypatch.setattr(Endpoints, "find", noted)
    assert desk.run("doctor").exit_code == 0
    assert paths[0] == "/v2/Authentication.svc/UserByAccessKey.Get"


def test_each_assumption_is_one_line_with_its_setting(desk: Desk) -> None:
    table = (ROOT / "leadpost/README.md").read_text().split("\n## Unconfirmed\n")[1]
    _, *rows = re.findall(r"^\| ([^|]+) \|[^|]+\| (?:`(LEADPOST_\w+)`|[^|]+)", table, re.MULTILINE)
    _, found = doctor(desk)
    shown = {check["name"]: check["setting"] for check in found.values()}
    assert len(rows) == 18
    assert shown.items() >= dict(rows).items()


@pytest.mark.parametrize(
    ("host", "sync_host", "verdict"),
    [
        ("asyncapi-in21.leadsquared.com", "", "ok"),
        ("asyncapi-us11.leadsquared.com", "", "failed"),
        ("api.example.com", "api-in21.leadsquared.com", "unknown"),
    ],
)
async def test_the_right_hosts_are_named(
    monkeypatch: pytest.MonkeyPatch, host: str, sync_host: str, verdict: str
) -> None:
    account = Account(host=host, sync_host=sync_host, access_key="a", secret_key="b", api_key="c")

    async def user(_: AsyncActivityPoster) -> User:
        return User("api-in21.leadsquared.com", "Asia/Kolkata", {})

    monkeypatch.setattr(AsyncActivityPoster, "user", user)
    assert callable(CHECKS[1].call)
    found = await CHECKS[1].call(AsyncActivityPoster(account))
    assert isinstance(found, Line)
    assert found.verdict == verdict
    assert bool(found.exit_code) is (verdict == "failed")
    if verdict != "ok":
        assert "set LEADPOST_HOST to asyncapi-in21.leadsquared.com" in found.remedy


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
    assert [*found][-1] == "keys for status"
    assert found["keys for status"]["remedy"] == "correct LEADPOST_API_KEY"


@pytest.mark.parametrize(("used", "other"), [("query", "headers"), ("headers", "query")])
def test_keys_that_are_taken_in_the_other_way(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, used: str, other: str
) -> None:
    def key(call: Call, name: str) -> str | None:
        return call.query.get(name) if other == "query" else call.headers.get(f"x-lsq-{name}")

    monkeypatch.setattr("leadpost.sandbox.gateway._key", key)
    code, found = doctor(desk, LEADPOST_KEYS_IN=used)
    assert code == 3
    assert found["keys"]["remedy"] == f"set LEADPOST_KEYS_IN={other}"


def test_an_account_that_wants_keys_with_status_calls_is_found(desk: Desk) -> None:
    with Sandbox(limit=None, keys_for_status=True) as sandbox:
        code, found = doctor(desk, LEADPOST_HOST=sandbox.url)
        assert code == 3
        assert found["keys for status"]["remedy"] == "set LEADPOST_KEYS_FOR_STATUS=true"
        environment = {"LEADPOST_HOST": sandbox.url, "LEADPOST_KEYS_FOR_STATUS": "true"}
        done = desk.run("doctor", **environment)
    assert done.exit_code == 0, done.output
    assert "ok       keys for status            needed\n" in done.stdout
    assert "LEADPOST_KEYS_FOR_STATUS" not in done.stdout


def test_an_account_that_does_not_want_keys_with_status_calls_is_found(desk: Desk) -> None:
    done = desk.run("doctor", LEADPOST_KEYS_FOR_STATUS="true")
    assert done.exit_code == 0, done.output
    assert "ok       keys for status            sent, but not needed\n" in done.stdout
    assert "→ set LEADPOST_KEYS_FOR_STATUS=false\n" in done.stdout


@pytest.mark.parametrize(
    ("variable", "check", "remedy"),
    [
        ("METRICS_PATH", "metrics path", "set LEADPOST_METRICS_PATH"),
        ("STATUS_PATH", "status path", "set LEADPOST_STATUS_PATH"),
        (
            "CREATECUSTOM_METRICS_PATH",
            "createcustom metrics",
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
    assert code == 75
    assert [*found] == ["keys"]
    assert found["keys"]["verdict"] == "failed"
    assert "LEADPOST_HOST" in found["keys"]["remedy"]
    assert "your network" in found["keys"]["remedy"]


def test_an_async_host_that_cannot_be_reached(desk: Desk) -> None:
    hosts = {"LEADPOST_HOST": "http://127.0.0.1:9", "LEADPOST_SYNC_HOST": desk.sandbox.url}
    code, found = doctor(desk, **hosts)
    assert code == 75
    assert [*found] == ["keys", "hosts", "time zone", "keys for status"]
    assert "LEADPOST_HOST" in found["keys for status"]["remedy"]


def test_a_synchronous_host_that_cannot_be_reached(desk: Desk) -> None:
    code, found = doctor(desk, LEADPOST_SYNC_HOST="http://127.0.0.1:9")
    assert code == 75
    assert found["keys"]["verdict"] == "failed"
    assert "LEADPOST_SYNC_HOST" in found["keys"]["remedy"]


def test_a_synchronous_host_that_is_no_api(desk: Desk) -> None:
    desk.sandbox.fail(*[Answer(404)] * 3)  # with the keys in the query, and in headers
    code, found = doctor(desk)
    assert code == 1
    assert found["keys"]["verdict"] == "failed"
    assert found["keys"]["remedy"] == "set LEADPOST_SYNC_HOST"
    assert found["status path"]["verdict"] == "ok"


def test_an_unknown_synchronous_host_is_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Account(host="api.example.com", access_key="a", secret_key="b", api_key="c")

    async def call(_: AsyncActivityPoster) -> None:
        elsewhere.url("/v2/any")  # of a host from which none can be derived

    monkeypatch.setattr("leadpost.cli.commands.doctor.CHECKS", (Check("keys", "keys_in", call),))
    code, found = doctor(desk)
    assert (code, found["keys"]["verdict"]) == (0, "unknown")
    assert found["keys"]["meaning"].startswith("sync_host (LEADPOST_SYNC_HOST) is missing")
    assert found["keys"]["remedy"] == "set LEADPOST_SYNC_HOST"


@pytest.mark.parametrize(
    ("zone", "meaning"),
    [
        ({}, "not in LeadSquared's answer"),
        ({"TimeZone": "India Standard Time"}, "India Standard Time"),
    ],
)
def test_a_time_zone_that_post_would_not_accept(
    desk: Desk, zone: dict[str, str], meaning: str
) -> None:
    user = {"LSQCommonServiceURLs": {"api": "https://api-in21.leadsquared.com/v2/"}} | zone
    answer = Answer(200, json.dumps(user), {"content-type": "application/json"})
    desk.sandbox.fail("ok", "ok", answer)
    code, found = doctor(desk)
    assert code == 0
    assert found["time zone"]["verdict"] == "unknown"
    assert found["time zone"]["meaning"] == meaning
    assert found["time zone"]["remedy"] == "name it: --timezone"


def test_an_answer_that_says_neither_is_unknown(desk: Desk) -> None:
    desk.sandbox.fail("503", *["ok"] * 9, "503")
    code, found = doctor(desk)
    assert code == 0
    assert found["keys"]["verdict"] == "unknown"
    assert found["keys"]["remedy"] == "try again later"
    assert found["status path"]["verdict"] == "ok"
    assert found["sync host"]["verdict"] == "unknown"


def test_each_line_says_what_it_means_and_what_to_do_unless_all_is_well(desk: Desk) -> None:
    desk.sandbox.fail("503", "ok", "ok", "ok", Answer(404))
    _, found = doctor(desk)
    assert {each["verdict"] for each in found.values()} == {"ok", "failed", "unknown"}
    for each in found.values():
        assert each["meaning"]
        assert each["remedy"] or each["verdict"] == "ok"


def test_an_answer_of_an_unknown_shape_is_reported(desk: Desk) -> None:
    desk.sandbox.fail(*["ok"] * 11, Answer(200, "17", {"content-type": "application/json"}))
    code, found = doctor(desk)
    assert code == 1
    assert found["sync answers"]["verdict"] == "failed"
    assert found["sync answers"]["remedy"] == "report this line to leadpost's authors"


def test_an_unknown_type_that_is_another_error_is_reported(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> Answer:
        return invalid("no such type")

    monkeypatch.setattr("leadpost.sandbox.endpoints.unknown_activity", other)
    code, found = doctor(desk)
    assert code == 0
    assert found["sync answers"]["verdict"] == "unknown"
    assert found["sync answers"]["meaning"].startswith("an unknown activity type looks like")


def test_what_no_post_shows_says_what_does(desk: Desk) -> None:
    _, found = doctor(desk)
    for name in ("limit of queries", "limit of the account"):
        assert found[name]["meaning"] == "only refused calls show it"
    for name in ("lead look-ups", "pages"):
        assert found[name]["meaning"] == "only an UnexpectedAnswer shows it to be wrong"


def test_what_only_a_post_shows_names_the_command(desk: Desk) -> None:
    _, found = doctor(desk)
    for name in ("submit path", "status FAILURE", "gateway answers"):
        assert "leadpost post FILE --first 1" in found[name]["remedy"]
    assert desk.notes() == []


def test_no_key_is_shown_whatever_leadsquared_quotes(desk: Desk) -> None:
    keys = " ".join(desk.sandbox.account().secrets)
    text = json.dumps({"Status": "Error", "ExceptionType": "MXOops", "ExceptionMessage": keys})
    desk.sandbox.fail(Answer(401, text, {"content-type": "application/json"}))
    done = desk.run("doctor")
    for key in desk.sandbox.account().secrets:
        assert key not in done.output
