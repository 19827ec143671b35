"""The pytest plugin: its fixtures and its marker, and that it costs nothing where it is unused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

import pytest

from leadpost import Account, Activity, AsyncActivityPoster, RetryPolicy
from leadpost.sandbox import Sandbox

LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"
OTHER_LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"

TESTS = """
import asyncio
from collections import Counter

import pytest

from leadpost import Activity

POSTS = [Activity(f"00727844-51aa-11e2-9e64-{n:012}", 201) for n in range(30)]


MARK
@pytest.mark.leadpost(fast=True, script=["503"])
async def test_many_posts_keep_the_limit_and_faults_are_overcome(
    leadpost_poster, leadpost_sandbox
):
    leadpost_sandbox.fail("500", "429-retry-after")
    async with leadpost_poster:
        await asyncio.gather(*map(leadpost_poster.post, POSTS))
    report = leadpost_sandbox.report()
    assert (report.accepted, report.duplicates, report.arrivals) == (30, 0, 33)
    assert report.fullest_window <= 25


# Refusals are no attempts, so that no chance of their order makes a post give up.
@pytest.mark.leadpost(fast=True, faults={"429-retry-after": 0.1}, seed=1)
def test_without_an_event_loop_every_lead_is_posted_once(leadpost_poster, leadpost_sandbox):
    assert len(asyncio.run(leadpost_poster.post_many(POSTS))) == 30
    posted = Counter(post["RelatedProspectId"] for post in leadpost_sandbox.posted())
    assert posted == dict.fromkeys((post.related_prospect_id for post in POSTS), 1)
    assert leadpost_sandbox.report().faults["429-retry-after"] > 0
    assert leadpost_sandbox.report().fullest_window <= 25


MARK
async def test_a_poster_that_nobody_closes_leaves_nothing_open(leadpost_poster):
    assert await leadpost_poster.post(POSTS[0].to_payload())
"""

ANYIO = """
import pytest


@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


def run_pytest(folder: Path, files: Mapping[str, str], *options: str) -> tuple[int, str]:
    """Write the files to the folder and run pytest there, where every warning is an error."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    without = ("cacheprovider", "hypothesispytest", "xdist")  # as importing them takes a second
    command = [sys.executable, "-m", "pytest", "-W", "error"]
    command += [*(f"-pno:{name}" for name in without), *options]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("mark", "settings", "options"),
    [
        ("", "asyncio_mode = auto", []),
        ("@pytest.mark.asyncio", "asyncio_mode = strict", []),
        ("@pytest.mark.anyio", "", ["-p", "no:asyncio"]),
    ],
    ids=["asyncio-auto", "asyncio-strict", "anyio"],
)
def test_it_works_with_each_plugin_for_asyncio_and_without_any(
    mark: str, settings: str, options: list[str], tmp_path: Path
) -> None:
    scope = "asyncio_default_fixture_loop_scope = function" if settings else ""
    files = {
        "pytest.ini": f"[pytest]\n{settings}\n{scope}\n",
        "conftest.py": ANYIO,
        "test_posts.py": TESTS.replace("MARK", mark),
    }
    code, output = run_pytest(tmp_path, files, "--strict-markers", *options)
    assert code == 0, output
    assert "3 passed" in output


def test_a_run_that_does_not_use_it_imports_nothing_for_it(tmp_path: Path) -> None:
    test = """
import sys

import pytest

@pytest.mark.leadpost(fast=True)
def test_modules():
    assert "leadpost.testing" in sys.modules
    assert not {"http.server", "leadpost.sandbox"} & set(sys.modules)
"""
    options = ("--strict-markers", "-p", "no:asyncio")
    code, output = run_pytest(tmp_path, {"test_modules.py": test}, *options)
    assert code == 0, output


def test_an_event_loop_other_than_asyncios_is_skipped_with_a_reason(tmp_path: Path) -> None:
    """The plugin of anyio runs each test on trio too, where that is installed."""
    test = """
import pytest

@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param

@pytest.fixture
def anyio_backend_name(anyio_backend):
    return anyio_backend

def test_it(anyio_backend, leadpost_poster): ...
"""
    options = ("-rs", "-p", "no:asyncio", "-p", "no:anyio")
    code, output = run_pytest(tmp_path, {"test_loops.py": test}, *options)
    assert (code, "1 passed, 1 skipped" in output) == (0, True), output
    assert "leadpost needs asyncio, not trio" in output


@pytest.mark.leadpost(fast=True)
def test_fast_scales_every_wait(leadpost_poster: AsyncActivityPoster) -> None:
    usual, scaled = RetryPolicy(), leadpost_poster.retry
    for name in ("max_time", "initial_wait", "max_wait", "jitter"):
        assert getattr(scaled, name) == pytest.approx(getattr(usual, name) * 0.1 / 5)
    assert scaled.max_attempts == usual.max_attempts


def test_an_invalid_marker_is_an_error_with_its_reason(tmp_path: Path) -> None:
    test = """
import pytest

@pytest.mark.leadpost(fautls={"500": 1.0}, delai=1)
def test_unknown(leadpost_sandbox): ...

