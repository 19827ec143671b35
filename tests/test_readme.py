"""The README's Python runs as it stands, against the sandbox."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from leadpost.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_python_block_runs(block: str, tmp_path: Path) -> None:
    with Sandbox(pace=1000) as sandbox:
        environment = os.environ | {
            "LEADPOST_HOST": sandbox.url,
            "LEADPOST_ACCESS_KEY": sandbox.access_key,
            "LEADPOST_SECRET_KEY": sandbox.secret_key,
            "LEADPOST_API_KEY": sandbox.api_key,
        }
        how = ["-c", block]
        if "def test_" in block:
            (tmp_path / "test_block.py").write_text(block, encoding="utf-8")
            how = ["-m", "pytest", "-o", "asyncio_default_fixture_loop_scope=function"]
        done = subprocess.run(
            [sys.executable, "-W", "error", *how],
            env=environment,
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


def test_there_are_python_blocks() -> None:
    assert len(BLOCKS) >= 4


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


def test_the_table_is_the_benchmarks_own() -> None:
    table = (ROOT / "benchmarks" / "results" / "ceiling.md").read_text(encoding="utf-8")
    assert f"<!-- benchmarks/results/ceiling.md -->\n{table}<!-- end -->" in README
    assert (ROOT / "benchmarks" / "results" / "ceiling.svg").exists()
