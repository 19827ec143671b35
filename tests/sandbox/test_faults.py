"""The faults of the sandbox, over a real socket."""

import logging
import time
from itertools import islice
from random import Random
from typing import Any, cast

import httpx
import pytest
from sandbox_support import ACTIVITY, METRICS, SUBMIT, connect

from leadpost.sandbox import Answer, Faults, Sandbox
from leadpost.sandbox.faults import NAMES, fates

REFUSAL = "API calls exceeded the limit of 7 in 5 second(s)"


@pytest.mark.parametrize(
    ("name", "status", "text", "accepted"),
    [
        ("429", 429, REFUSAL, 0),
        ("429-retry-after", 429, REFUSAL, 0),
        ("429-gateway", 429, '{"message": "Too Many Requests"}', 0),
        ("403-rate-limit", 403, "MXAPIRateLimitExceededException", 0),
        ("200-rate-limit", 200, "MXAPIRateLimitExceededException", 0),
        ("200-error", 200, '{"Status": "Failed", "Message": {"Message": "Bad event code"}}', 0),
        ("500", 500, "<h1>Internal Server Error</h1>", 0),
        ("500-mx", 500, "MXInvalidInputException", 0),
        ("503", 503, "Service Unavailable", 0),
        ("504-before", 504, "Endpoint request timed out", 0),
        ("502-after", 502, "<h1>Bad Gateway</h1>", 1),
        ("slow", 200, "Request accepted.", 1),
    ],
)
async def test_a_fault_has_its_own_answer_and_happens_once(
    name: str, status: int, text: str, accepted: int
) -> None:
    with Sandbox(limit=7, faults=Faults(script=[name], slow=0.01, retry_after=3)) as sandbox:
        async with connect(sandbox) as client:
            response = await client.post(SUBMIT, json=ACTIVITY)
            assert (response.status_code, len(sandbox.accepted)) == (status, accepted)
            assert text in response.text
            assert response.headers.get("retry-after") == (
                "3" if name == "429-retry-after" else None
            )
            after = await client.post(SUBMIT, json=ACTIVITY)
    assert "RequestID" in after.json()
    assert sandbox.report().faults == {name: 1}
    assert sandbox.report().duplicates == accepted


@pytest.mark.parametrize(("name", "accepted"), [("cut-before", 0), ("cut-after", 1)])
async def test_a_cut_connection_has_no_answer_and_accepts_only_after(
    name: str, accepted: int, caplog: pytest.LogCaptureFixture
) -> None:
    with Sandbox(faults=Faults(script=[name])) as sandbox:
        async with connect(sandbox) as client:
            with pytest.raises(httpx.TransportError):
                await client.post(SUBMIT, json=ACTIVITY)
            assert len(sandbox.accepted) == accepted
            after = await client.post(SUBMIT, json=ACTIVITY)
    assert after.status_code == 200
    assert sandbox.report().faults == {name: 1}
    assert sandbox.report().connections == 2
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("name", ["cut-after", "502-after", "slow"])
async def test_no_fault_accepts_an_invalid_body(name: str) -> None:
    with Sandbox(faults=Faults(script=[name], slow=0.0)) as sandbox:
        async with connect(sandbox) as client:
            try:
                response = await client.post(SUBMIT, json={})
                assert response.status_code in {400, 502}
            except httpx.TransportError:
                assert name == "cut-after"
    assert sandbox.accepted == []


async def test_slow_delays_an_answer_by_its_seconds() -> None:
    with Sandbox(faults=Faults(script=["slow"], slow=0.3)) as sandbox:
        async with connect(sandbox) as client:
            response = await client.post(SUBMIT, json=ACTIVITY)
            ended = time.monotonic()
    assert response.status_code == 200
    assert ended - sandbox.accepted[0].arrived_at >= 0.3


async def test_calls_other_than_posts_are_cut_too() -> None:
    with Sandbox(faults=Faults(script=["cut-after"])) as sandbox:
        async with connect(sandbox) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(METRICS)
            assert (await client.get(METRICS)).status_code == 200


