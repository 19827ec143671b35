"""The documents: their examples run unchanged, their links work, their figures are measured."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import processes
import pytest
import sqlalchemy as sa
from cli_support import LONG, put, until, url_of
from documents import DOCUMENTS, ROOT, Example, anchor_of, examples, logged_messages, text_of
from files_support import cells, keys_of, write_csv
from packaging.requirements import Requirement
from sqlalchemy.ext.asyncio import create_async_engine
from support import run

import leadpost
from leadpost.cli.files.comparing.ledger import statements as of_files
from leadpost.errors import State
from leadpost.hooks import Answered, Retried, Sent, Waiting
from leadpost.outbox.database import ddl
from leadpost.sandbox import Faults, Sandbox

README = text_of("README.md")
SCRIPTS: Mapping[str, Sequence[str]] = {
    "leadpost/README.md#uncertain-posts": ["cut-after"],
    "leadpost/outbox/README.md#without-an-outbox": ["ok", "500-mx", "cut-after", "429-retry-after"],
}
"""The faults in the sandbox of an example."""
LOGS = {"leadpost/README.md#outages"}
"""Examples that show what is logged."""
UNTIL_STOPPED = {"work": 130, "sandbox": 0, "--watch": 0}
"""Words of commands that run until Ctrl-C, and the exit codes then."""
FOR_A_FRESH_MACHINE = "python3 -m venv "
"""The start of the README's two commands; `.ci/run` and `nox -s demo` run them."""


def place_of(example: Example) -> str:
    return example.place


def test_the_readme_is_at_most_200_lines() -> None:
    assert len(README.splitlines()) <= 200


def test_every_block_is_of_a_language_that_is_tested() -> None:
    fences = [
        fence for name in DOCUMENTS for fence in re.findall(r"^```.*$", text_of(name), re.MULTILINE)
    ]
    assert set(fences[::2]) == {
        f"```{name}" for name in ("python", "console", "toml", "sql", "mermaid")
    }
    assert set(fences[1::2]) == {"```"}


@pytest.mark.parametrize("example", examples("python"), ids=place_of)
def test_each_python_example_runs(
    example: Example, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "test_example.py").write_text(example.code, encoding="utf-8")
    variables: dict[str, str] = {}
    if "DATABASE_URL" in example.code:
        variables["DATABASE_URL"] = request.getfixturevalue("postgresql_url")
    script = SCRIPTS.get(example.place, ())
    faults = Faults(script=script, retry_after=30)  # s, longer than any example waits
    with Sandbox(pace=1000, delay=0.02, faults=faults) as sandbox:
        put(url_of(tmp_path / "leadpost.db"), account=sandbox.account())  # creates the tables
        environment = os.environ | keys_of(sandbox) | variables
        run_example = run_tests if "def test_" in example.code else visit
        done = run_example(example, environment, tmp_path)
        if example.place in LOGS:
            assert "answers posts again" in done.stderr
        else:
            assert done.stderr == ""
        assert done.returncode == 0, done.stdout
        if "Account.from_env" in example.code and "poster" in example.code:
            assert sandbox.report().arrivals > 0
            only_asks = "poster.check(" in example.code
            assert sandbox.report().accepted == 0 if only_asks else sandbox.report().accepted > 0


def visit(
    example: Example, environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    program = Path(__file__).parent / "visit.py"
    return processes.run([program, "test_example.py", example.place], environment, folder)


def run_tests(
    _: Example, environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "pytest"]
    command += ["-o", "asyncio_default_fixture_loop_scope=function"]
    command += ["-pno:hypothesispytest", "-pno:xdist"]  # as importing them takes a second
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )


def commands() -> list[str]:
    """Return the commands of the documents whose output is not shown."""
    blocks = (block.code for block in examples("console"))
    lines = [line for block in blocks if "$ " not in block for line in block.splitlines() if line]
    return [line for line in lines if not line.startswith(FOR_A_FRESH_MACHINE)]


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("leadpost ")])
def test_each_command_runs(line: str, tmp_path: Path) -> None:
    """Commands that run until stopped are stopped once they have printed something."""
    words = line.split()[1:]
    stopped = next((code for word, code in UNTIL_STOPPED.items() if word in words), None)
    output = tmp_path / "output"
    with Sandbox(pace=1000) as sandbox, output.open("w") as file:
        put(url_of(tmp_path / "leadpost.db"), 0, account=sandbox.account())
        process = processes.start(
            ["-m", "leadpost.cli", *words],
            os.environ
            | keys_of(sandbox)
            | {"PYTHONUNBUFFERED": "1", "LEADPOST_OUTBOX": "leadpost.db"},
            tmp_path,
            stdout=file,
            stderr=file,
        )
        try:
            if stopped is not None:
                until(lambda: bool(output.read_text()))
                process.send_signal(signal.SIGINT)
            assert process.wait(LONG) == (stopped or 0), output.read_text()
        finally:
            process.kill()
            process.wait()
    assert output.read_text()