@pytest.mark.leadpost("500")
def test_by_position(leadpost_sandbox): ...

@pytest.mark.leadpost(script=["tea"])
def test_fault(leadpost_account): ...

@pytest.mark.leadpost(script=[429])
def test_number(leadpost_account): ...

@pytest.mark.leadpost(faults=["500"])
def test_list(leadpost_account): ...

@pytest.mark.leadpost(limit="many")
def test_type(leadpost_poster): ...
"""
    code, output = run_pytest(tmp_path, {"test_markers.py": test}, "-p", "no:asyncio")
    assert (code, "6 errors" in output) == (1, True), output
    lines = output.splitlines()
    assert any("unexpected keyword argument 'fautls'" in line for line in lines)
    assert "@pytest.mark.leadpost: pass arguments by name, such as fast=True" in lines
    assert any(line.startswith("@pytest.mark.leadpost: unknown faults tea; ") for line in lines)
    assert any(line.startswith("@pytest.mark.leadpost: unknown faults 429; ") for line in lines)
    wanted = "faults must map names to shares, such as {'500': 0.1}"
    assert f"@pytest.mark.leadpost: {wanted}" in lines
    assert any(line.startswith("@pytest.mark.leadpost: '<' not supported") for line in lines)


def test_a_failure_shows_what_was_posted_and_no_key(tmp_path: Path) -> None:
    test = """
import asyncio

from leadpost import Activity

LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"

def test_posts(leadpost_account, leadpost_poster, leadpost_sandbox):
    leadpost_sandbox.fail("cut-after")
    activities = [Activity(LEAD, 201, "Called"), Activity(LEAD, 202, "Called back")]
    asyncio.run(leadpost_poster.post_many(activities, return_exceptions=True))
    posted = leadpost_sandbox.posted(LEAD)
    assert sorted(post["ActivityNote"] for post in posted) == ["Called", "Called later"]

def test_window(leadpost_account, leadpost_poster, leadpost_sandbox):
    asyncio.run(leadpost_poster.post(Activity(LEAD, 201, "Called")))
    assert leadpost_sandbox.report().fullest_window < 1

def test_error(leadpost_account, leadpost_poster, leadpost_sandbox):
    leadpost_sandbox.fail("cut-after")
    asyncio.run(leadpost_poster.post(Activity(LEAD, 201, "Called")))
"""
    options = ("--showlocals", "-vv", "-p", "no:asyncio")
    code, output = run_pytest(tmp_path, {"test_failures.py": test}, *options)
    assert (code, "3 failed" in output) == (1, True), output
    assert "E         At index 1 diff: 'Called back' != 'Called later'" in output
    assert "E       assert 1 < 1" in output
    assert "Report(arrivals=1, refused=0, fullest_window=1," in output
    with Sandbox() as sandbox:
        keys = (sandbox.access_key, sandbox.secret_key, sandbox.api_key)
    assert not any(key in output for key in keys)


@pytest.mark.leadpost(limit=3, fast=True)
class TestMarkers:
    @pytest.mark.leadpost(limit=2, period=0.2)
    async def test_the_nearest_marker_wins_and_the_others_add_to_it(
        self, leadpost_sandbox: Sandbox, leadpost_poster: AsyncActivityPoster
    ) -> None:
        assert "25 per 0.2 s" in repr(leadpost_poster)
        for note in "abc":
            await leadpost_poster.post(Activity(LEAD, 201, note))
        report = leadpost_sandbox.report()
        assert (report.accepted, report.pending) == (3, 0)

    @pytest.mark.leadpost(fast=False)
    def test_fast_can_be_switched_off(self, leadpost_poster: AsyncActivityPoster) -> None:
        assert "25 per 5 s" in repr(leadpost_poster)


async def test_without_a_marker_the_limit_is_leadsquareds(
    leadpost_poster: AsyncActivityPoster, leadpost_account: Account
) -> None:
    assert repr(leadpost_poster) == (
        f"<AsyncActivityPoster to {leadpost_account.host}: <TokenBucket 25 per 5 s: 25 free,"
        " 0 in use, 0 resting, 0 waiting>>"
    )


@pytest.mark.leadpost(fast=True)
async def test_posted_returns_bodies_in_order_and_of_one_lead(
    leadpost_poster: AsyncActivityPoster, leadpost_sandbox: Sandbox
) -> None:
    by_email = {"EmailAddress": "lead@example.com", "ActivityEvent": 203}
    first = Activity(LEAD.upper(), 201, "first", fields={"mx_Custom_1": "yes"})
    second = Activity(OTHER_LEAD, 202)
    for activity in (first, second, by_email):
        await leadpost_poster.post(activity)
    await leadpost_poster.post_sync(Activity(LEAD, 207))
    assert [post["ActivityEvent"] for post in leadpost_sandbox.posted()] == [201, 202, 203, 207]
    assert leadpost_sandbox.posted(UUID(LEAD)) == [
        first.to_payload(),
        Activity(LEAD, 207).to_payload(),
    ]
    assert leadpost_sandbox.posted("Lead@example.com") == [by_email]
    assert leadpost_sandbox.posted("none") == []
