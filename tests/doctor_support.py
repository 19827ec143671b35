"""What the tests of `leadpost doctor` share: ways to run it, and what it told."""

import pytest
from attrs import field, frozen
from cli_support import keys_of, run

from leadpost.sandbox import Sandbox
from leadpost.sandbox.endpoints import Call

REFUSED = "HTTP 401: MXUnAuthorizedAccessException: AccessKey or SecretKey is not valid"

both_ways = pytest.mark.parametrize(("used", "other"), [("query", "headers"), ("headers", "query")])


@frozen
class Told:
    """What the command told: its exit code, and by check the verdict and the rest of the line."""

    exit_code: int
    stderr: str
    output: str = field(repr=False)

    @property
    def verdicts(self) -> dict[str, str]:
        return {line[9:25].strip(): line[:8].strip() for line in self.output.splitlines()}

    @property
    def texts(self) -> dict[str, str]:
        return {line[9:25].strip(): line[26:] for line in self.output.splitlines()}


def doctor(sandbox: Sandbox, *args: object, **env: str) -> Told:
    yes = ["--yes"] if "--post" in args else []
    result = run("doctor", *args, *yes, env=keys_of(sandbox) | env)
    return Told(result.exit_code, result.stderr, result.stdout)


def settled(number: int) -> list[str]:
    """Fates of the calls before the one that matters."""
    return ["ok"] * number


def take_only(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the sandbox take keys that are passed in this way only."""

    def key(call: Call, name: str) -> str | None:
        return call.query.get(name) if way == "query" else call.headers.get(f"x-lsq-{name}")

    monkeypatch.setattr("leadpost.sandbox.vendor._key", key)
