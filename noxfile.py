"""Checks and benchmarks of the project: `nox -l` lists them, `nox -s NAME` runs one."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False  # not even where CI=true
nox.options.sessions = [
    *("lint", "types", "docs", "coverage", "tests", "min_versions", "extras"),
    *("build", "audit", "demo"),
]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
"""From the classifiers; those that are not installed are skipped."""
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
EVERYTHING = f".[{','.join(EXTRAS)}]"
MEASURING = next((p for p in PYTHONS[:0:-1] if shutil.which(f"python{p}")), PYTHONS[-1])
"""The newest Python installed, which measures coverage; 3.11 loses lines (see pyproject.toml)."""
WHEEL = {"PYTHONSAFEPATH": "1", "LEADPOST_TESTS_WANT": "wheel"}


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests against the wheel, not the checkout, on each Python that is installed."""
    session.install(EVERYTHING, *group("tests"))
    session.run("python", "-m", "pytest", "-n", "6", *session.posargs, env=WHEEL)


@nox.session(python=PYTHONS[0])
def min_versions(session: nox.Session) -> None:
    """Run the tests with the lowest versions that pyproject allows, on the lowest Python."""
    project = PYPROJECT["project"]
    needs = [*project["dependencies"], *(need for extra in EXTRAS.values() for need in extra)]
    others = [need for need in (*needs, *group("tests")) if not need.startswith("leadpost[")]
    session.install(*(need.replace(">=", "==") for need in others))
    session.install("--no-deps", ".")
    session.run("python", "-m", "pip", "check")
    session.run("python", "-m", "pytest", "-n", "6", *session.posargs, env=WHEEL)


@nox.session
@nox.parametrize("extra", ["", *EXTRAS])
def extras(session: nox.Session, extra: str) -> None:
    """Test the wheel without extras, and with each extra alone."""
    # Only pytest's packages, as other test dependencies would bring what an extra brings.
    needs = [need for need in group("tests") if need.startswith("pytest")]
    session.install(f".[{extra}]" if extra else ".", *needs)
    environment = WHEEL | {"LEADPOST_TESTS_EXTRAS": extra}
    session.run(
        *("python", "-m", "pytest", "--noconftest", "tests/client/test_extras.py"), env=environment
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, also of the tests, the benchmarks and the documents."""
    session.install("-e", EVERYTHING, *group("types"), *group("benchmarks"), "nox")
    session.run("mypy")
    session.run("pyright", "--pythonpath", f"{session.virtualenv.bin}/python")
    session.run("pyrefly", "check")  # a third opinion on what callers write
    examples = session.create_tmp()
    session.run("python", "tests/documents.py", examples)
    session.run("pyright", "--pythonpath", f"{session.virtualenv.bin}/python", examples)


@nox.session(python=MEASURING)
def coverage(session: nox.Session) -> None:
    """Run the tests, and require that they run every line and branch."""
    session.install("-e", EVERYTHING, *group("tests"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-n", "6", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples of the documents, and check their links and figures."""
    session.install("-e", EVERYTHING, *group("tests"))
    session.run("python", "-m", "pytest", "-n", "6", "tests/test_documents.py")


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel into dist/, and check them."""
    session.install(*group("build"))
    session.run("python", "-c", "import shutil; shutil.rmtree('dist', ignore_errors=True)")
    session.run("python", "-m", "build")
    files = [str(file) for file in Path("dist").iterdir()]
    session.run("twine", "check", "--strict", *files)
    session.run("check-wheel-contents", "dist")


@nox.session
def release(session: nox.Session) -> None:
    """Release a version, `nox -s release -- 0.2.0`: commit, test, build, tag, push, upload."""
    version = session.posargs[0] if len(session.posargs) == 1 else ""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        session.error("name one version: nox -s release -- 0.2.0")
    if session.run("git", "status", "--porcelain", external=True, silent=True):
        session.error("there are uncommitted changes: see git status")
    package, changelog = Path("leadpost/__init__.py"), Path("CHANGELOG.md")
    news = changelog.read_text(encoding="utf-8")
    title, unreleased = f"## [{version}] - {datetime.now(UTC):%Y-%m-%d}", "## [Unreleased]\n"
    if f"## [{version}]" in news or re.search(rf"{re.escape(unreleased)}\s*(## |\Z)", news):
        session.error(f"CHANGELOG.md already has {version}, or nothing is unreleased")
    news = news.replace(unreleased, f"{unreleased}\n{title}\n", 1)
    changelog.write_text(news, encoding="utf-8")
    text = package.read_text(encoding="utf-8")
    text = re.sub(r'^__version__ = ".*"$', f'__version__ = "{version}"', text, flags=re.MULTILINE)
    package.write_text(text, encoding="utf-8")
    session.run("git", "commit", "-qam", f"Release {version}", external=True)
    session.run(".ci/run", external=True)
    build(session)
    session.run("git", "tag", "-a", f"v{version}", "-m", f"leadpost {version}", external=True)
    session.run("git", "push", "--atomic", "origin", "HEAD", f"v{version}", external=True)
    session.run("twine", "upload", *(str(file) for file in Path("dist").iterdir()))


@nox.session
def audit(session: nox.Session) -> None:
    """Look up known vulnerabilities of the dependencies, if the database can be reached."""
    session.install(EVERYTHING)
    freeze = ("python", "-m", "pip", "freeze", "--exclude", "leadpost")
    brought = session.run(*freeze, silent=True, log=False)
    folder = Path(session.create_tmp())
    needs, report = folder / "needs.txt", folder / "report.json"
    needs.write_text(str(brought), encoding="utf-8")
    report.unlink(missing_ok=True)
    session.install(*group("audit"))
    output = session.run(
        *("pip-audit", "--requirement", str(needs), "--no-deps", "--disable-pip"),
        *("--format", "json", "--output", str(report), "--progress-spinner", "off"),
        success_codes=[0, 1],  # 1: vulnerable, or no connection; see the report
        silent=True,
    )
    found: list[dict[str, Any]] = []
    if report.exists():
        found = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    unknown = [each["skip_reason"] for each in found if "skip_reason" in each]
    if len(unknown) == len(found):
        session.log(unknown[0] if unknown else str(output).strip().rpartition("\n")[2])
        session.skip("pip-audit cannot reach its database")
    for reason in unknown:
        session.log(reason)
    if vulnerable := [each for each in found if each.get("vulns")]:
        session.error(json.dumps(vulnerable, indent=2))


@nox.session
def demo(session: nox.Session) -> None:
    """Install from a path, as another project would, and run the demo without the checkout."""
    session.install(f"leadpost[cli] @ {Path.cwd().as_uri()}")
    session.run("leadpost", "demo", env={"PYTHONSAFEPATH": "1"})


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Run all benchmarks, in some 45 minutes, or only the named ones."""
    session.install("-e", ".[cli]", *group("benchmarks"))
    names = (
        *("ceiling", "long_run", "refusals", "outage", "shared_account", "shared_limit"),
        *("overhead", "imports", "memory", "outbox_speed", "telemetry"),
    )
    for name in session.posargs or names:
        session.run("python", f"benchmarks/{name}.py")
