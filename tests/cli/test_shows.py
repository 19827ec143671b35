"""What the command shows besides: help, completion, the demo and the sandbox."""

import asyncio
import doctest
import inspect
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import processes
import pytest
from cli_support import start, until
from files_support import cells, imported, keys_of, run, write_csv
from processes import ENVIRONMENT, Process
from rich.console import Console

import leadpost
from leadpost import TokenBucket
from leadpost.cli import main
from leadpost.cli.app import COMMANDS
from leadpost.cli.commands.demo import run_demo
from leadpost.cli.commands.sandbox import made, sandbox
from leadpost.cli.exits import Exit
from leadpost.sandbox import Faults, Sandbox


def test_the_examples_in_docstrings_are_true() -> None:
    names = {each.name for each in walk_packages(leadpost.__path__, "leadpost.")}
    found = [doctest.testmod(import_module(n)) for n in names if not n.endswith("__main__")]
    assert sum(each.attempted for each in found) > 10
    assert not any(each.failed for each in found)


def test_the_help_has_two_examples_for_each_command_and_the_exit_codes() -> None:
    codes = (
        "0 all accepted or posted before, 1 some rows need attention, 2 nothing was sent, 3 keys"
        " rejected, 75 LeadSquared away, 129, 130 and 143 by signals"
    )
    assert codes in " ".join(run("post", "-h").stdout.split())
    of_outbox = ("status", "list", "retry", "arrived", "prune", "adopt", "account", "schema")
    for name in (*COMMANDS, *(f"outbox {name}" for name in of_outbox)):
        shown_help = run(*name.split(), "-h", env={"COLUMNS": "100"})
        assert shown_help.exit_code == 0
        _, _, examples = shown_help.stdout.partition("Examples:")
        assert examples.count(f"leadpost {name.split()[0]}") >= 2, name
        # A flag takes no value.
        assert all("--help" in line for line in examples.splitlines() if "<bool>" in line), name


def test_the_help_flows() -> None:
    text = " ".join(run("post", "-h", env={"COLUMNS": "100"}).stdout.replace("│", " ").split())
    assert "However a run ends, even with kill -9, the same command resumes it." in text
    assert "wait for the end of an outage. [default: 5m]" in text
    assert "demo" in run().output