@pytest.mark.parametrize(
    "example", [each for each in examples("console") if "$ " in each.code], ids=place_of
)
def test_the_shown_runs_are_real(example: Example, tmp_path: Path) -> None:
    rows = [cells(number) for number in range(60)]
    rows[6]["ActivityEvent"] = "call"  # line 8
    write_csv(tmp_path / "calls.csv", rows)
    lines: list[str] = []
    output = tmp_path / "output"
    own = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    with Sandbox(pace=1000) as sandbox:
        for line in example.code.splitlines():
            if line.startswith("$ "):
                with output.open("w") as file:
                    process = processes.start(
                        ["-m", "leadpost.cli", *line.split()[2:]],
                        os.environ | keys_of(sandbox) | own,
                        tmp_path,
                        stdout=file,
                        stderr=file,
                    )
                    process.wait(LONG)
                lines += [line, *output.read_text().splitlines()]
    assert masked(lines) == masked(example.code.splitlines())


def masked(lines: list[str]) -> list[str]:
    """Replace durations and the name of the outbox's account by placeholders."""
    texts = [re.sub(r" in \d+ s(?=\))|(?<=until )\d\d:\d\d", "…", line).rstrip() for line in lines]
    texts = [re.sub(r"^account  .*", "account  …", text) for text in texts]
    return [text for text in texts if text]


def test_sessions_groups_extras_and_files_that_are_named_exist() -> None:
    """Of the commands that are not run here, as they install, or take long."""
    project = tomllib.loads(text_of("pyproject.toml"))
    sessions = set(re.findall(r"@nox\.session.*\n(?:@.*\n)*def (\w+)", text_of("noxfile.py")))
    known = {
        r"\bnox -s ([a-z_]+)": sessions,
        r"--group (\w+)": set(project["dependency-groups"]),
        r"benchmarks -- (\w+)": {path.stem for path in (ROOT / "benchmarks").glob("*.py")},
        r"pre-commit install.* -t ([a-z-]+)": {"pre-commit", "pre-push"},
        r"(?:python|tests --) ((?:tests|benchmarks)/[\w./]+)": {
            str(path.relative_to(ROOT))
            for folder in ("tests", "benchmarks")
            for path in (ROOT / folder).iterdir()
        },
    }
    texts = " ".join(text_of(name) for name in DOCUMENTS)
    for pattern, existing in known.items():
        named = set(re.findall(pattern, texts))
        assert named, pattern
        assert named <= existing
    for extras in re.findall(r"'\.\[([\w,]+)\]'", texts):
        assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    others = [line for line in commands() if not line.startswith("leadpost ")]
    assert {line.split()[0] for line in others} == {"nox", "pip", "pre-commit", "python"}


@pytest.mark.parametrize("example", examples("toml"), ids=place_of)
def test_the_shown_dependencies_are_valid(example: Example) -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    for line in tomllib.loads(example.code)["dependencies"]:
        requirement = Requirement(line)
        assert requirement.name == project["name"]
        assert requirement.extras <= project["optional-dependencies"].keys()
        assert requirement.url  # `nox -s demo` installs from a path in this form


@pytest.mark.parametrize("example", examples("sql"), ids=place_of)
def test_each_sql_example_runs(example: Example, postgresql_url: str) -> None:
    async def execute() -> None:
        engine = create_async_engine(postgresql_url)
        async with engine.connect() as connection:  # rolled back, as roles belong to all databases
            tables = [*ddl("postgresql").split(";\n\n"), *of_files("postgresql")]
            for statement in ["CREATE ROLE worker", *tables, *example.code.split(";\n")]:
                if statement.strip():
                    await connection.exec_driver_sql(statement)
            counted = await connection.execute(sa.text("SELECT count(*) FROM leadpost_entries"))
            assert counted.scalar_one() == example.code.count("INSERT INTO")
        await engine.dispose()

    run(execute())


