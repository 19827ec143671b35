"""The README's Python and its commands run as they stand, against the sandbox."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_support import LONG, keys_of, put, record, until, url_of, write_csv
from support import LEAD

from leadpost.sandbox import Faults, Sandbox

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
CONSOLES = re.findall(r"^```console\n(leadpost .*?)^```$", README, re.MULTILINE | re.DOTALL)
RUNS = re.findall(r"^```console\n(\$ leadpost .*?)^```$", README, re.MULTILINE | re.DOTALL)

DRIVE_OUTBOX = """
import httpx
import logging

async def drive():
    transport = httpx.ASGITransport(app)
    lead = "00727844-51aa-11e2-9e64-12314004ac6b"
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        async with app.router.lifespan_context(app):
            for path, status in (
                (f"/calls/1/lead/{lead}", 202),
                (f"/calls/1/lead/{lead}", 202),
                ("/calls/1/lead/3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11", 409),
                ("/calls/2/lead/nobody", 422),
            ):
                assert (await client.put(path)).status_code == status
            assert (await client.get("/calls/2")).status_code == 404
            async with asyncio.timeout(30):
                while (found := (await client.get("/calls/1")).json())["state"] != "accepted":
                    await asyncio.sleep(0.01)
            print(found["request_id"])
            assert (await client.get("/health")).json()["accepted"] == 1
        logging.getLogger("leadpost").setLevel(logging.CRITICAL)
        os.environ["LEADPOST_SECRET_KEY"] = "wrong"
        async with app.router.lifespan_context(app):
            await client.put(f"/calls/3/lead/{lead}")
            async with asyncio.timeout(30):
                while (health := await client.get("/health")).status_code == 200:
                    await asyncio.sleep(0.01)
            assert health.json()["detail"] == "not working: Unauthorized"
            assert (await client.get("/calls/3")).json()["state"] == "pending"

import os
asyncio.run(drive())
"""
"""What a visitor of the service with an outbox does."""

DRIVE_TENANTS = """
from attrs import evolve
from leadpost import Activity

URL = "sqlite:///tenants.db"
LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"

async def drive():
    acme, globex = (evolve(Account.from_env(), name=name) for name in ("acme", "globex"))
    for tenant in (acme, globex):
        async with Outbox(URL, tenant) as outbox:
            await outbox.put(Activity(LEAD, 201, tenant.name), key="one")
    working = asyncio.create_task(main(acme, globex))
    for tenant in (acme, globex):
        async with Outbox(URL, tenant) as outbox, asyncio.timeout(30):
            while (entry := (await outbox.find(["one"]))["one"]).state not in {
                "accepted", "succeeded"
            }:
                await asyncio.sleep(0.01)
            print(entry.activity["ActivityNote"], entry.state)
    working.cancel()
    await asyncio.wait([working])

asyncio.run(drive())
"""
"""What two tenants of one database do."""

DRIVE = """
import asyncio
import httpx
import logging

logging.getLogger("leadpost").setLevel(logging.ERROR)

async def drive():
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        lead = "00727844-51aa-11e2-9e64-12314004ac6b"
        response = await client.post(f"/leads/{lead}/calls")
        print(response.raise_for_status().json()["request_id"])
        for path, status, told in (
            ("/leads/nobody/calls", 422, "RelatedProspectId: found"),
            (f"/leads/{lead}/calls", 422, "MXInvalidInputException"),
            (f"/leads/{lead}/calls", 409, "may have been posted"),
            (f"/leads/{lead}/calls", 503, "not posted: try again later"),
        ):
            response = await client.post(path)
            assert response.status_code == status
            assert told in response.json()["detail"]

