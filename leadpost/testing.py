"""
A pytest plugin with fixtures for code that posts through leadpost. pytest finds it by itself.

    @pytest.mark.leadpost(fast=True)
    async def test_a_caller_is_noted(leadpost_poster, leadpost_sandbox):
        leadpost_sandbox.fail("500")
        await note_call(leadpost_poster, lead)  # yours
        assert [post["ActivityNote"] for post in leadpost_sandbox.posted(lead)] == ["Called back"]
        assert leadpost_sandbox.report().fullest_window <= 25

Where leadpost is installed, every run of pytest imports this module; the sandbox is imported only
when a test uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
import pytest

import leadpost
from leadpost._transport import TIMEOUT
from leadpost.bucket import PERIOD

if TYPE_CHECKING:
    from leadpost.sandbox import Sandbox

_FAST: dict[str, Any] = {"period": 0.1, "pace": 1e6, "retry_after": 0}
"""Any machine can make more than 25 calls in this period, so tests can still exceed the limit."""
_OF_FAULTS = ("script", "retry_after", "slow")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "leadpost(fast=False, script=(), faults={}, **options): options of the fixture"
        " leadpost_sandbox; its docstring lists them",
    )


@pytest.fixture
def leadpost_sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """
    A strict stand-in for LeadSquared on a free port, a new one for each test.

    `posted`, `accepted`, `leads`, `arrival_times` and `report` return what it has seen; `add_lead`
    adds a lead to its account; `fail` makes the next calls fail. `@pytest.mark.leadpost(…)` on a
    test, class or module takes, by name:

        script, retry_after, slow: As in `leadpost.sandbox.Faults`.
        faults: The name of a fault to the share of calls, 0 to 1, that it affects.
        fast: True for a limit of 25 calls per 0.1 s instead of 5 s, a queue that is processed at
            once, and a Retry-After of 0. `leadpost_poster` adapts to it; time-outs are unchanged.
        Every option of `leadpost.sandbox.Sandbox` (`delay`, `limit`, `window`, `seed`, …).

    If several markers set the same option, the one nearest to the test wins.
    """
    from leadpost.sandbox import Faults, Sandbox  # noqa: PLC0415  see above

    options = _options(request)
    probability = options.pop("faults", {})
    of_faults = {name: options.pop(name) for name in _OF_FAULTS if name in options}
    try:
        sandbox = Sandbox(faults=Faults(probability, **of_faults), **options)
    except (TypeError, ValueError) as error:
        _refuse(str(error))  # without a traceback: it would show only leadpost's code
    with sandbox:
        yield sandbox


@pytest.fixture
def leadpost_account(leadpost_sandbox: Sandbox) -> leadpost.Account:
    """The `Account` of `leadpost_sandbox`. Its keys are made up, and checked like real ones."""
    return leadpost_sandbox.account()


@pytest.fixture
def leadpost_poster(
    request: pytest.FixtureRequest, leadpost_account: leadpost.Account
) -> leadpost.AsyncActivityPoster:
    """
    An `AsyncActivityPoster` to `leadpost_sandbox`, for any asyncio event loop.

    Its bucket has 25 tokens, each for the sandbox's period. If that is not 5 s, the waits of its
    `RetryPolicy` are scaled in proportion. Closing it is optional: it keeps no connection open.
    """
    if "anyio_backend" in request.fixturenames:
        backend: str = request.getfixturevalue("anyio_backend_name")
        if backend != "asyncio":
            pytest.skip(f"leadpost needs asyncio, not {backend}")

    # With anyio's plugin the loop is closed after the test. A connection that is still open then is
    # left to the garbage collector, which warns.
    client = httpx.AsyncClient(
        limits=httpx.Limits(max_keepalive_connections=0), timeout=TIMEOUT, trust_env=False
    )
    period: float = _options(request).get("period", PERIOD)
    scale = period / PERIOD
    usual = leadpost.RetryPolicy()
    waits = ("max_time", "initial_wait", "max_wait", "jitter")
    return leadpost.AsyncActivityPoster(
        leadpost_account,
        client=client,
        bucket=leadpost.TokenBucket(period=period),
        retry=leadpost.RetryPolicy(**{name: getattr(usual, name) * scale for name in waits}),
    )


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the options of the test's markers, with those that `fast` implies."""
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers("leadpost"):  # the nearest first
        if marker.args:
            _refuse("pass arguments by name, such as fast=True")
        options = {**marker.kwargs, **options}
    return {**_FAST, **options} if options.pop("fast", False) else options


def _refuse(what: str) -> NoReturn:
    pytest.fail(f"@pytest.mark.leadpost: {what}", pytrace=False)