def test_the_two_commands_of_the_readme_stand_alone_on_their_lines() -> None:
    lines = [line for line in README.splitlines() if line.startswith(FOR_A_FRESH_MACHINE)]
    assert len(lines) == 2
    assert lines[0].endswith("leadpost demo")
    assert "-m pytest" in lines[1]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(document))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.resolve().exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(anchor_of, headings), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_the_text_exist(document: str) -> None:
    for path in re.findall(r"`((?:leadpost|tests|benchmarks|results)/[\w./-]+)", text_of(document)):
        assert (ROOT / path).exists() or ((ROOT / document).parent / path).exists(), path


def test_the_picture_shows_every_module_of_the_library() -> None:
    (picture,) = (each.code for each in examples("mermaid"))
    shown = set(re.findall(r"\b(\w+\.py|\w+/)", picture))
    package = Path(leadpost.__file__).parent
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert shown == modules | folders


def test_the_documents_name_the_dependencies() -> None:
    needed = tomllib.loads(text_of("pyproject.toml"))["project"]["dependencies"]
    section = text_of(".github/CONTRIBUTING.md").split("\n## Dependencies\n")[1]
    named = re.findall(r"(\w+) \(", section.partition(";")[0])
    assert sorted(named) == sorted(Requirement(line).name for line in needed)


def test_no_dependency_has_an_upper_bound() -> None:
    assert not re.findall(r"\"[\w-]+(?:\[[\w,]+\])?[^\"]*[<~][^\"]*\"", text_of("pyproject.toml"))


def test_the_table_of_messages_has_every_warning_and_error_and_no_other() -> None:
    table = text_of("leadpost/README.md").split("\n## Logging\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (WARNING|ERROR) \|", table, re.MULTILINE)
    shown = [(part, level) for parts, level in rows for part in re.findall("`([^`]+)`", parts)]
    logged = logged_messages()
    assert len(logged) > 10
    # Of each message, the longest row that is part of it: every row must be that of one message.
    found: list[tuple[str, str]] = []
    for message, level in logged.items():
        parts = [part for part, _ in shown if part in message]
        found.append((max(parts, key=len, default=f"no row: {message}"), level))
    assert sorted(found) == sorted(shown)


def test_the_table_of_opentelemetry_has_every_name() -> None:
    section = text_of("leadpost/README.md").split("\n## Hooks and OpenTelemetry\n")[1]
    table = "\n".join(re.findall(r"^\|.*", section.split("\n## ")[0], re.MULTILINE))
    named = r"leadpost\.[a-z_.]+|http\.[a-z_.]+|error\.type"
    events = {f"leadpost.{event.__name__.lower()}" for event in (Waiting, Sent, Answered, Retried)}
    written = re.findall(rf'"({named})"', text_of("leadpost/otel.py"))
    assert set(re.findall(f"`({named})`", table)) == {*written, *events}


def test_the_table_of_outcomes_has_every_state_and_the_errors_of_each() -> None:
    table = README.split("\n## What every outcome means\n")[1]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", table, re.MULTILINE)
    assert sorted(state for state, _ in rows) == sorted(get_args(State))
    for state, errors in rows:
        for name in re.findall(r"`([A-Z][a-z]\w+)`", errors):
            assert getattr(leadpost, name).state == state, name


def test_the_table_of_the_limit_is_the_benchmarks() -> None:
    table = text_of("benchmarks/results/ceiling.md")
    assert f"<!-- benchmarks/results/ceiling.md -->\n{table}<!-- end -->" in README


