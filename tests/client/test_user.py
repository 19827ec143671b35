"""The user that the keys belong to, and the hosts of the account."""

from __future__ import annotations

import httpx
import pytest
from support import Vendor, account, always, run_virtual

from leadpost import AsyncActivityPoster, OpenBucket, Unauthorized, UnexpectedAnswer, User
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


def ask(response: httpx.Response) -> tuple[Vendor, User]:
    vendor = Vendor(always(response))
    poster = AsyncActivityPoster(account(), client=vendor.client(), bucket=OpenBucket())
    return vendor, run_virtual(poster.user())


def test_the_user_names_the_hosts_and_the_time_zone_and_its_repr_no_person() -> None:
    vendor, user = ask(httpx.Response(200, json=ANSWER))
    (request,) = vendor.requests
    assert (request.method, request.url.path) == (
        "GET",
        "/v2/Authentication.svc/UserByAccessKey.Get",
    )
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
    answer = ANSWER | {"LSQCommonServiceURLs": {"api": url}}
    _, user = ask(httpx.Response(200, json=answer))
    assert user.async_host == "asyncapi-in21.leadsquared.com"


@pytest.mark.parametrize("url", ["//api-in21", "https://[", 1, None])
def test_a_host_that_is_none_is_unexpected(url: object) -> None:
    answer = ANSWER | {"LSQCommonServiceURLs": {"api": url}}
    with pytest.raises(UnexpectedAnswer, match=r"LSQCommonServiceURLs\.api"):
        ask(httpx.Response(200, json=answer))


async def test_the_sandbox_answers_and_rejects_wrong_keys(sandbox: Sandbox) -> None:
    async with AsyncActivityPoster(sandbox.account(), bucket=OpenBucket()) as poster:
        user = await poster.user()
    assert f"http://{user.sync_host}" == sandbox.url
    assert user.time_zone == "Asia/Kolkata"
    wrong = account(host=sandbox.url)
    async with AsyncActivityPoster(wrong, bucket=OpenBucket()) as poster:
        with pytest.raises(Unauthorized):
            await poster.user()


@pytest.mark.parametrize("body", ["[]", "{}", '{"LSQCommonServiceURLs": {"api": ""}}'])
def test_an_answer_without_hosts_is_unexpected(body: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=r"no LSQCommonServiceURLs\.api"):
        ask(httpx.Response(200, text=body))
