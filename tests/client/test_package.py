"""The installed package: what it needs, and where it was found."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path

import leadpost

ROOT = Path(__file__).parent.parent.parent


def test_the_core_imports_only_its_four_packages_and_the_standard_library() -> None:
    script = (
        "import sys, httpx; before = set(sys.modules); import leadpost;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # attr is a part of attrs; httpx brings it along where rich is an older one.
    assert {*done.stdout.split(), "attr"} == {"aiolimiter", "attr", "attrs", "leadpost", "tenacity"}
    needs = metadata.requires("leadpost") or []
    core = {re.split(r"\W", need)[0] for need in needs if "extra ==" not in need}
    assert core == {"httpx", "aiolimiter", "tenacity", "attrs"}


def test_no_import_is_circular_and_errors_imports_nothing_of_ours() -> None:
    """Those for type checkers count too."""
    package = Path(leadpost.__file__).parent
    modules = dict[str, Path]()
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        modules[name.removesuffix(".__init__")] = path
    imports: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = imports[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (members & modules.keys()) or ({str(node.module)} & modules.keys())
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names} & modules.keys()
    assert imports["leadpost.errors"] == set()
    assert imports["leadpost._call"] > {"leadpost._endpoints.call", "leadpost.errors"}
    TopologicalSorter(imports).prepare()


def test_the_version_is_that_of_the_installed_package() -> None:
    assert metadata.version("leadpost") == leadpost.__version__


def test_each_comment_that_silences_a_check_says_why() -> None:
    """On the same line, or in a comment on the line before or after."""
    silenced = re.compile(r"# (?:type: ignore|noqa|pyright:|ruff: noqa|pyrefly:)")
    codes = (
        r"# (?:type: ignore\[[\w,-]+\]|(?:ruff: )?noqa: [A-Z]+\d+(?:, [A-Z]+\d+)*|pyright: \w+=\w+)"
    )
    found = 0
    for path in (ROOT / "noxfile.py", *ROOT.glob("[lbt]*/**/*.py")):
        lines = ["", *path.read_text(encoding="utf-8").splitlines(), ""]
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            if (match := silenced.search(line)) and path != Path(__file__):
                found += 1
                why = re.sub(codes, "", line[match.start() :]).strip("# ")
                near = (each.lstrip() for each in (before, after))
                explained = why or any(each.startswith("#") for each in near)
                assert explained, f"{path}:{lines.index(line)}: {line}"
    assert found > 0


def test_the_tests_run_against_the_wheel_where_they_should() -> None:
    found = Path(leadpost.__file__)
    wanted_in_wheel = os.environ.get("LEADPOST_TESTS_WANT") == "wheel"
    assert ("site-packages" in found.parts) is wanted_in_wheel
    assert (found.parent / "py.typed").exists()