async def test_an_answer_in_the_script_is_sent_unchanged() -> None:
    answer = Answer(418, b"\x00\xff", {"X-Tea": "yes", "Content-Type": "tea/pot"})
    with Sandbox(faults=Faults(script=["ok", answer, Answer(599, "zu spät")])) as sandbox:
        async with connect(sandbox) as client:
            assert (await client.post(SUBMIT, json=ACTIVITY)).status_code == 200
            response = await client.post(SUBMIT, json=ACTIVITY)
            other = await client.post(SUBMIT, json=ACTIVITY)
    assert (response.status_code, response.content) == (418, b"\x00\xff")
    assert dict(response.headers) == {
        "x-tea": "yes",
        "content-type": "tea/pot",
        "content-length": "2",
    }
    assert (other.status_code, other.content.decode()) == (599, "zu spät")
    assert len(sandbox.accepted) == 1
    assert sandbox.report().faults == {"answer": 2}


async def test_only_calls_with_valid_keys_and_within_the_limit_fail() -> None:
    with Sandbox(limit=2, period=60.0, faults=Faults(script=["503", "503"])) as sandbox:
        async with connect(sandbox) as client:
            calls: list[dict[str, str]] = [{"accessKey": "wrong"}, {"secretKey": "wrong"}, {}, {}]
            answers = [await client.post(SUBMIT, json=ACTIVITY, params=each) for each in calls]
    assert [answer.status_code for answer in answers] == [401, 401, 503, 429]
    assert sandbox.report().faults == {"503": 1}


async def test_faults_by_probability_follow_the_script_and_have_their_share() -> None:
    faults = Faults({"503": 1.0}, script=["ok"])
    with Sandbox(faults=faults) as sandbox:
        async with connect(sandbox) as client:
            codes = [(await client.get(METRICS)).status_code for _ in range(4)]
    assert codes == [200, 503, 503, 503]
    many = Faults({"500": 0.2, "slow": 0.3})
    drawn = list(islice(fates(many, Random(1)), 10_000))
    assert 0.18 < drawn.count("500") / 10_000 < 0.22
    assert 0.28 < drawn.count("slow") / 10_000 < 0.32
    assert set(drawn) == {"500", "slow", "ok"}


async def test_faults_set_while_it_runs_come_before_the_script() -> None:
    with Sandbox(faults=Faults({"500": 1.0}, script=["502-after"])) as sandbox:
        async with connect(sandbox) as client:

            async def codes(calls: int) -> list[int]:
                return [(await client.get(METRICS)).status_code for _ in range(calls)]

            sandbox.fail("503", "ok")
            sandbox.fail(Answer(418))
            assert await codes(4) == [503, 200, 418, 502]
            sandbox.fail("504-before")
            assert await codes(2) == [504, 500]
            with pytest.raises(ValueError, match="unknown faults tea"):
                sandbox.fail("ok", "tea")
            assert await codes(1) == [500]
    counts = {"503": 1, "answer": 1, "502-after": 1, "504-before": 1, "500": 2}
    assert sandbox.report().faults == counts


async def test_a_seed_makes_faults_repeatable() -> None:
    async def codes(seed: int) -> list[int]:
        with Sandbox(limit=None, seed=seed, faults=Faults({"503": 0.5})) as sandbox:
            async with connect(sandbox) as client:
                return [(await client.get(METRICS)).status_code for _ in range(20)]

    assert await codes(1) == await codes(1)
    assert await codes(1) != await codes(2)


def test_every_name_of_a_fault_is_valid() -> None:
    share = 1 / len(NAMES)
    faults = Faults(dict.fromkeys(NAMES, share), script=NAMES)
    assert list(islice(fates(faults, Random(1)), len(NAMES))) == list(NAMES)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (lambda: Faults({"500": 0.1, "tea": 0.1, "bad": 0.1}), "unknown faults bad, tea; there"),
        (lambda: Faults({"ok": 0.1}), "unknown faults ok"),
        (lambda: Faults(script=["ok", "tea"]), "unknown faults tea"),
        (lambda: Faults(cast("Any", ["500"])), "faults must map names to shares"),
        (lambda: Faults({"500": 0.6, "503": 0.5}), "more than 1"),
        (lambda: Faults({"500": -0.1}), "from 0 to 1"),
        (lambda: Faults(retry_after=-1), "0 or more"),
        (lambda: Faults(slow=-1), "0 or more"),
        (lambda: Answer(99), "from 200 to 599; found 99"),
        (lambda: Answer(600), "from 200 to 599; found 600"),
        (lambda: Answer(204, b"x"), "status 204 must not have a body"),
    ],
)
def test_invalid_options_raise(faults: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        faults()