asyncio.run(drive())
"""
"""What a visitor of the service does."""


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_python_block_runs(block: str, tmp_path: Path) -> None:
    wrong: Sequence[str] = ()
    drive = ""
    if "TaskGroup()" in block:
        drive = DRIVE_TENANTS
    elif "outbox.run(" in block:
        drive = DRIVE_OUTBOX
    elif "FastAPI(" in block:
        drive, wrong = DRIVE, ["ok", "500-mx", "cut-after", "429-retry-after"]
    elif "it arrived:" in block:
        wrong = ["cut-after"]
    faults = Faults(script=wrong, retry_after=30)  # s, longer than the service goes on
    with Sandbox(pace=1000, delay=0.02, faults=faults) as sandbox:
        how = ["-c", block + drive]
        if "def test_" in block:
            (tmp_path / "test_block.py").write_text(block, encoding="utf-8")
            how = ["-m", "pytest", "-o", "asyncio_default_fixture_loop_scope=function"]
        done = subprocess.run(
            [sys.executable, "-W", "error", *how],
            env=os.environ | keys_of(sandbox),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
        if "Account.from_env" in block:
            assert sandbox.report().taken > 0


@pytest.mark.parametrize("line", [line for block in CONSOLES for line in block.splitlines()])
def test_each_command_runs(line: str, tmp_path: Path) -> None:
    """Those that go on for ever until Ctrl-C, once they have said something."""
    said = tmp_path / "said"
    command = line.replace("LEAD_ID", LEAD).split()
    command += ["--yes"] if "--post" in command else []  # there is no terminal to ask at
    code = 130 if command[1] == "work" else 0  # Ctrl-C is how watching ends
    with Sandbox(pace=1000) as sandbox, said.open("w") as file:
        put(url_of(tmp_path / "leadpost.db"), 0, account=sandbox.account())
        process = subprocess.Popen(
            [sys.executable, "-m", "leadpost.cli", *command[1:]],
            env=os.environ | keys_of(sandbox),
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            if command[1] == "work" or "--watch" in command:
                until(lambda: bool(said.read_text()))
                process.send_signal(signal.SIGINT)
            assert process.wait(LONG) == code, said.read_text()
        finally:
            process.kill()
            process.wait()
    assert said.read_text()


def test_the_run_that_is_shown_is_a_real_one(tmp_path: Path) -> None:
    rows = [record(number) for number in range(60)]
    rows[6]["ActivityEvent"] = "call"  # line 8
    write_csv(tmp_path / "calls.csv", rows)
    found: list[str] = []
    with Sandbox(pace=1000) as sandbox:
        for line in RUNS[0].splitlines():
            if line.startswith("$ "):
                done = subprocess.run(
                    [sys.executable, "-m", "leadpost.cli", *line.split()[2:]],
                    env=os.environ | keys_of(sandbox) | {"LEADPOST_OUTBOX": "leadpost.db"},
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=LONG,
                    check=False,
                )
                found += [line, *done.stdout.splitlines()]
    assert masked(found) == masked(RUNS[0].splitlines())


def masked(lines: list[str]) -> list[str]:
    """Leave open how long something took, and to whom it was sent."""
    texts = [re.sub(r" in \d+ s\.|(?<=until )\d\d:\d\d", "…", line).rstrip() for line in lines]
    texts = [re.sub(r"^account  .*", "account  …", text) for text in texts]
    return [text for text in texts if text]


def test_every_block_is_run() -> None:
    """But for the map, which is compared, and the two commands for a fresh machine: `.ci/run`."""
    fences = len(re.findall(r"^```\w*$", README, re.MULTILINE))
    assert fences == 2 * (len(BLOCKS) + len(CONSOLES) + len(RUNS) + 1 + 2)


def test_the_two_commands_stand_alone_on_their_lines() -> None:
    commands = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("leadpost demo")
    assert "-m pytest" in commands[1]


def test_the_map_names_what_is_there() -> None:
    package = ROOT / "leadpost"
    if not package.is_dir():
        pytest.fail("the README's map is checked in the checkout")
    named = set(
        re.findall(r"\b([a-z]+\.py|outbox/|sandbox/|cli/)(?= )", README.split("```\nleadpost/")[1])
    )
    there = {path.name + "/" * path.is_dir() for path in package.iterdir() if path.name[0] != "_"}
    assert named - {"noxfile.py"} == there - {"py.typed"}


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_and_paths_within_the_repository_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    paths = re.findall(r"`[^`\n]*?\b((?:leadpost|tests|benchmarks)/[\w./-]+)", text)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {f"#{heading.lower().replace(' ', '-')}" for heading in headings}
    for target in (*links, *paths):
        assert target in anchors or (ROOT / target).exists(), target


def test_the_table_of_dependencies_has_each_once_and_a_reason() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        pyproject = tomllib.load(file)
    project = pyproject["project"]
    lists = [
        project["dependencies"],
        *project["optional-dependencies"].values(),
        *pyproject["dependency-groups"].values(),
        pyproject["build-system"]["requires"],
    ]
    needs = [need for each in lists for need in each if isinstance(need, str)]
    names = {re.split(r"[^\w-]", need)[0] for need in needs} - {"leadpost"}
    contributing = README.split("\n## Contributing\n")[1]
    rows = re.findall(r"^\| ([\w-]+) \| ([^|]+) \| ([^|]+) \|$", contributing, re.MULTILINE)[1:]
    assert sorted(row[0] for row in rows) == sorted(names)


def test_no_dependency_has_an_upper_bound() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not re.findall(r"\"[\w-]+(?:\[[\w,]+\])?[^\"]*[<~][^\"]*\"", text)


def test_the_table_is_the_benchmarks_own() -> None:
    table = (ROOT / "benchmarks" / "results" / "ceiling.md").read_text(encoding="utf-8")
    assert f"<!-- benchmarks/results/ceiling.md -->\n{table}<!-- end -->" in README
    assert (ROOT / "benchmarks" / "results" / "ceiling.svg").exists()


def measured(name: str) -> list[dict[str, Any]]:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_the_figures_are_the_benchmarks_own() -> None:
    words = " ".join(README.split())
    waits = [row["99 of 100 after, s"] for row in measured("long_run")]
    assert f"is sent within about {max(waits):.0f} s (`benchmarks/long_run.py`)" in words
    shared = [row for row in measured("shared_limit") if row["what"].startswith("8 processes")]
    least = min(row["to one process alone"] for row in shared)
    assert f"Eight processes reach {least:.2f} of what one reaches" in words
    assert all(row["reached"] == "yes" for row in measured("outbox_worker"))
    outages = [row for row in measured("outage") if row["contender"] == "leadpost"]
    assert all(row["given up"] == row["taken twice"] == 0 for row in outages)
    assert max(row["in doubt"] for row in outages) <= 30
    for row in measured("refusals"):
        if row["client"] == "leadpost":
            assert row["share of what is left"] >= row["wanted"]
            assert row["refused"] <= row["at most"]
