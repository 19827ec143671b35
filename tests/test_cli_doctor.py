"""`leadpost doctor`, against a sandbox over a real socket."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from attrs import field, frozen
from cli_support import keys_of, run
from support import ACCESS_KEY, API_KEY, KEYS, LEAD, SECRET_KEY

from leadpost import Account, TokenBucket
from leadpost.cli.doctor import NOTE
from leadpost.cli.doctor_calls import examine, varied
from leadpost.cli.doctor_verdicts import judge
from leadpost.sandbox import Answer, Faults, Sandbox
from leadpost.sandbox.answers import HTML, JSON, error, forbidden, json_answer, unauthorized

PAGE = Answer(200, "<html>Sign in</html>", HTML)
NO_ROUTE = json_answer(403, {"message": "Missing Authentication Token"})
REFUSED = "HTTP 401: MXUnAuthorizedAccessException: AccessKey or SecretKey is not valid"


@frozen
class Told:
    """What the command told: its exit code, and by check the verdict and the rest of the line."""

    exit_code: int
    stderr: str
    output: str = field(repr=False)

    @property
    def verdicts(self) -> dict[str, str]:
        return {line[9:25].strip(): line[:8].strip() for line in self.output.splitlines()}

    @property
    def texts(self) -> dict[str, str]:
        return {line[9:25].strip(): line[26:] for line in self.output.splitlines()}


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without keys."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(pace=1000, faults=Faults(retry_after=0)) as sandbox:
        yield sandbox


def doctor(sandbox: Sandbox, *args: object, **env: str) -> Told:
    result = run("doctor", *args, env=keys_of(sandbox) | env)
    return Told(result.exit_code, result.stderr, result.stdout)


def settled(number: int) -> list[str]:
    """Fates of the calls before the one that matters."""
    return ["ok"] * number


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


@pytest.mark.parametrize(("used", "other"), [("query", "headers"), ("headers", "query")])
def test_keys_that_are_taken_only_in_the_other_way(sandbox: Sandbox, used: str, other: str) -> None:
    sandbox.fail(*["ok"] * (used == "headers"), unauthorized())
    told = doctor(sandbox, "--post", LEAD, LEADPOST_KEYS_IN=used)
    assert told.exit_code == 1
    assert told.verdicts[f"keys in {used}"] == "no"
    assert told.texts[f"keys in {used}"] == f"{REFUSED}; set LEADPOST_KEYS_IN={other}"
    assert told.verdicts["status path"] == told.verdicts["post"] == "ok"


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
        ("429-retry-after", "unclear"),
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
    account = sandbox.account()
    object.__setattr__(account, "sync_host", "")  # as of a host that is not named as theirs are
    findings = asyncio.run(examine(account, TokenBucket()))
    *_, check = judge(account, findings)
    assert (check.name, check.verdict, check.setting) == (
        "activity types",
        "skipped",
        "LEADPOST_SYNC_HOST",
    )
    assert findings.codes == []


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


def test_one_activity_is_posted_and_followed(sandbox: Sandbox) -> None:
    told = doctor(sandbox, "--post", LEAD)
    assert told.exit_code == 0
    (taken,) = sandbox.taken
    assert taken.payload == {
        "RelatedProspectId": LEAD,
        "ActivityEvent": 201,
        "ActivityNote": NOTE,
    }
    assert told.texts["post"] == f"accepted, RequestID {taken.request_id}"
    assert (told.verdicts["its status"], told.texts["its status"]) == ("ok", "Success")
    assert told.verdicts["its activity id"] == "ok"
    assert told.texts["its activity id"].endswith(", as Message holds it")


def test_the_post_that_ends_with_an_error(sandbox: Sandbox) -> None:
    told = doctor(sandbox, "--post", LEAD, "--event", 999, "--yes")
    assert told.exit_code == 1
    assert told.verdicts["its status"] == "no"
    assert told.texts["its status"] == (
        "ERROR: MXInvalidActivityException: Event Code is invalid or empty"
    )


def test_a_success_without_an_activity_id(sandbox: Sandbox) -> None:
    status = json_answer(200, {"TaskStatus": {"Status": "Success", "Message": None}})
    sandbox.fail(*settled(5), status)
    told = doctor(sandbox, "--post", LEAD)
    assert told.exit_code == 1
    assert (told.verdicts["its status"], told.verdicts["its activity id"]) == ("ok", "no")


def test_a_failure_may_still_change() -> None:
    with Sandbox(pace=1000, ends={201: "FAILURE"}) as sandbox:
        told = doctor(sandbox, "--post", LEAD, "--timeout", 0.5)
        final = doctor(sandbox, "--post", LEAD, LEADPOST_FAILURE_IS_FINAL="true")
    request_id = sandbox.taken[0].request_id
    assert told.exit_code == 0
    assert told.texts["its status"] == (
        f"not final after 0.5 s, last status: FAILURE; ask later: leadpost status {request_id}."
        " If it is the same 12 h later, set LEADPOST_FAILURE_IS_FINAL=true"
    )
    assert final.exit_code == 1
    assert final.texts["its status"] == "FAILURE: The request could not be processed"


def test_a_status_that_is_not_final_in_time() -> None:
    with Sandbox(pace=0.001) as sandbox:
        told = doctor(sandbox, "--post", LEAD, "--timeout", 0.5)
    assert (told.verdicts["its status"], told.exit_code) == ("unclear", 0)
    assert told.texts["its status"].startswith("not final after 0.5 s, last status: In-Queue;")
    assert "FAILURE" not in told.output


@pytest.mark.parametrize(
    ("fates", "check", "verdict", "text"),
    [
        (["500-mx"], "post", "no", "HTTP 500: MXInvalidInputException: The input is not valid"),
        (["503"], "post", "unclear", "not posted: HTTP 503: Service Unavailable"),
        (["502-after"], "post", "unclear", "it may have arrived: HTTP 502"),
        (["ok", "500"], "its status", "unclear", "HTTP 500"),
    ],
)
def test_a_post_that_goes_wrong_is_not_repeated(
    sandbox: Sandbox, fates: list[str], check: str, verdict: str, text: str
) -> None:
    sandbox.fail(*settled(4), *fates)
    told = doctor(sandbox, "--post", LEAD)
    assert (told.verdicts[check], told.texts[check]) == (verdict, text)
    assert told.exit_code == (verdict == "no")
    assert sandbox.report().arrivals == 4 + len(fates)


@pytest.mark.parametrize(("answer", "posted"), [("n", 0), ("y", 1)])
def test_a_terminal_is_asked_before_anything_is_posted(
    sandbox: Sandbox, answer: str, posted: int
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "leadpost.cli", "doctor", "--post", LEAD],
        stdin=theirs,
        capture_output=True,
        text=True,
        env=os.environ | keys_of(sandbox) | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 1 - posted
    assert f"Post a test activity of the first type listed on lead {LEAD}? [y/N]" in done.stderr
    assert sandbox.report().taken == posted
    assert bool(sandbox.report().arrivals) is bool(posted)


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
    account = Account(region="india", access_key=ACCESS_KEY, secret_key=SECRET_KEY, api_key=API_KEY)
    other = varied(account, keys_in="headers")
    assert (other.host, other.sync_host) == (account.host, account.sync_host)
    assert other.keys_in == "headers"


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_key_is_shown_whatever_the_vendor_quotes(form: list[str]) -> None:
    quoted = f"{KEYS} {quote(ACCESS_KEY, safe='')}"
    envelope = error(500, f"MX{SECRET_KEY}Exception", quoted)
    status = json_answer(200, {"TaskStatus": {"Status": "ERROR", "StatusReason": quoted}})
    with Sandbox(access_key=ACCESS_KEY, secret_key=SECRET_KEY, api_key=API_KEY) as sandbox:
        sandbox.fail(*[envelope] * 4, "ok", status)
        args = ("--post", LEAD, "--event", 201, "--verbose", *form)
        told = doctor(sandbox, *args)
        sandbox.fail(*[Answer(s, json.dumps({"Message": quoted}), JSON) for s in (403, 404, 400)])
        told_too = doctor(sandbox, *form)
    shown = told.output + told.stderr + told_too.output + told_too.stderr
    assert "ERROR: ('***', '***', '***') ***" in shown
    for key in (*KEYS, quote(ACCESS_KEY, safe="")):
        assert key not in shown
