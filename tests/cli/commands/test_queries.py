"""`leadpost status`, `metrics` and `types`, against a sandbox over a real socket."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import payload, until
from files_support import keys_of, run

from leadpost import AsyncActivityPoster, OpenBucket
from leadpost.sandbox import Answer, Faults, Sandbox, request_id_of


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """One that has worked off an activity that succeeds and one that fails."""
    with Sandbox(limit=None, pace=1000) as sandbox:
        post(sandbox, 0, 1)
        yield sandbox


def activity(number: int) -> dict[str, Any]:
    return {**payload(number), "ActivityEvent": 999 if number == 1 else 201}


def post(sandbox: Sandbox, *numbers: int) -> None:
    async def posting() -> None:
        async with AsyncActivityPoster(sandbox.account()) as poster:
            await poster.post_many(map(activity, numbers))

    asyncio.run(posting())
    until(lambda: sandbox.report().pending == 0)


SUCCEEDED = request_id_of(activity(0))
FAILED = request_id_of(activity(1))


def test_status_of_one_that_succeeded(sandbox: Sandbox) -> None:
    result = run("status", SUCCEEDED, env=keys_of(sandbox))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{SUCCEEDED}  succeeded  Success, activity ")


def test_status_of_several_in_their_order(sandbox: Sandbox) -> None:
    result = run("status", FAILED, "no-such-id", SUCCEEDED, env=keys_of(sandbox))
    assert result.exit_code == 1
    failed, unknown, succeeded = result.stdout.splitlines()
    assert failed == (
        f"{FAILED}  failed     ERROR, MXInvalidActivityException: Event Code is invalid or empty"
    )
    assert unknown.startswith("no-such-id  unknown    HTTP 400: MXInvalidInputException")
    assert succeeded.startswith(SUCCEEDED)


def test_status_as_json(sandbox: Sandbox) -> None:
    result = run("status", SUCCEEDED, "no-such-id", "--json", env=keys_of(sandbox))
    assert result.exit_code == 1
    succeeded, unknown = json.loads(result.stdout)
    assert succeeded.pop("activity_id")
    assert succeeded == {
        "request_id": SUCCEEDED,
        "state": "succeeded",
        "is_final": True,
        "status": "Success",
        "status_reason": "Request was successfully completed",
        "error": None,
    }
    assert (unknown["state"], unknown["is_final"], unknown["status"]) == ("unknown", False, None)


def test_status_of_one_that_is_not_final() -> None:
    with Sandbox(pace=0.001) as sandbox:

        async def posting() -> str:
            async with AsyncActivityPoster(sandbox.account()) as poster:
                return await poster.post(activity(0))

        request_id = asyncio.run(posting())
        result = run("status", request_id, env=keys_of(sandbox))
    assert result.exit_code == 1
    assert result.stdout == f"{request_id}  pending    In-Queue, may still change\n"


def test_status_of_a_file_names_the_command_for_it(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "my calls.csv"
    path.touch()
    result = run("status", path, env=keys_of(sandbox))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"is a file, not a RequestID. To ask about its rows: leadpost verify '{path}'\n" in (
        result.stderr
    )


def test_status_wants_ids() -> None:
    result = run("status")
    assert result.exit_code == 2
    assert "Missing argument" in result.stderr


def test_queries_take_tokens_of_the_bucket_that_all_runs_share(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def bucket(url: str, *, limit: int) -> OpenBucket:
        asked.append(f"{url} {limit}")
        return OpenBucket()

    monkeypatch.setattr("leadpost.cli.queries.SharedTokenBucket", bucket)
    for args in (["metrics"], ["types"], ["status", SUCCEEDED]):
        assert run(*args, "--outbox", "shared.db", env=keys_of(sandbox)).exit_code == 0
    assert asked == ["sqlite:///shared.db 25"] * 3


def test_what_was_told_before_the_keys_were_refused_is_not_lost(sandbox: Sandbox) -> None:
    with Sandbox(faults=Faults(script=["ok", Answer(401)])) as fickle:
        post(fickle, 0)
        result = run("status", SUCCEEDED, "--json", env=keys_of(fickle))
    assert result.exit_code == 3
    assert json.loads(result.stdout) == []
    assert result.stderr.startswith("error: HTTP 401")
    del sandbox


def test_metrics(sandbox: Sandbox) -> None:
    result = run("metrics", env=keys_of(sandbox))
    assert result.exit_code == 0
    assert result.stdout == (
        "pending messages:  0\nlongest delay:     0 s\nprocessing rate:   0.2 per minute\n"
    )
    found = json.loads(run("metrics", "--json", env=keys_of(sandbox)).stdout)
    assert found == {
        "pending_messages": 0,
        "max_delay_in_seconds": 0,
        "processing_rate_per_minute": 0.2,
    }


def test_types(sandbox: Sandbox) -> None:
    result = run("types", env=keys_of(sandbox))
    assert result.exit_code == 0
    assert "201" in result.stdout
    assert "Document Upload" in result.stdout
    found = json.loads(run("types", "--json", env=keys_of(sandbox)).stdout)
    assert [(kind["code"], kind["name"]) for kind in found] == [
        (201, "Document Upload"),
        (207, "Demo Call"),
        (210, "Phone Call"),
    ]


def test_types_of_an_unknown_shape_are_shown_as_they_came() -> None:
    answer = Answer(200, '[{"Id": "7"}]', {"content-type": "application/json"})
    with Sandbox(faults=Faults(script=[answer])) as sandbox:
        assert '{"Id": "7"}' in run("types", env=keys_of(sandbox)).stdout


def test_one_type_with_its_fields(sandbox: Sandbox) -> None:
    result = run("types", "207", env=keys_of(sandbox))
    assert result.exit_code == 0
    assert result.stdout.startswith("207 Demo Call\n")
    assert "mx_Custom_1" in result.stdout
    found = json.loads(run("types", "207", "--json", env=keys_of(sandbox)).stdout)
    assert found["fields"][0] == {
        "schema_name": "mx_Custom_1",
        "display_name": "Outcome",
        "data_type": "String",
        "is_mandatory": True,
        "is_read_only": False,
        "max_length": 200,
        "is_dropdown": False,
        "options": None,
        "is_multiple": False,
        "allows_others": False,
    }


def test_a_type_that_is_not_there_is_one_line_of_error(sandbox: Sandbox) -> None:
    result = run("types", "999", env=keys_of(sandbox))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: HTTP 500: MXInvalidActivityException")
    assert "leadpost types" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "key"),
    [(["status", "x"], "API_KEY"), (["metrics"], "API_KEY"), (["types"], "ACCESS_KEY")],
)
def test_refused_keys_end_with_3(sandbox: Sandbox, args: list[str], key: str) -> None:
    env = {**keys_of(sandbox), f"LEADPOST_{key}": "wrong"}
    assert run(*args, env=env).exit_code == 3


@pytest.mark.parametrize(
    ("args", "variable"),
    [
        (["status", "x"], "LEADPOST_STATUS_PATH"),
        (["metrics"], "LEADPOST_METRICS_PATH"),
        (["types"], "LEADPOST_SYNC_HOST"),
    ],
)
def test_a_wrong_url_is_told_with_its_host(args: list[str], variable: str) -> None:
    with Sandbox(faults=Faults(script=[Answer(404)])) as sandbox:
        result = run(*args, env=keys_of(sandbox))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: HTTP 404, no such path at {sandbox.url}/")
    assert variable in result.stderr
    assert result.stderr.count("\n") == 1
