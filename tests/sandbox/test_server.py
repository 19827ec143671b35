"""The sandbox as a server: limit, delays, connections, starting, stopping, reporting."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import httpx
import pytest
from sandbox_support import ACTIVITY, METRICS, SUBMIT, connect

from leadpost.sandbox import Faults, Report, Sandbox

WAITING = """
import threading
from leadpost.sandbox import Sandbox
try:
    with Sandbox() as sandbox:
        try:
            print(sandbox.url, flush=True)
            sandbox.wait()
        finally:
            print(threading.active_count(), 'threads')
except KeyboardInterrupt:
    print('stopped,', threading.active_count(), 'thread')
"""
FORKED = """
import httpx, os
from leadpost.sandbox import Sandbox
with Sandbox() as sandbox, httpx.Client(trust_env=False) as client:
    client.get(sandbox.url)
    if (child := os.fork()) == 0:
        sandbox.__exit__(None, None, None)
        os._exit(0)
    code = os.waitpid(child, 0)[1]
    print(code, client.get(sandbox.url).status_code, sandbox.report().connections)
"""


def dial(sandbox: Sandbox) -> socket.socket:
    """Open a bare connection."""
    return socket.create_connection(("127.0.0.1", httpx.URL(sandbox.url).port or 0), timeout=5)


@pytest.mark.parametrize("window", ["sliding", "fixed", "bucket"])
async def test_calls_over_the_limit_are_refused_until_time_has_passed(window: str) -> None:
    with Sandbox(limit=3, period=0.5, window=window) as sandbox:
        async with connect(sandbox) as client:
            # Ten at once hold more than three even if a fixed window ends among them.
            responses = [await client.post(SUBMIT, json=ACTIVITY) for _ in range(10)]
            refused = [r for r in responses if r.status_code == 429]
            assert refused
            assert len(sandbox.accepted) == 10 - len(refused)
            await asyncio.sleep(0.55)
            assert (await client.get(METRICS)).status_code == 200
    assert refused[0].json() == {
        "Status": "Error",
        "ExceptionType": "MXAPIRateLimitExceededException",
        "ExceptionMessage": "API calls exceeded the limit of 3 in 0.5 second(s)",
    }
    assert "retry-after" not in refused[0].headers
    report = sandbox.report()
    assert (report.arrivals, report.refused) == (11, len(refused))
    assert 3 < report.fullest_window <= 10


def test_an_error_in_the_sandbox_is_printed_and_the_next_call_is_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Sandbox() as sandbox:
        with dial(sandbox) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n")
            assert connection.recv(100) == b""
        assert httpx.get(sandbox.url, trust_env=False).status_code == 404
    assert "ValueError" in capsys.readouterr().err


async def test_every_path_of_leadsquared_counts_against_the_limit() -> None:
    service = "/v2/ProspectActivity.svc"
    with Sandbox(limit=6, period=60.0) as sandbox:
        async with connect(sandbox) as client:
            for _ in range(3):
                await client.get("/elsewhere")
            codes = [
                (await client.post(SUBMIT, json=ACTIVITY)).status_code,
                (await client.get("/activity/create/status")).status_code,
                (await client.get(METRICS)).status_code,
                (await client.get(f"{service}/ActivityTypes.Get")).status_code,
                (await client.get(f"{service}/CustomActivity/GetActivitySetting")).status_code,
                (await client.post(f"{service}/Create", json=ACTIVITY)).status_code,
                (await client.get(METRICS)).status_code,
            ]
    assert codes == [200, 400, 200, 200, 400, 200, 429]
    assert sandbox.report().arrivals == 7


async def test_a_call_with_an_unknown_access_key_does_not_count_against_the_limit() -> None:
    with Sandbox(limit=1, period=60.0) as sandbox:
        async with connect(sandbox) as client:
            calls = [{"accessKey": "wrong"}] * 3 + [{}] * 2
            answers = [await client.post(SUBMIT, json=ACTIVITY, params=each) for each in calls]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 200, 429]


async def test_without_a_limit_nothing_is_refused() -> None:
    with Sandbox(limit=None, faults=Faults(script=["429"])) as sandbox:
        async with connect(sandbox) as client:
            refusal = await client.get(METRICS)
            codes = {(await client.get(METRICS)).status_code for _ in range(60)}
    assert "limit of 25 in 5 second(s)" in refusal.text
    assert codes == {200}
    assert sandbox.report().refused == 0


async def test_both_directions_have_the_delay_which_is_no_idling() -> None:
    with Sandbox(delay=0.2, idle_timeout=0.05) as sandbox:
        async with connect(sandbox) as client:
            begun = time.monotonic()
            await client.post(SUBMIT, json=ACTIVITY)
            ended = time.monotonic()
    (arrived,) = sandbox.arrival_times
    assert arrived - begun >= 0.2
    assert ended - arrived >= 0.2


async def test_without_a_delay_the_answer_is_immediate() -> None:
    took: list[float] = []
    with Sandbox(limit=None) as sandbox:
        async with connect(sandbox) as client:
            for _ in range(15):
                begun = time.monotonic()
                await client.get(METRICS)
                took.append(time.monotonic() - begun)
    # Held back by Nagle's algorithm, each would take 40 ms.
    assert min(took) < 0.03  # the least of them: the machine may be slow


async def test_a_delay_may_be_drawn_from_a_range() -> None:
    with Sandbox(delay=(0.0, 0.2), seed=1) as sandbox:
        async with connect(sandbox) as client:
            await asyncio.gather(*(client.get(METRICS) for _ in range(20)))
    assert max(sandbox.arrival_times) - min(sandbox.arrival_times) > 0.1


async def test_the_report_counts_what_happened() -> None:
    faults = Faults(script=["ok", "ok", "503"])
    with Sandbox(limit=4, period=60.0, pace=0.001, faults=faults) as sandbox:
        async with connect(sandbox) as client:
            for _ in range(5):
                await client.post(SUBMIT, json=ACTIVITY)
        report = sandbox.report()
    counts = {"arrivals": 5, "refused": 1, "fullest_window": 5, "connections": 1}
    counts |= {"accepted": 3, "duplicates": 2, "pending": 3, "leads_created": 0, "leads_updated": 0}
    assert report == Report(**counts, faults={"503": 1})
    assert repr(sandbox) == f"<Sandbox {sandbox.url}, 3 accepted>"


async def test_an_idle_connection_is_closed_and_one_in_use_is_not() -> None:
    with Sandbox(idle_timeout=0.3) as sandbox:
        async with connect(sandbox) as client:
            await client.get(METRICS)
            for _ in range(4):
                await asyncio.sleep(0.1)
                await client.get(METRICS)
            assert sandbox.report().connections == 1
            await asyncio.sleep(0.5)
            await client.get(METRICS)
            assert sandbox.report().connections == 2


def test_a_connection_that_was_never_used_is_closed_too() -> None:
    with Sandbox(idle_timeout=(0.1, 0.2)) as sandbox, dial(sandbox) as connection:
        begun = time.monotonic()
        assert connection.recv(1) == b""
        assert 0.05 < time.monotonic() - begun < 30


def test_a_client_that_leaves_before_its_body_is_complete_has_not_arrived(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Sandbox() as sandbox:
        with dial(sandbox) as connection:
            connection.sendall(
                b"POST /activity/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            )
            time.sleep(0.1)
        time.sleep(0.1)
    assert sandbox.arrival_times == []
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("busy", ["slow", "delay", "idle", "half sent", "just opened"])
async def test_leaving_stops_it_at_once_and_quietly(
    busy: str, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(script=["slow"] if busy == "slow" else [])
    delay = 60.0 if busy == "delay" else 0.0
    before = threading.active_count()
    with Sandbox(faults=faults, delay=delay, idle_timeout=60.0) as sandbox:
        async with connect(sandbox) as client:
            call: asyncio.Task[httpx.Response] | None = None
            connection = dial(sandbox)
            if busy in {"slow", "delay"}:
                call = asyncio.create_task(client.post(SUBMIT, json=ACTIVITY))
                while sandbox.report().connections < 2 or len(sandbox.accepted) < (busy == "slow"):
                    await asyncio.sleep(0.01)
            elif busy == "idle":
                await client.get(METRICS)
            elif busy == "half sent":
                connection.sendall(b"GET /activity/create/status HTTP/1.1\r\nHost: x\r\n")
            begun = time.monotonic()
            await asyncio.to_thread(sandbox.__exit__, None, None, None)
            assert time.monotonic() - begun < 30
            if call is not None:
                with pytest.raises(httpx.TransportError):
                    await call
            connection.close()
            with pytest.raises(httpx.ConnectError):
                await client.get(METRICS)
        sandbox.__enter__()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert threading.active_count() <= before
    assert sandbox.report().accepted == (1 if busy == "slow" else 0)
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_the_report_remains_after_the_end_and_continues_when_started_again() -> None:
    sandbox = Sandbox()
    for expected in (1, 2):
        with sandbox:
            async with connect(sandbox) as client:
                await client.post(SUBMIT, json=ACTIVITY)
        assert (len(sandbox.accepted), sandbox.report().connections) == (expected, expected)


def test_it_listens_on_loopback_at_the_given_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        with pytest.raises(OSError, match="in use"), Sandbox(port=port):
            raise AssertionError("two servers on one port")
    with Sandbox(port=port) as sandbox:
        assert sandbox.url == f"http://127.0.0.1:{port}"
        dial(sandbox).close()


async def test_the_server_logs_and_prints_nothing_as_every_url_contains_keys(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(1), Sandbox() as sandbox:
        async with connect(sandbox) as client:
            await client.get(METRICS)
            await client.delete(METRICS)
    clients = ("httpx", "httpcore", "asyncio")
    assert [r for r in caplog.records if not r.name.startswith(clients)] == []
    assert capfd.readouterr() == ("", "")


def test_a_connection_that_comes_as_it_stops_is_closed() -> None:
    with Sandbox() as sandbox:
        sandbox._started.stopped.set()
        with dial(sandbox) as connection:
            assert connection.recv(1) == b""


def test_waiting_lasts_until_it_is_stopped() -> None:
    with Sandbox() as sandbox:
        waiting = threading.Thread(target=sandbox.wait)
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
    waiting.join(timeout=5)
    assert not waiting.is_alive()


def test_ctrl_c_ends_waiting_and_then_the_sandbox() -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", WAITING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        time.sleep(0.1)  # most likely it is waiting then
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("2 threads\nstopped, 1 thread\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_that_leaves_the_sandbox_does_not_stop_it() -> None:
    ignored = "ignore:This process:DeprecationWarning"  # that forking with threads is risky
    command = [sys.executable, "-W", ignored, "-c", FORKED]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("0 404 1\n", "")


def test_before_its_start_it_has_no_url() -> None:
    sandbox = Sandbox()
    assert repr(sandbox) == "<Sandbox not started, 0 accepted>"
    with pytest.raises(RuntimeError, match="with statement"):
        _ = sandbox.url


def test_the_account_has_the_sandboxs_url_and_keys() -> None:
    with Sandbox(status_path="/a/b") as sandbox:
        account = sandbox.account()
    assert (account.host, account.sync_host) == (sandbox.url, sandbox.url)
    assert account.status_path == "/a/b"
    keys = (account.access_key, account.secret_key, account.api_key)
    assert keys == (sandbox.access_key, sandbox.secret_key, sandbox.api_key)
    assert "$" in account.access_key


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sandbox(limit=0), "limit must be at least 1, or None; found 0"),
        (lambda: Sandbox(period=0), "period must be above 0 seconds; found 0"),
        (lambda: Sandbox(window="leaky"), "sliding, fixed, bucket; found 'leaky'"),
        (lambda: Sandbox(pace=0), "pace must be above 0; found 0"),
        (lambda: Sandbox(ends={201: "Done"}), "Success, ERROR, FAILURE"),
        (lambda: Sandbox(status_path="status"), "begin with /"),
        (lambda: Sandbox(delay=-1), "delay must be seconds"),
        (lambda: Sandbox(delay=(2, 1)), "delay must be seconds"),
        (lambda: Sandbox(idle_timeout=(-1, 1)), "idle_timeout must be seconds"),
    ],
)
def test_invalid_options_raise(make: Callable[[], Sandbox], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