def test_python_m_runs_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["leadpost", "--version"])
    monkeypatch.delitem(sys.modules, "leadpost.cli.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        import_module("leadpost.cli.__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"leadpost {leadpost.__version__}\n"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("leadpost re", ["results", "reconcile"]),
        ("leadpost post --time", ["--timezone"]),
        ("leadpost outbox ad", ["adopt"]),
        ("leadpost outbox list --state unc", ["uncertain"]),
    ],
)
def test_a_shell_completes_what_is_typed(tmp_path: Path, words: str, completed: list[str]) -> None:
    environment = {
        "_LEADPOST_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    assert start([], environment, tmp_path).wait() == 0
    assert (tmp_path / "stdout").read_text().split() == completed


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_script_for_a_shell_is_printed(tmp_path: Path) -> None:
    """It is for the shell that the command was called from."""
    call = f"{shlex.quote(sys.executable)} -m leadpost.cli --show-completion; exit $?"
    variables = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", call], env=variables, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert b"_LEADPOST_COMPLETE=complete_bash" in done.stdout


def test_help_and_completion_import_no_database(tmp_path: Path) -> None:
    for environment in ({}, {"_LEADPOST_COMPLETE": "complete_bash", "COMP_WORDS": "leadpost p"}):
        code = "import sys; sys.argv[1:] = ['--help']\n"
        code += "from leadpost.cli import main\n"
        code += "try: main()\nfinally: assert 'sqlalchemy' not in sys.modules"
        command = [sys.executable, "-c", code]
        variables = os.environ | {"COMP_CWORD": "1"} | environment
        done = subprocess.run(
            command, env=variables, cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_ctrl_c_while_the_command_is_loaded_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Pressed(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "leadpost.cli.app", Pressed("app"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


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


def test_a_command_says_what_to_install_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    imported.cache_clear()
    for name in ("leadpost.cli.commands.work", "leadpost.outbox"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    result = run("work")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: leadpost.outbox needs SQLAlchemy")
    assert result.stderr.endswith("pip install 'leadpost[outbox]'\n")


def test_a_pipe_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    """As in `leadpost outbox schema | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        command = ["-m", "leadpost.cli", "outbox", "schema", "sqlite"]
        process = processes.start(command, ENVIRONMENT, tmp_path, stdout=writing, stderr=file)
    os.close(writing)
    assert process.wait() == 1
    assert errors.read_text() == ""


def test_the_demo_as_it_is(tmp_path: Path) -> None:
    process = start(["demo"], {}, tmp_path)
    assert process.wait() == 0
    shown = (tmp_path / "stdout").read_text()
    assert "accepted, with a RequestID  │ 50" in shown
    assert "refused by the sandbox      │ 0" in shown
    assert "25 of 25 allowed" in shown
    assert "status Success              │ 50" in shown
    assert "What to do next:" in shown
    assert "leadpost setup" in shown
    seconds = re.search(r"time, status calls included +│ +([0-9.]+) s", shown)
    assert seconds is not None
    assert float(seconds[1]) < 30


@pytest.mark.parametrize(("activities", "accepted", "succeeded"), [(3, 2, 2), (1, 1, 0)])
def test_a_demo_that_goes_wrong_says_so(
    capsys: pytest.CaptureFixture[str], activities: int, accepted: int, succeeded: int
) -> None:
    """The second call is refused: a post, or the query for the status of the only post."""
    with Sandbox(period=0.1, pace=1000, faults=Faults(script=["ok", "500-mx"])) as sandbox:
        demo = run_demo(sandbox, TokenBucket(period=0.1), Console(file=io.StringIO()), activities)
        assert asyncio.run(demo) is Exit.SOME_NOT
    shown = capsys.readouterr()
    assert f"accepted, with a RequestID  │ {accepted}" in shown.out
    assert f"status Success              │ {succeeded}" in shown.out
    assert shown.err.startswith("error: ApplicationError: HTTP 500: MXInvalidInputException")


def served(directory: Path, *options: str) -> tuple[Process, dict[str, str]]:
    """Start `leadpost sandbox`, and run the lines that it says to paste."""
    process = start(["sandbox", *options], {"PYTHONUNBUFFERED": "1"}, directory)
    out = directory / "stdout"
    until(lambda: "API_KEY" in out.read_text() or process.poll() is not None)
    script = f". {out}; env"
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env={})
    variables = dict(line.split("=", 1) for line in shell.stdout.splitlines())
    return process, {name: v for name, v in variables.items() if name.startswith("LEADPOST_")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_sandbox_says_what_to_paste_and_what_it_saw(
    tmp_path: Path, number: signal.Signals
) -> None:
    options = ("--delay", "0:0.01", "--script", "500-mx", "--fault", "500=0", "--limit", "0")
    process, env = served(tmp_path, *options)
    first, *pasted = (tmp_path / "stdout").read_text().splitlines()
    assert first.endswith("until Ctrl-C. In another terminal:")
    assert len(pasted) == 2
    path = write_csv(tmp_path / "leads.csv", [cells(0), cells(1)])
    done = run("post", path, "--timezone", "UTC", "--account-check", "off", env=env)
    assert done.exit_code == 1
    process.send_signal(number)
    assert process.wait() == 0
    report = (tmp_path / "stdout").read_text().splitlines()[3:]
    assert report == [
        "# calls: 2, activities accepted: 1, refused by the limit: 0, fullest window: 2",
        "# fault 500-mx: 1",
        report[-1],
    ]
    assert report[-1].startswith("# duplicates: 0, ")
    assert (tmp_path / "stderr").read_text() == ""


def test_the_sandbox_reports_even_if_it_is_stopped_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(**_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("leadpost.cli.commands.sandbox.exports", stopped)
    result = run("sandbox")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("# duplicates: 0, ")


def test_the_sandbox_has_no_more_than_eight_options() -> None:
    assert len(inspect.signature(sandbox).parameters) <= 8


def test_the_sandbox_can_refuse_keys_and_be_away(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "leads.csv", [cells(n) for n in range(4)])
    none: list[str] = []
    with made(faults=none, script="ok,keys-refused", limit=None) as refusing:
        command = ["post", path, "--timezone", "UTC", "--outbox", tmp_path / "a.db"]
        assert run(*command, env=keys_of(refusing)).exit_code == 3
    with made(faults=none, script="ok,away:600", limit=None) as away:
        command = ["post", path, "--timezone", "UTC", "--outbox", tmp_path / "b.db", "--wait", "2s"]
        (tmp_path / "leads.csv.results.csv").unlink()
        assert run(*command, env=keys_of(away)).exit_code == 75
        assert away.report().faults["away"] == 1


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--delay", "fast"], "--delay: found 'fast', wanted seconds, or LOW:HIGH"),
        (["--delay", "inf"], "--delay: found 'inf', wanted seconds, or LOW:HIGH"),
        (["--delay", "2:1"], "--delay: found '2:1', wanted seconds, or LOW:HIGH"),
        (["--fault", "500"], "--fault: found '500', wanted NAME=PROBABILITY"),
        (["--fault", "500=often"], "--fault: found '500=often', wanted NAME=PROBABILITY"),
        (["--fault", "501=0.1"], "unknown faults 501; there are 429,"),
        (["--fault", "500:3=0.1"], "only 429-retry-after, slow, away take seconds; not 500"),
        (["--fault", "away:-1=0.1"], "retry_after, slow and away are seconds, 0 or more"),
        (["--script", "ok,no"], "unknown faults no;"),
        (["--script", "slow:long"], "--script: found 'slow:long', wanted NAME or NAME:SECONDS"),
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
    assert result.stderr == (
        f"error: port {port}: Address already in use. Stop what uses it, or choose another port, or"
        " 0 for a free one\n"
    )
