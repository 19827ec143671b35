"""What `leadpost doctor` makes of each answer, and of none."""

import asyncio

import httpx
import pytest
from doctor_support import doctor, settled
from support import LEAD, account

from leadpost import TokenBucket
from leadpost.cli.doctor_calls import Finding, Findings, Kind, examine
from leadpost.cli.doctor_verdicts import judge
from leadpost.sandbox import Answer, Sandbox
from leadpost.sandbox.answers import HTML, error, forbidden, json_answer, unauthorized

PAGE = Answer(200, "<html>Sign in</html>", HTML)
NO_ROUTE = json_answer(403, {"message": "Missing Authentication Token"})


pytestmark = pytest.mark.usefixtures("bare")


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
        assert told.exit_code == 1
        assert told.stderr == (
            "nothing is confirmed: ask again later (with --limit, where calls were refused for"
            " their number), or see that LEADPOST_HOST or LEADPOST_REGION is right\n"
        )
        assert list(told.verdicts.values()) == ["unclear"] * 6 + ["skipped"]
        assert told.texts["keys in query"] == f"{type(error).__name__}: {error}".rstrip(": ")
    else:
        assert told.exit_code == 1
        assert told.output.startswith(f"no       host             {sandbox.url}: {text}")
        assert told.output.count("\n") == 1
