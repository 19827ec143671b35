"""Code of callers of the sandbox and its fixtures: for type checkers only, never run."""

from __future__ import annotations

from typing import Any, assert_type
from uuid import UUID

import pytest

from leadpost import Account, Activity, AsyncActivityPoster
from leadpost.sandbox import Accepted, Answer, Faults, Report, Sandbox, request_id_of


def sandboxes() -> None:
    faults = Faults({"500": 0.1}, script=["429", Answer(200, "{}"), "ok"], slow=1)
    with Sandbox(delay=(0.1, 0.2), limit=None, faults=faults, seed=1, window="fixed") as sandbox:
        assert_type(sandbox, Sandbox)
        assert_type(sandbox.account(), Account)
        assert_type(sandbox.accepted, list[Accepted])
        assert_type(sandbox.posted(UUID(int=1)), list[dict[str, Any]])
        assert_type(sandbox.report(), Report)
        assert_type(sandbox.report().fullest_window, int)
        assert_type(sandbox.add_lead(EmailAddress="ada@example.com"), str)
        assert_type(sandbox.leads, list[dict[str, Any]])
        sandbox.fail("500", Answer(503, b""))
    assert_type(request_id_of({"ActivityEvent": 201}), str)


@pytest.mark.leadpost(fast=True, script=["500"])
async def a_test(
    leadpost_poster: AsyncActivityPoster, leadpost_sandbox: Sandbox, leadpost_account: Account
) -> None:
    request_id = await leadpost_poster.post(Activity("…", 201))
    assert leadpost_sandbox.accepted[0].request_id == request_id
    assert leadpost_account.is_loopback
