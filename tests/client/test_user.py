"""The user that the keys belong to, and the hosts of the account."""

from __future__ import annotations

import httpx
import pytest
from support import LeadSquared, account, always, run_virtual

from leadpost import AsyncActivityPoster, OpenBucket, UnexpectedAnswer, User
from leadpost.sandbox import Sandbox

# The shape that public integrations read; the values are made up.
ANSWER = {
    "Id": "9a8b7c6d-5e4f-4321-8765-0fedcba98765",
    "FirstName": "Ada",
    "EmailAddress": "ada@example.com",
    "LSQCommonServiceURLs": {"api": "api-in21.leadsquared.com", "app": "in21.leadsquared.com"},
    "TimeZone": "Asia/Kolkata",
    "Role": "Administrator",
    "OrgId": 10001,
}


def ask(body: object) -> User:
    client = LeadSquared(always(httpx.Response(200, json=body))).client()
    return run_virtual(AsyncActivityPoster(account(), client=client).user())


def test_the_user_names_the_hosts_and_the_time_zone_and_its_repr_no_person() -> None:
    user = ask(ANSWER)
    assert user.sync_host == "api-in21.leadsquared.com"
    assert user.async_host == "asyncapi-in21.leadsquared.com"
    assert user.time_zone == "Asia/Kolkata"
    assert user.raw == ANSWER
    assert "Ada" not in repr(user)
    assert "ada@example.com" not in repr(user)


@pytest.mark.parametrize(
    "url", ["https://api-in21.leadsquared.com/v2/", "API-IN21.leadsquared.com"]
)
def test_hosts_may_be_given_as_urls(url: str) -> None:
    user = ask(ANSWER | {"LSQCommonServiceURLs": {"api": url}})
    assert user.async_host == "asyncapi-in21.leadsquared.com"


@pytest.mark.parametrize(
    "answer",
    [
        *(
            {"LSQCommonServiceURLs": {"api": url}}
            for url in ("//api-in21", "https://[", "", 1, None)
        ),
        *([], {}),
    ],
)
def test_an_answer_without_a_host_is_unexpected(answer: object) -> None:
    with pytest.raises(UnexpectedAnswer, match=r"no LSQCommonServiceURLs\.api"):
        ask(answer)


async def test_the_sandbox_names_itself(sandbox: Sandbox) -> None:
    async with AsyncActivityPoster(sandbox.account(), bucket=OpenBucket()) as poster:
        assert f"http://{(await poster.user()).sync_host}" == sandbox.url
