"""What the command shows besides: progress, logs, help, the demo and the sandbox."""

import asyncio
import importlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.request
from itertools import count
from pathlib import Path

import pytest
from attrs import evolve
from cli_support import keys_of, run, start, until, write_rows
from rich.console import Console

import leadpost
from leadpost import TokenBucket
from leadpost.cli import main, progress
from leadpost.cli.check import duration, spoken
from leadpost.cli.demo import DemoSummary, run_demo
from leadpost.cli.exits import Exit, InputError
from leadpost.cli.logs import logged
from leadpost.cli.serve import made, span_of
from leadpost.cli.tally import Tally, per_second, seconds_left
from leadpost.sandbox import Faults, Sandbox


def terminal() -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, width=90, no_color=True), screen


@pytest.mark.parametrize(
    ("calls", "limit", "seconds"),
    [(0, 25, 0), (1, 25, 0), (25, 25, 0), (26, 25, 5), (10_000, 25, 1995), (11, 10, 5)],
)
def test_how_long_a_run_takes(calls: int, limit: int, seconds: float) -> None:
    assert duration(calls, limit) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (75, "1 min 15 s"), (7500, "2 h 5 min")],
)
def test_a_length_of_time_in_words(seconds: float, text: str) -> None:
    assert spoken(seconds) == text


def test_the_first_burst_is_not_taken_for_the_speed() -> None:
    assert per_second(25, 0.1) == 5
    assert seconds_left(25, 1025, 0.1, 25) == 200
    assert seconds_left(0, 1000, 5, 25) == 200
    assert seconds_left(0, 1000, 5.1, 25) is None
    assert seconds_left(50, 100, 100, 25) == 100


def tally_of(done: int) -> Tally:
    clock = count(step=20).__next__
    tally = Tally("leads.csv", 200, ("accepted", "rejected"), lambda: done, clock=clock)
    tally.counts.update({"accepted": done - 1, "not_sent": 1})
    return tally


def test_where_nothing_is_done_no_time_left_is_made_up() -> None:
    tally = Tally("leads.csv", 200, (), lambda: 40, clock=count(step=20).__next__)
    assert tally.pace() == "0.0 calls/s, nothing done yet"


def test_a_bar_on_a_terminal() -> None:
    console, screen = terminal()
    tally = tally_of(100)
    with progress.shown(tally, console) as changed:
        changed()
    shown = screen.getvalue()
    assert "leads.csv ━" in shown
    assert "100/200" in shown
    assert "99 accepted, 0 rejected, 1 not_sent; " in shown
    assert " calls/s, " in shown
    assert " left" in shown


def test_lines_elsewhere_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=40)
    times = iter([0.0, 1.0, 4.9, 5.0, 9.9, 10.0])
    monkeypatch.setattr("leadpost.cli.progress.time.monotonic", lambda: next(times))
    with progress.shown(tally_of(100), console) as changed:
        for _ in range(5):
            changed()
    first, second = screen.getvalue().splitlines()
    assert first == (
        "leads.csv: 100 of 200: 99 accepted, 0 rejected, 1 not_sent; 0.0 calls/s, 20 s left"
    )
    assert second.startswith("leads.csv: 100 of 200: ")


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_log_goes_to_standard_error_while_a_command_runs(*, is_terminal: bool) -> None:
    console, screen = terminal() if is_terminal else (Console(file=io.StringIO()), None)
    shown = screen or console.file
    assert isinstance(shown, io.StringIO)
    logger = logging.getLogger("leadpost._poster")
    with logged(console, verbose=False):
        logger.info("a detail")
        logger.warning("a warning")
    with logged(console, verbose=True):
        logger.info("one more")
    logger.warning("afterwards")
    assert "a warning" in shown.getvalue()
    assert "one more" in shown.getvalue()
    assert "a detail" not in shown.getvalue()
    assert "afterwards" not in shown.getvalue()


