"""`leadpost doctor`, against a sandbox over a real socket."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest
from doctor_support import REFUSED, both_ways, doctor, settled, take_only
from support import LEAD, account

import leadpost
from leadpost import TokenBucket
from leadpost.cli.doctor_calls import Finding, Findings, Kind, examine, varied
from leadpost.cli.doctor_verdicts import judge
from leadpost.sandbox import Answer, Faults, Sandbox
from leadpost.sandbox.answers import HTML, error, forbidden, json_answer, unauthorized

PAGE = Answer(200, "<html>Sign in</html>", HTML)
NO_ROUTE = json_answer(403, {"message": "Missing Authentication Token"})


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without keys."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(pace=1000, faults=Faults(retry_after=0)) as sandbox:
        yield sandbox


def test_all_is_well_and_nothing_is_posted(sandbox: Sandbox) -> None:
    told = doctor(sandbox)
    assert (told.exit_code, told.stderr) == (0, "")
    assert told.verdicts == {
        "x-api-key": "ok",
        "keys in query": "ok",
        "keys in headers": "ok",
        "status path": "ok",
        "metrics path": "ok",
        "activity types": "ok",
        "post": "skipped",
    }
    assert told.texts["status path"] == (
        "/activity/create/status: HTTP 400: MXInvalidInputException: RequestID is not known,"
        " to a made-up RequestID"
    )
    assert told.texts["activity types"] == "2, the first is 201"
    assert (sandbox.report().arrivals, sandbox.report().taken) == (4, 0)


@pytest.mark.parametrize("name", ["ACCESS_KEY", "SECRET_KEY"])
def test_wrong_keys(sandbox: Sandbox, name: str) -> None:
    told = doctor(sandbox, "--post", LEAD, **{f"LEADPOST_{name}": "wrong-key"})
    assert told.exit_code == 3
    assert told.verdicts == {
        "x-api-key": "unclear",
        "keys in query": "no",
        "keys in headers": "no",
        "status path": "skipped",
        "metrics path": "skipped",
        "activity types": "no",
        "post": "skipped",
    }
    keys = "set LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY"
    assert told.texts["keys in query"] == f"{REFUSED}; {keys}"
    assert told.texts["keys in headers"] == f"{REFUSED}; not in use, as LEADPOST_KEYS_IN is query"
    assert told.texts["activity types"] == f"{sandbox.url}: {REFUSED}; {keys}"
    assert sandbox.report().taken == 0


def test_a_wrong_api_key_is_told_apart(sandbox: Sandbox) -> None:
    told = doctor(sandbox, LEADPOST_API_KEY="wrong-key")
    assert told.exit_code == 3
    assert told.texts["x-api-key"] == "HTTP 403: Forbidden; set LEADPOST_API_KEY"
    verdicts = told.verdicts
    assert (verdicts["x-api-key"], verdicts["keys in query"]) == ("no", "unclear")
    assert (verdicts["status path"], verdicts["metrics path"]) == ("skipped", "skipped")
    assert verdicts["activity types"] == "ok"


def test_keys_that_only_the_synchronous_api_takes(sandbox: Sandbox) -> None:
    sandbox.fail(unauthorized(), unauthorized())
    told = doctor(sandbox)
    assert told.exit_code == 3
    assert told.texts["keys in query"] == (
        f"{REFUSED}; the synchronous API takes them; set LEADPOST_HOST or LEADPOST_REGION"
    )


def test_keys_that_are_refused_in_the_way_not_in_use_do_no_harm(sandbox: Sandbox) -> None:
    sandbox.fail("ok", unauthorized())
    told = doctor(sandbox)
    assert told.exit_code == 0
    assert (told.verdicts["keys in query"], told.verdicts["keys in headers"]) == ("ok", "no")


@both_ways
def test_the_status_api_tells_the_way_where_the_metrics_path_is_wrong(
    monkeypatch: pytest.MonkeyPatch, used: str, other: str
) -> None:
    take_only(other, monkeypatch)
    with Sandbox(metrics_path="/elsewhere") as sandbox:
        told = doctor(sandbox, LEADPOST_KEYS_IN=used)
    assert told.exit_code == 1
    assert told.texts[f"keys in {used}"] == f"{REFUSED}; set LEADPOST_KEYS_IN={other}"
    assert told.verdicts == {
        "x-api-key": "ok",
        f"keys in {used}": "no",
        f"keys in {other}": "ok",
        "status path": "ok",
        "metrics path": "no",
        "activity types": "ok",
        "post": "skipped",
    }
    assert told.texts["metrics path"].endswith("; set LEADPOST_METRICS_PATH")
    assert sandbox.report().arrivals == 3  # status, again in the other way, types


def test_a_vendor_may_look_at_the_keys_before_the_path(sandbox: Sandbox) -> None:
    sandbox.fail(Answer(404), unauthorized())
    told = doctor(sandbox, LEADPOST_KEYS_IN="headers")
    assert told.exit_code == 1
    assert told.texts["keys in headers"] == f"{REFUSED}; set LEADPOST_KEYS_IN=query"
    assert told.verdicts["status path"] == "ok"


def test_only_the_path_that_is_there_is_asked_in_the_other_way() -> None:
    # Something is at the likely path, so that calls to it are counted.
    with Sandbox(metrics_path="/activity/create/status", status_path="/activity/status") as sandbox:
        sandbox.fail(Answer(404), unauthorized())
        told = doctor(sandbox, LEADPOST_KEYS_IN="headers")
    assert told.texts["keys in headers"] == f"{REFUSED}; set LEADPOST_KEYS_IN=query"
    assert told.texts["status path"].startswith("/activity/create/status: HTTP 404; /activity/sta")
    assert told.texts["status path"].endswith("; set LEADPOST_STATUS_PATH=/activity/status")
    assert sandbox.report().arrivals == 4  # both paths, the second in the other way, types


def test_keys_that_the_status_api_refuses_in_both_ways() -> None:
    with Sandbox(metrics_path="/elsewhere") as sandbox:
        sandbox.fail(unauthorized(), unauthorized(), unauthorized())
        told = doctor(sandbox, LEADPOST_KEYS_IN="headers")
    assert told.exit_code == 3
    keys = "set LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY"
    assert told.texts["keys in headers"] == f"{REFUSED}; {keys}"
    assert told.texts["keys in query"] == f"{REFUSED}; not in use, as LEADPOST_KEYS_IN is headers"


def test_the_status_is_not_asked_in_a_way_known_to_be_refused(sandbox: Sandbox) -> None:
    sandbox.fail(Answer(404), unauthorized(), unauthorized())
    told = doctor(sandbox)
    assert told.exit_code == 3
    assert sandbox.report().arrivals == 4


def test_the_rival_status_path_is_found() -> None:
    with Sandbox(status_path="/activity/status", pace=1000) as sandbox:
        told = doctor(sandbox, "--post", LEAD)
    assert told.exit_code == 1
    assert told.verdicts["status path"] == "no"
    assert told.texts["status path"].startswith("/activity/create/status: HTTP 404; /activity/sta")
    assert told.texts["status path"].endswith("; set LEADPOST_STATUS_PATH=/activity/status")
    assert told.texts["its status"] == "Success"


def test_a_status_path_that_is_none_of_those_known() -> None:
    with Sandbox(status_path="/elsewhere") as sandbox:
        told = doctor(sandbox)
        right = doctor(sandbox, LEADPOST_STATUS_PATH="/elsewhere")
    assert told.exit_code == 1
    assert told.texts["status path"] == (
        "/activity/create/status: HTTP 404; /activity/status: HTTP 404; set LEADPOST_STATUS_PATH"
    )
    assert right.exit_code == 0


def test_a_wrong_metrics_path_leaves_the_keys_to_the_status_api() -> None:
    with Sandbox(metrics_path="/elsewhere") as sandbox:
        told = doctor(sandbox)
    assert told.exit_code == 1
    assert told.texts["metrics path"] == (
        "/activity/create/metrics: HTTP 404; set LEADPOST_METRICS_PATH"
    )
    verdicts = told.verdicts
    assert (verdicts["keys in query"], verdicts["keys in headers"]) == ("ok", "unclear")
    assert verdicts["x-api-key"] == verdicts["status path"] == "ok"


@pytest.mark.parametrize(
    ("fate", "verdict"),
    [
        (PAGE, "no"),
        (Answer(302, "<html>Moved</html>", {**HTML, "location": "https://example.com"}), "no"),
        (Answer(404, "<html>Not found</html>", HTML), "no"),
        (NO_ROUTE, "no"),
        ("500", "unclear"),
        ("503", "unclear"),
        ("cut-before", "unclear"),
        (Answer(403, "<html>Blocked</html>", HTML), "unclear"),
        (json_answer(200, {"Something": "else"}), "unclear"),
        (json_answer(404, {"ExceptionType": "NoSuchThing"}), "unclear"),
    ],
)
def test_what_an_answer_tells_of_the_metrics_path(
    sandbox: Sandbox, fate: str | Answer, verdict: str
) -> None:
    sandbox.fail("ok", fate)
    told = doctor(sandbox, LEADPOST_KEYS_IN="headers")
    verdicts = told.verdicts
    # The other way of passing the keys got an answer, so it is the one to go on with.
    assert (verdicts["metrics path"], verdicts["keys in headers"]) == ("ok", "unclear")
    sandbox.fail("500", fate)
    told = doctor(sandbox, LEADPOST_KEYS_IN="headers")
    assert told.verdicts["metrics path"] == verdict
    assert told.exit_code == (verdict == "no")
    assert "<html" not in told.output
    assert sandbox.report().arrivals == 8  # none was asked again


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (json_answer(200, {"Status": "Failed", "Message": {"Message": "Not known"}}), "ok"),
        (json_answer(200, {"TaskStatus": {"Status": "In-Queue"}}), "ok"),
        (error(500, "MXInvalidInputException", "Not known"), "ok"),
        (json_answer(400, {"message": "Bad Request"}), "unclear"),
        (json_answer(200, {"RequestId": None, "TaskStatus": None}), "unclear"),
        (unauthorized(), "unclear"),
        (forbidden(), "unclear"),
        (Answer(502, "<html>Bad gateway</html>", HTML), "unclear"),
    ],
)
def test_what_an_answer_tells_of_the_status_path(
    sandbox: Sandbox, answer: Answer, verdict: str
) -> None:
    sandbox.fail(*settled(2), answer)
    told = doctor(sandbox)
    assert (told.verdicts["status path"], told.exit_code) == (verdict, 0)
    assert "<html" not in told.output
    assert sandbox.report().arrivals == 4  # in the other way it is not asked


def test_a_page_is_no_status_api(sandbox: Sandbox) -> None:
    sandbox.fail(*settled(2), PAGE, NO_ROUTE)
    told = doctor(sandbox)
    assert (told.verdicts["status path"], told.exit_code) == ("no", 1)


@pytest.mark.parametrize(
    ("answer", "verdict", "setting"),
    [
        (unauthorized(), "no", "; set LEADPOST_SYNC_HOST"),
        (PAGE, "no", "; set LEADPOST_SYNC_HOST"),
        (Answer(404), "no", "; set LEADPOST_SYNC_HOST"),
        (Answer(500), "unclear", ""),
        (
            json_answer(200, []),
            "unclear",
            "a list of 0, 0 with a code: see `leadpost types --json`",
        ),
        (
            json_answer(200, [{"Code": 7}, {"Number": 8}]),
            "unclear",
            "a list of 2, 1 with a code: see `leadpost types --json`",
        ),
    ],
)
def test_what_an_answer_tells_of_the_activity_types(
    sandbox: Sandbox, answer: Answer, verdict: str, setting: str
) -> None:
    sandbox.fail(*settled(3), answer)
    told = doctor(sandbox)
    assert (told.verdicts["activity types"], told.exit_code) == (verdict, verdict == "no")
    assert told.texts["activity types"].endswith(setting)


def test_a_synchronous_host_that_cannot_be_reached(sandbox: Sandbox) -> None:
    told = doctor(sandbox, "--post", LEAD, LEADPOST_SYNC_HOST="http://127.0.0.1:9")
    assert (told.verdicts["activity types"], told.exit_code) == ("no", 1)
    assert told.texts["activity types"].startswith("http://127.0.0.1:9: ConnectError")
    assert told.texts["post"] == "no type is known: give --event CODE"


def test_a_synchronous_host_that_is_not_known(sandbox: Sandbox) -> None:
    used = sandbox.account()
    object.__setattr__(used, "sync_host", "")  # as of a host that is not named as theirs are
    findings = asyncio.run(examine(used, TokenBucket()))
    *_, check = judge(used, findings)
    assert (check.name, check.verdict, check.setting) == (
        "activity types",
        "skipped",
        "LEADPOST_SYNC_HOST",
    )
    assert findings.codes == []


@pytest.mark.parametrize("fate", [Answer(404), Answer(302, b"", HTML), PAGE])
def test_a_host_without_any_path_of_the_api_is_the_wrong_one(
    sandbox: Sandbox, fate: Answer
) -> None:
    sandbox.fail(*[fate] * 5)
    told = doctor(sandbox)
    assert told.exit_code == 1
    for check, rest in {
        "status path": "STATUS_PATH",
        "metrics path": "METRICS_PATH",
        "activity types": "SYNC_HOST",
    }.items():
        assert told.verdicts[check] == "no"
        host = "; set LEADPOST_HOST or LEADPOST_REGION, or if that is right"
        assert told.texts[check].endswith(f"{host} LEADPOST_{rest}")


def test_the_synchronous_host_as_the_host() -> None:
    used = account(host="api-in21.leadsquared.com")
    nothing = Finding[str](Kind.NO_PATH, "HTTP 404")
    status = dict.fromkeys((used.status_path, "/activity/status"), nothing)
    findings = Findings("query", {"query": nothing, "headers": nothing}, {"query": status})
    settings = [check.setting or "" for check in judge(used, findings)]
    *_, types = settings
    assert types.startswith("LEADPOST_HOST or LEADPOST_REGION")
    assert settings.count("") == 3  # of keys nothing is known


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (httpx.ConnectError("All connection attempts failed"), "ConnectError: All connection"),
        (httpx.ConnectTimeout(""), "ConnectTimeout; set"),
        (httpx.ProxyError("407 Proxy Authentication Required"), "ProxyError: 407 Proxy"),
        (httpx.ReadTimeout(""), None),
        (httpx.RemoteProtocolError("Server disconnected"), None),
        (httpx.PoolTimeout(""), None),
    ],
)
def test_only_without_a_connection_is_the_host_wrong(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, error: httpx.RequestError, text: str | None
) -> None:
    async def fail(*_: object) -> httpx.Response:
        raise error

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", fail)
    told = doctor(sandbox)
    if text is None:
        assert told.exit_code == 0
        assert list(told.verdicts.values()) == ["unclear"] * 6 + ["skipped"]
        assert told.texts["keys in query"] == f"{type(error).__name__}: {error}".rstrip(": ")
    else:
        assert told.exit_code == 1
        assert told.output.startswith(f"no       host             {sandbox.url}: {text}")
        assert told.output.count("\n") == 1


def test_a_passing_fault_on_the_first_call_ends_nothing(sandbox: Sandbox) -> None:
    sandbox.fail("cut-before")
    told = doctor(sandbox)
    assert told.exit_code == 0
    assert told.verdicts["keys in query"] == "unclear"
    assert told.verdicts["keys in headers"] == told.verdicts["activity types"] == "ok"


def test_a_refusal_for_calls_just_before_is_waited_for(sandbox: Sandbox) -> None:
    sandbox.fail("429-retry-after")
    told = doctor(sandbox)
    assert told.exit_code == 0
    assert [*told.verdicts.values()] == ["ok"] * 6 + ["skipped"]
    assert (sandbox.report().arrivals, sandbox.report().refused) == (5, 0)


def test_a_lower_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadpost, "TokenBucket", partial(TokenBucket, period=0.5))
    with Sandbox(limit=2, period=0.5) as sandbox:
        told = doctor(sandbox, "--limit", 2)
    assert told.exit_code == 0
    assert [*told.verdicts.values()] == ["ok"] * 6 + ["skipped"]
    assert (sandbox.report().arrivals, sandbox.report().refused) == (4, 0)


@pytest.mark.parametrize("args", [[], ["--post", LEAD]])
def test_a_host_that_cannot_be_reached_is_one_line(sandbox: Sandbox, args: list[str]) -> None:
    told = doctor(sandbox, *args, LEADPOST_HOST="http://127.0.0.1:9")
    assert told.exit_code == 1
    assert told.output.startswith("no       host             http://127.0.0.1:9: ConnectError")
    assert told.output.endswith("; set LEADPOST_HOST or LEADPOST_REGION\n")
    assert told.output.count("\n") == 1


def test_a_long_pause_is_not_waited_for(sandbox: Sandbox) -> None:
    sandbox.fail(Answer(429, headers={"Retry-After": "3600"}))
    told = doctor(sandbox)
    assert (told.exit_code, sandbox.report().arrivals) == (0, 1)
    assert list(told.verdicts.values()) == ["unclear"] * 6 + ["skipped"]
    assert "asked to wait for 3600 s; nothing was sent" in told.texts["activity types"]


def test_a_reason_cannot_pass_for_another_line(sandbox: Sandbox) -> None:
    fake = "ok       metrics path     well"
    sandbox.fail(*settled(2), error(400, "MXException", f"Not known\r\n{fake}\u2028{fake}"))
    told = doctor(sandbox)
    assert len(told.output.splitlines()) == 7
    assert "Not known ok metrics path well ok metrics path well, to" in told.texts["status path"]


def test_json(sandbox: Sandbox) -> None:
    sandbox.fail(unauthorized())
    told = doctor(sandbox, "--json")
    checks = {check.pop("check"): check for check in json.loads(told.output)}
    assert checks["keys in query"] == {
        "verdict": "no",
        "found": REFUSED,
        "setting": "LEADPOST_KEYS_IN=headers",
    }
    assert checks["post"] == {
        "verdict": "skipped",
        "found": "nothing is posted without --post LEAD_ID",
        "setting": None,
    }
    assert len(checks) == 7


@pytest.mark.parametrize(
    ("args", "env", "wanted"),
    [
        ([], {"LEADPOST_API_KEY": ""}, "LEADPOST_API_KEY"),
        (["--post", "a-lead"], {}, "RelatedProspectId"),
        (["--event", "201"], {}, "--event wants --post LEAD_ID"),
    ],
)
def test_bad_usage_ends_before_any_call(
    sandbox: Sandbox, args: list[str], env: Mapping[str, str], wanted: str
) -> None:
    told = doctor(sandbox, *args, **env)
    assert (told.exit_code, told.output) == (2, "")
    assert wanted in told.stderr
    assert sandbox.report().arrivals == 0


def test_an_account_by_region_keeps_its_hosts_when_it_is_varied() -> None:
    used = account(region="india", host="")
    other = varied(used, keys_in="headers")
    assert (other.host, other.sync_host) == (used.host, used.sync_host)
    assert other.keys_in == "headers"
