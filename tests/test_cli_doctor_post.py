"""`leadpost doctor --post`: one activity is posted, and what became of it is told."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Mapping
from urllib.parse import quote

import pytest
from cli_support import keys_of, pressing, run
from doctor_support import REFUSED, both_ways, doctor, settled, take_only
from support import ACCESS_KEY, API_KEY, KEYS, LEAD, SECRET_KEY

from leadpost.cli.doctor import NOTE
from leadpost.sandbox import Answer, Sandbox
from leadpost.sandbox.answers import JSON, error, json_answer, unauthorized

QUOTED = f"-----{SECRET_KEY}" * 50


pytestmark = pytest.mark.usefixtures("bare")


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
    told = doctor(sandbox, "--post", LEAD, "--event", 999)
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
        (["502-after"], "post", "unclear", "uncertain: HTTP 502, it may have arrived"),
    ],
)
def test_a_post_that_goes_wrong_is_not_repeated(
    sandbox: Sandbox, fates: list[str], check: str, verdict: str, text: str
) -> None:
    sandbox.fail(*settled(4), *fates)
    told = doctor(sandbox, "--post", LEAD)
    assert (told.verdicts[check], told.texts[check]) == (verdict, text)
    assert told.exit_code == (verdict == "no")
    assert sandbox.report().arrivals == 5


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


def test_where_nobody_can_be_asked_nothing_is_posted(sandbox: Sandbox) -> None:
    result = run("doctor", "--post", LEAD, env=keys_of(sandbox))
    assert (result.exit_code, sandbox.report().arrivals) == (2, 0)
    assert result.stderr == (
        "error: --post asks before it posts, and there is no terminal to ask at: --yes\n"
    )


@pytest.mark.parametrize("fault", ["500", "503", "cut-before"])
def test_its_status_is_followed_past_a_fault(sandbox: Sandbox, fault: str) -> None:
    sandbox.fail(*settled(5), fault)
    told = doctor(sandbox, "--post", LEAD)
    assert (told.texts["its status"], told.exit_code) == ("Success", 0)
    assert sandbox.report().arrivals == 7


def test_whatever_ends_the_following_how_to_ask_later_is_told(sandbox: Sandbox) -> None:
    sandbox.fail(*settled(5), Answer(404))
    told = doctor(sandbox, "--post", LEAD)
    later = f"ask later: leadpost status {sandbox.taken[0].request_id}"
    assert (told.verdicts["its status"], told.exit_code) == ("unclear", 0)
    assert told.texts["its status"] == f"HTTP 404; {later}"


def test_nothing_is_posted_with_keys_that_are_refused(sandbox: Sandbox) -> None:
    sandbox.fail(unauthorized(), unauthorized())
    told = doctor(sandbox, "--post", LEAD, "--event", 201)
    assert told.exit_code == 3
    assert (told.verdicts["post"], told.texts["post"]) == ("skipped", "the keys are refused")
    assert sandbox.report().taken == 0


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize(
    "task", [{"Status": "ERROR", "StatusReason": QUOTED}, {"Status": QUOTED}, {"Status": "Success"}]
)
def test_a_key_where_a_text_is_cut_is_not_shown_in_part(
    form: list[str], task: Mapping[str, str]
) -> None:
    message = json.dumps({"Message": {"Id": QUOTED}})
    with Sandbox(access_key=ACCESS_KEY, secret_key=SECRET_KEY, api_key=API_KEY) as sandbox:
        sandbox.fail(*settled(5), json_answer(200, {"TaskStatus": {"Message": message, **task}}))
        told = doctor(sandbox, "--post", LEAD, "--timeout", 0.1, *form)
    assert "-***-" in told.output
    assert SECRET_KEY[:2] not in told.output


def test_what_was_told_before_ctrl_c_is_not_lost() -> None:
    with Sandbox(pace=0.001) as sandbox:
        thread = pressing(lambda: sandbox.report().arrivals >= 6, signal.SIGINT)
        told = doctor(sandbox, "--post", LEAD, "--json")
        thread.join()
        (taken,) = sandbox.taken
    assert told.exit_code == 130
    post = json.loads(told.output)[-1]
    assert post["found"] == f"accepted, RequestID {taken.request_id}"


@both_ways
def test_keys_that_are_taken_only_in_the_other_way(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, used: str, other: str
) -> None:
    take_only(other, monkeypatch)
    told = doctor(sandbox, "--post", LEAD, LEADPOST_KEYS_IN=used)
    assert told.exit_code == 1
    assert told.verdicts[f"keys in {used}"] == "no"
    assert told.texts[f"keys in {used}"] == f"{REFUSED}; set LEADPOST_KEYS_IN={other}"
    assert told.verdicts["status path"] == told.verdicts["post"] == "ok"
    assert told.verdicts["its status"] == "ok"


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
