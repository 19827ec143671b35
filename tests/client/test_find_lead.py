"""`find_lead`: its queries, and which answers it believes."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from support import LEAD, LeadSquared, account, always, run_virtual

from leadpost import (
    Activity,
    AmbiguousLead,
    ApplicationError,
    AsyncActivityPoster,
    InvalidActivity,
    OpenBucket,
    RetryPolicy,
    Unauthorized,
    UnexpectedAnswer,
)
from leadpost.hooks import Ended, Event
from leadpost.sandbox import Sandbox


def poster_to(sandbox: Sandbox) -> AsyncActivityPoster:
    return AsyncActivityPoster(
        sandbox.account(), bucket=OpenBucket(), retry=RetryPolicy(initial_wait=0.01, jitter=0)
    )


async def test_a_look_up_leaves_no_address_in_any_log(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with AsyncActivityPoster(sandbox.account()) as poster:
        await poster.find_lead("EmailAddress", "ada@example.com")
    assert "HTTP Request: GET" in caplog.text  # httpx did log
    assert "ada" not in caplog.text


async def test_find_lead_finds_and_neither_creates_nor_changes(sandbox: Sandbox) -> None:
    ada = sandbox.add_lead(EmailAddress="ada@example.com", Phone="+91-9812345678")
    before = sandbox.leads
    async with poster_to(sandbox) as poster:
        assert await poster.find_lead("EmailAddress", "ada@example.com") == ada
        assert await poster.find_lead("Phone", "+91-9812345678") == ada
        assert await poster.find_lead("EmailAddress", "bob@example.com") is None
        assert await poster.find_lead("Phone", "+91-1") is None
        assert await poster.find_lead("ProspectID", ada) == ada
        assert await poster.find_lead("ProspectID", LEAD) is None
        assert await poster.post(Activity(ada, 201))
    assert sandbox.leads == before
    assert len(sandbox.posted(ada)) == 1


async def test_hooks_hear_that_a_look_up_without_a_match_has_succeeded(sandbox: Sandbox) -> None:
    events: list[Event] = []
    async with AsyncActivityPoster(sandbox.account(), hooks=[events.append]) as poster:
        assert await poster.find_lead("EmailAddress", "bob@example.com") is None
    end = events[-1]
    assert isinstance(end, Ended)
    assert (end.operation.name, end.state, end.error, end.status) == (
        "find_lead",
        "accepted",
        None,
        200,
    )


async def test_several_matches_are_an_error_rather_than_a_guess(sandbox: Sandbox) -> None:
    for _ in range(2):
        sandbox.add_lead(Phone="+91-9812345678")
    async with poster_to(sandbox) as poster:
        with pytest.raises(AmbiguousLead, match="2 leads have this Phone") as caught:
            await poster.find_lead("Phone", "+91-9812345678")
    assert "9812345678" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "path", "query"),
    [
        (
            *("EmailAddress", "a+b@example.com"),
            "/v2/LeadManagement.svc/Leads.GetByEmailaddress",
            "emailaddress=a%2Bb%40example.com",
        ),
        (
            *("Phone", "+91-9812345678"),
            "/v2/LeadManagement.svc/RetrieveLeadByPhoneNumber",
            "phone=919812345678",  # LeadSquared's page: no spaces, hyphens or other characters
        ),
        (*("ProspectID", LEAD), "/v2/LeadManagement.svc/Leads.GetById", f"id={LEAD}"),
    ],
)
def test_the_look_up_has_the_shape_of_public_integrations(
    name: str, value: str, path: str, query: str
) -> None:
    response = httpx.Response(200, json=[{"ProspectID": LEAD, "FirstName": "Asha"}])
    leadsquared = LeadSquared(always(response))
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=OpenBucket())
    assert run_virtual(poster.find_lead(name, value)) == LEAD
    (request,) = leadsquared.requests
    assert (request.method, request.url.path) == ("GET", path)
    assert query in str(request.url)
    assert parse_qs(urlsplit(str(request.url)).query).keys() >= {"accessKey", "secretKey"}


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(200, json={}), UnexpectedAnswer),
        (httpx.Response(200, json=[{}]), UnexpectedAnswer),
        (httpx.Response(200, json=[{"ProspectID": 7}]), UnexpectedAnswer),
        (
            httpx.Response(500, json={"ExceptionType": "MXInvalidInputException"}),
            ApplicationError,
        ),
        (httpx.Response(401), Unauthorized),
    ],
)
def test_a_look_up_without_a_readable_answer_is_never_none(
    response: httpx.Response, kind: type[Exception]
) -> None:
    leadsquared = LeadSquared(always(response))
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=OpenBucket())
    with pytest.raises(kind):
        run_virtual(poster.find_lead("EmailAddress", "ada@example.com"))


@pytest.mark.parametrize(
    ("name", "value", "shown", "is_it"),
    [
        ("EmailAddress", "ada@example.com", {"EmailAddress": "ADA@example.com"}, True),
        ("EmailAddress", "ada@example.com", {"EmailAddress": None}, True),
        ("EmailAddress", "ada@example.com", {"EmailAddress": "nada@example.com"}, False),
        ("Phone", "+91-9812345678", {"Phone": "98123 45678"}, True),
        ("Phone", "9812345678", {"Phone": None, "Mobile": "+91-9812345678"}, True),
        ("Phone", "9812345678", {}, True),
        ("Phone", "9812345678", {"Phone": "+91-9812345679", "Mobile": ""}, False),
        ("Phone", "9812345678", {"Phone": "none"}, False),
        ("ProspectID", LEAD.upper(), {}, True),
        ("ProspectID", LEAD.replace("0072", "0073"), {}, False),
    ],
)
def test_an_answer_that_shows_another_lead_is_not_believed(
    name: str, value: str, shown: dict[str, Any], *, is_it: bool
) -> None:
    leadsquared = LeadSquared(always(httpx.Response(200, json=[{"ProspectID": LEAD, **shown}])))
    poster = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=OpenBucket())
    if is_it:
        assert run_virtual(poster.find_lead(name, value)) == LEAD
        return
    with pytest.raises(UnexpectedAnswer, match=f"no lead with this {name} in the answer"):
        run_virtual(poster.find_lead(name, value))


async def test_a_field_without_a_look_up_and_a_malformed_value_raise(
    sandbox: Sandbox,
) -> None:
    async with poster_to(sandbox) as poster:
        wanted = "found 'FirstName', wanted EmailAddress, Phone or ProspectID"
        with pytest.raises(ValueError, match=wanted):
            await poster.find_lead("FirstName", "Ada")
        with pytest.raises(InvalidActivity, match="an email address"):
            await poster.find_lead("EmailAddress", "ada")
    assert sandbox.report().arrivals == 0
