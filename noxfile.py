"""What checks and measures the project: `nox -l` lists it, `nox -s NAME` runs one."""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "coverage", "tests", "demo"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
"""From the classifiers; those that are not on the machine are left out with a word."""


def group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PYPROJECT, name)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests against the wheel, not the checkout, on each Python found."""
    session.install(".[cli]", *group("tests"))
    environment = {"PYTHONSAFEPATH": "1", "LEADPOST_TESTS_WANT": "wheel"}
    session.run("python", "-m", "pytest", "-n", "4", *session.posargs, env=environment)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, of the tests and benchmarks too."""
    session.install("-e", ".[cli]", *group("types"), *group("benchmarks"), "nox")
    session.run("mypy")
    session.run("pyright", "--pythonpath", f"{session.virtualenv.bin}/python")


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and demand that every line and branch was run."""
    session.install("-e", ".[cli]", *group("tests"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-n", "4", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def demo(session: nox.Session) -> None:
    """Run the project's main job on its embedded sandbox."""
    session.install(".[cli]")
    session.run("leadpost", "demo", env={"PYTHONSAFEPATH": "1"})


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure what is promised of speed and memory, in some 40 minutes; or only the named ones."""
    session.install("-e", ".[cli]", *group("benchmarks"))
    names = (
        *("ceiling", "long_run", "shared_account", "shared_limit"),
        *("overhead", "imports", "memory", "outbox_speed"),
    )
    for name in session.posargs or names:
        session.run("python", f"benchmarks/{name}.py")