def measured(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(text_of(f"benchmarks/results/{name}.json"))
    return rows


def figures() -> list[tuple[str, str]]:
    """Return documents, and the texts that they must contain according to the saved results."""
    long_run = measured("long_run")
    slowest = max(row["99 of 100 after, s"] for row in long_run)
    ceiling = min(row["share of the ceiling"] for row in long_run)
    refused = max(row["refused"] for row in long_run)
    outages = [row for row in measured("outage") if row["contender"].startswith("leadpost")]
    uncertain = max(row["uncertain"] for row in outages)
    assert all(row["given up"] == row["taken twice"] == 0 for row in outages)
    others = measured("shared_account")[0]
    left = others["of what is left of the limit"]
    eight = [row for row in measured("shared_limit") if row["what"].startswith("8 processes")]
    shared = min(row["to one process alone"] for row in eight)
    transactions = max(row["transactions/s of one that waits"] for row in eight)
    assert all(row["refused"] == 0 for row in eight)
    assert transactions <= 4
    refusals = {
        row["case"]: row["share of what is left"]
        for row in measured("refusals")
        if row["client"] == "leadpost"
    }
    at_least = min(share for case, share in refusals.items() if case.startswith("another program"))
    at_random = refusals["429 by chance, 10 %"]
    cpu = measured("overhead")[0]["CPU, ratio to the bare client"]
    import_time = measured("imports")[0]["ratio"]
    memory = measured("memory")[0]["memory grew by, MiB"]
    workers = measured("outbox_worker")
    rate = min(row["ratio (goal 0.95)"] for row in workers)
    core = max(row["CPU, % of a core (goal 30)"] for row in workers)
    hooks = measured("telemetry")[1]["CPU, ratio to no hooks"]
    table = "benchmarks/README.md"
    return [
        ("leadpost/README.md", f"sent within about {slowest:.0f} s"),
        ("leadpost/outbox/README.md", f"reach {shared:.2f} of the calls that one alone makes"),
        (
            table,
            f"{ceiling:.2f} of the ceiling, {refused} refused, sent within about {slowest:.0f} s",
        ),
        (table, f"none lost, none posted twice, at most {uncertain} uncertain"),
        (table, f"{left:.2f} of what they leave, {others['of all calls'] * 100:.0f} % refused"),
        (
            table,
            f"at least {at_least:.2f} of what another program leaves; {at_random:.2f} of the limit",
        ),
        (table, f"eight processes make {shared:.2f} of the calls of one, 0 refused"),
        (table, f"{cpu:.2f} times as much"),
        (table, f"{import_time:.2f} times as much"),
        (table, f"{memory:.1f} MiB for 1,000,000 posts"),
        (table, f"it posts at {rate:.2f} of the ceiling, in {core:.0f} % of a core"),
        (table, f"OpenTelemetry: {hooks:.2f} times as much"),
    ]


@pytest.mark.parametrize(("document", "figure"), figures())
def test_each_figure_is_a_measured_one(document: str, figure: str) -> None:
    assert figure in " ".join(text_of(document).split())


def test_the_saved_results_reach_the_goals() -> None:
    for row in measured("long_run"):
        assert row["refused"] == 0
        assert row["fullest 5 s"] <= 25
        assert row["share of the ceiling"] >= 0.97
        assert row["99 of 100 after, s"] <= 1.2
    assert all(row["refused"] == 0 and row["fullest 5 s"] <= 25 for row in measured("cancelled"))
    assert measured("overhead")[0]["CPU, ratio to the bare client"] <= 1.6
    assert measured("imports")[0]["ratio"] <= 1.3
    stream = measured("memory")[0]
    assert stream["memory grew by, MiB"] <= 30
    assert stream["heartbeat late at most, ms"] <= 50
    seconds = {row["what"]: row["s"] for row in measured("files")}
    assert seconds["checked"] <= 15
    assert max(seconds["first call"], seconds["again, all posted"]) <= 30
    assert max(row["MB"] for row in measured("files")) <= 150
    for row in measured("shared_limit"):
        assert row["refused"] == 0
        assert row["fullest 5 s"] <= 25
        if row["what"].startswith("8 processes"):
            assert row["to one process alone"] >= 0.95
            assert row["least, as a share of its share"] >= 0.5


def test_the_figures_about_refusals_are_those_of_the_trial() -> None:
    for row in measured("refusals"):
        if row["client"] == "leadpost":
            assert row["share of what is left"] >= row["wanted"]
            assert row["refused"] <= row["at most"]


def test_every_benchmark_is_in_the_table() -> None:
    programs = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    named = re.findall(r"^\| `(\w+\.py)` \|", text_of("benchmarks/README.md"), re.MULTILINE)
    assert set(named) == programs - {"common.py", "contenders.py", "queues.py"}


def test_the_newest_version_of_the_changelog_is_this_one_or_to_come() -> None:
    first, *released = re.findall(r"^## (.*)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert first == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", title) for title in released]
    assert all(versions), released
    assert not versions or (versions[0] and versions[0][1] == leadpost.__version__)


def test_the_changelog_keeps_the_form_that_it_names() -> None:
    sections = re.findall(r"^### (.*)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert sections
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