def test_a_check_shows_that_it_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console, screen = terminal()

    def only(*, stderr: bool) -> Console:
        assert stderr
        return console

    monkeypatch.setattr("leadpost.cli.app.Console", only)
    path = write_rows(tmp_path / "leads.csv", 1)
    assert run("post", path, "--dry-run").exit_code == 0
    assert "checking" in screen.getvalue()


def test_the_help_tells_the_exit_codes() -> None:
    codes = (
        "0 all accepted, 1 some not, 2 bad usage or input, 3 keys refused, 130 interrupted,"
        " 143 ended by SIGTERM"
    )
    for args in (["--help"], ["post", "-h"]):
        assert codes in " ".join(run(*args).stdout.split())
    assert "demo" in run().output


def test_the_help_flows() -> None:
    shown = run("post", "-h", env={"COLUMNS": "80"}).stdout
    assert "ActivityDateTime; every other one is a SchemaName." in shown
    assert "Usage: leadpost status [OPTIONS] [REQUEST_ID]..." in run("status", "-h").stdout


def test_the_version() -> None:
    assert run("--version").stdout == f"leadpost {leadpost.__version__}\n"


def test_python_m_runs_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["leadpost", "--version"])
    monkeypatch.delitem(sys.modules, "leadpost.cli.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("leadpost.cli.__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"leadpost {leadpost.__version__}\n"


@pytest.mark.parametrize("name", ["typer", "rich", "dotenv"])
def test_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error == "leadpost: the command needs: pip install 'leadpost[cli]'\n"


@pytest.mark.parametrize("command", ["demo", "sandbox"])
def test_the_sandbox_says_what_to_install(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for name in [name for name in sys.modules if name.startswith("leadpost.sandbox")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(leadpost, "sandbox")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run(command)
    assert result.exit_code == 2
    assert "pip install 'leadpost[sandbox]'" in result.stderr


def test_the_demo_as_it_is(tmp_path: Path) -> None:
    process = start(["demo"], {}, tmp_path)
    assert process.wait() == 0
    shown = (tmp_path / "stdout").read_text()
    assert "accepted, with a RequestID  │ 50" in shown
    assert "refused by the sandbox      │ 0" in shown
    assert "25 of 25 calls allowed" in shown
    assert "status Success              │ 50" in shown
    assert "What to do next:" in shown
    assert "LEADPOST_ACCESS_KEY" in shown
    seconds = re.search(r"time, status calls included +│ +([0-9.]+) s", shown)
    assert seconds is not None
    assert float(seconds[1]) < 30


def test_a_demo_that_goes_wrong_says_so() -> None:
    with Sandbox(period=0.1, pace=1000, faults=Faults(script=["ok", "500-mx"])) as sandbox:
        demo = run_demo(sandbox, TokenBucket(period=0.1), Console(file=io.StringIO()), 3)
        summary = asyncio.run(demo)
    assert (summary.posted, summary.accepted, summary.succeeded) == (3, 2, 2)
    assert summary.exit is Exit.SOME_NOT
    assert summary.error is not None
    assert summary.error.startswith("ApplicationError: HTTP 500: MXInvalidInputException")


def test_a_status_that_is_refused_is_no_success() -> None:
    with Sandbox(period=0.1, pace=1000, faults=Faults(script=["ok", "500-mx"])) as sandbox:
        demo = run_demo(sandbox, TokenBucket(period=0.1), Console(file=io.StringIO()), 1)
        summary = asyncio.run(demo)
    assert (summary.accepted, summary.succeeded) == (1, 0)
    assert summary.error is not None
    assert summary.error.startswith("ApplicationError: HTTP 500")


def test_the_demo_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = DemoSummary(50, 50, 0, 25, 25, 50, 15.0)

    async def fast(*args: object) -> DemoSummary:
        await asyncio.sleep(0)
        del args
        return wanted

    monkeypatch.setattr("leadpost.cli.demo.run_demo", fast)
    result = run("demo", "--json")
    assert result.exit_code == 0
    assert DemoSummary(**json.loads(result.stdout)) == wanted
    assert result.stderr == ""
    wanted = evolve(wanted, refused=1, error="ConnectionFailed: no way")
    result = run("demo")
    assert (result.exit_code, result.stderr) == (1, "error: ConnectionFailed: no way\n")


def served(directory: Path, *options: str) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """Start `leadpost sandbox` and read the variables it tells to set."""
    process = start(["sandbox", *options], {"PYTHONUNBUFFERED": "1"}, directory)
    out = directory / "stdout"
    until(lambda: "METRICS_PATH" in out.read_text() or process.poll() is not None)
    script = f". {out}; env"
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={})
    variables = dict(line.split("=", 1) for line in shell.stdout.splitlines())
    return process, {name: v for name, v in variables.items() if name.startswith("LEADPOST_")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_sandbox_tells_what_to_set_and_what_it_saw(
    tmp_path: Path, number: signal.Signals
) -> None:
    status_path = ["--status-path", "/elsewhere"]
    process, env = served(tmp_path, "--delay", "0:0.01", "--script", "500-mx", *status_path)
    path = write_rows(tmp_path / "leads.csv", 2)
    assert run("post", path, env=env).exit_code == 1
    assert run("status", "--results", f"{path}.results.csv", env=env).exit_code in (0, 1)
    with urllib.request.urlopen(env["LEADPOST_HOST"] + "/_sandbox/report") as answer:
        assert json.load(answer)["taken"] == 1
    process.send_signal(number)
    assert process.wait() == 0
    last = (tmp_path / "stdout").read_text().splitlines()[-1]
    assert last == "# 3 calls, 1 taken, 0 refused, fullest window 3"
    assert (tmp_path / "stderr").read_text() == ""


def test_the_sandbox_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(sandbox: Sandbox) -> None:
        del sandbox
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Sandbox, "wait", wait)
    result = run("sandbox", "--fault", "500=0.02", "--end", "207=ERROR", "--limit", "0")
    assert result.exit_code == 0
    assert "export LEADPOST_ACCESS_KEY='u$rsandbox-access'" in result.stdout


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--delay", "fast"], "--delay: found 'fast', wanted seconds, or LOW:HIGH"),
        (["--delay", "inf"], "--delay: found 'inf', wanted seconds, or LOW:HIGH"),
        (["--delay", "2:1"], "--delay: found '2:1', wanted seconds, or LOW:HIGH"),
        (["--period", "nan"], "period is more than 0 seconds, not nan"),
        (["--pace", "nan"], "pace is more than 0 a second, not nan"),
        (["--idle-timeout", "1:x"], "--idle-timeout: found '1:x'"),
        (["--fault", "500"], "--fault: found '500', wanted NAME=PROBABILITY"),
        (["--fault", "500=often"], "--fault: found '500=often', wanted NAME=PROBABILITY"),
        (["--fault", "501=0.1"], "unknown faults 501; there are 429,"),
        (["--end", "x=ERROR"], "--end: found 'x=ERROR', wanted CODE=STATUS"),
        (["--script", "ok,no"], "unknown faults no;"),
        (["--pace", "0"], "pace is more than 0"),
    ],
)
def test_a_wrong_option_of_the_sandbox(options: list[str], wanted: str) -> None:
    result = run("sandbox", *options)
    assert result.exit_code == 2
    assert f"error: {wanted}" in result.stderr


def test_a_port_that_is_taken() -> None:
    with Sandbox() as sandbox:
        port = sandbox.url.rpartition(":")[2]
        result = run("sandbox", "--port", port)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: [Errno")


def test_options_of_the_sandbox() -> None:
    assert span_of("--delay", "0.02:0.15") == (0.02, 0.15)
    assert span_of("--delay", "1") == 1.0
    none: list[str] = []
    with made(
        faults=["500=1"], script="ok, 429", retry_after=1, slow=1.0, ends=none, limit=None
    ) as sandbox:
        assert keys_of(sandbox)["LEADPOST_HOST"] == sandbox.url
    with pytest.raises(InputError):
        made(faults=none, script="", retry_after=1, slow=1.0, ends=["207"], limit=None)
