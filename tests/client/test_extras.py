"""What works with each extra, and the error without it; runs with any set of extras."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import leadpost
from leadpost import Account, Activity, AsyncActivityPoster
from leadpost.sandbox import Sandbox

ALL = ("outbox", "otel", "cli")
NAMED = {*os.environ.get("LEADPOST_TESTS_EXTRAS", ",".join(ALL)).split(",")}
INSTALLED = {*NAMED, *(("outbox",) if "cli" in NAMED else ())}

ACTIVITY = Activity("00727844-51aa-11e2-9e64-12314004ac6b", 201, "Called back")


def poster(*hooks: leadpost.Hook) -> AsyncActivityPoster:
    """Return a poster whose every post is accepted."""
    answer = httpx.Response(200, json={"Status": "Request accepted.", "RequestID": "r1"})
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer))
    account = Account(host="http://127.0.0.1:9", access_key="a", secret_key="s", api_key="k")
    return AsyncActivityPoster(account, client=client, hooks=hooks)


def test_the_names_of_the_package_need_no_extra() -> None:
    for name in leadpost.__all__:
        assert getattr(leadpost, name)


async def test_posting_needs_no_extra() -> None:
    async with poster() as posting:
        assert await posting.post_many([ACTIVITY] * 3) == ["r1"] * 3


@pytest.mark.parametrize("extra", [extra for extra in ALL if extra != "cli"])
def test_the_module_of_an_extra_imports_or_says_what_to_install(extra: str) -> None:
    if extra in INSTALLED:
        assert importlib.import_module(f"leadpost.{extra}").__doc__
    else:
        with pytest.raises(ImportError, match=rf"pip install 'leadpost\[{extra}\]'$"):
            importlib.import_module(f"leadpost.{extra}")


def test_the_command_runs_or_says_what_to_install() -> None:
    command = [sys.executable, "-W", "error", "-m", "leadpost.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cli" in INSTALLED:
        assert (done.returncode, done.stderr) == (0, "")
        assert "reconcile" in done.stdout
    else:
        assert done.returncode == 2
        assert done.stderr.endswith("pip install 'leadpost[cli]'\n")


async def test_the_sandbox_needs_no_extra() -> None:
    with Sandbox() as sandbox:
        async with AsyncActivityPoster(sandbox.account()) as posting:
            assert await posting.post(ACTIVITY) == sandbox.accepted[0].request_id


@pytest.mark.skipif("outbox" not in INSTALLED, reason="needs the extra outbox")
async def test_the_outbox_needs_no_other_extra(tmp_path: Path) -> None:
    from leadpost.outbox import Outbox  # noqa: PLC0415  # may be missing

    url = f"sqlite:///{tmp_path}/outbox.db"
    async with poster() as posting, Outbox(url, posting.account) as outbox:
        await outbox.put(ACTIVITY)
        assert await outbox.drain(posting) == {"accepted": 1}


@pytest.mark.skipif("otel" not in INSTALLED, reason="needs the extra otel")
async def test_the_hook_for_opentelemetry_needs_no_other_extra() -> None:
    from leadpost.otel import OpenTelemetryHook  # noqa: PLC0415  # may be missing

    async with poster(OpenTelemetryHook()) as posting:  # without the SDK it exports nothing
        assert await posting.post(ACTIVITY) == "r1"
