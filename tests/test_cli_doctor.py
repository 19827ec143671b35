"""`leadpost doctor`, against a sandbox over a real socket."""

import json
from collections.abc import Mapping
from functools import partial

import pytest
from doctor_support import REFUSED, both_ways, doctor, settled, take_only
from support import LEAD, account

import leadpost
from leadpost import TokenBucket
from leadpost.cli.doctor_calls import varied
from leadpost.sandbox import Answer, Sandbox
from leadpost.sandbox.answers import error, unauthorized

pytestmark = pytest.mark.usefixtures("bare")


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
    assert (told.exit_code, sandbox.report().arrivals) == (1, 1)
    assert "nothing is confirmed: ask again later" in told.stderr
    assert list(told.verdicts.values()) == ["unclear"] * 6 + ["skipped"]
    assert "LeadSquared asked to wait for 3600 s; nothing was sent" in told.texts["activity types"]


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
