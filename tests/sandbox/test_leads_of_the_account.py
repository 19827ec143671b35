"""The sandbox's leads: found, updated, created and reported, in LeadSquared's shapes."""

from __future__ import annotations

from typing import Any

import pytest
from sandbox_support import connect

from leadpost.sandbox import Sandbox, request_id_of

CUSTOM = "/activity/createcustom"
BY_EMAIL = "/v2/LeadManagement.svc/Leads.GetByEmailaddress"
BY_ID = "/v2/LeadManagement.svc/Leads.GetById"
BY_PHONE = "/v2/LeadManagement.svc/RetrieveLeadByPhoneNumber"
OPTIONS = "/v2/ProspectActivity.svc/ActivityField/Dropdown/Options/Get"
LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"
OTHER = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"


def pairs(**attributes: str) -> list[dict[str, str]]:
    return [{"Attribute": name, "Value": value} for name, value in attributes.items()]


def body(**changes: Any) -> dict[str, Any]:
    details = pairs(EmailAddress="a@b.example", FirstName="Ada", SearchBy="EmailAddress")
    activity = {"ActivityEvent": 201, "ActivityNote": "Called back"}
    return {"LeadDetails": details, "Activity": activity} | changes


async def test_a_post_creates_the_lead_and_another_one_updates_it(sandbox: Sandbox) -> None:
    async with connect(sandbox) as client:
        accepted = (await client.post(CUSTOM, json=body())).json()
        assert accepted == {
            "Status": "Request accepted. Please use below request id to check the status",
            "RequestID": request_id_of(body()),
        }
        details = pairs(LastName="King", EmailAddress="A@b.example", SearchBy="EmailAddress")
        await client.post(CUSTOM, json=body(LeadDetails=details))
        (lead,) = sandbox.leads
        assert (lead["FirstName"], lead["LastName"]) == ("Ada", "King")
        assert (await client.get(BY_EMAIL, params={"emailaddress": "a@B.example"})).json() == [lead]
        status = await client.get(f"{CUSTOM}/status", params={"RequestID": accepted["RequestID"]})
        task = status.json()["TaskStatus"]
        assert (task["TaskType"], task["Status"]) == ("Activity Create Custom", "Success")
        elsewhere = await client.get(
            "/activity/create/status", params={"RequestID": accepted["RequestID"]}
        )
        assert elsewhere.status_code == 400
        assert (await client.get(f"{CUSTOM}/metrics")).json()["PendingMessages"] == 0
    assert (sandbox.report().leads_created, sandbox.report().leads_updated) == (1, 1)
    assert len(sandbox.posted("a@b.example")) == 2
    assert len(sandbox.posted(lead["ProspectID"])) == 2


async def test_added_leads_are_found_and_a_look_up_changes_nothing(sandbox: Sandbox) -> None:
    added = sandbox.add_lead(ProspectID=LEAD, EmailAddress="ada@example.com", Phone="+91-98123")
    other = sandbox.add_lead(Phone="+91 98 123")
    assert added == LEAD
    async with connect(sandbox) as client:
        del client.headers["x-api-key"]
        found = (await client.get(BY_PHONE, params={"phone": "+91-98123"})).json()
        assert [lead["ProspectID"] for lead in found] == [LEAD, other]
        assert (await client.get(BY_EMAIL, params={"emailaddress": "b@example.com"})).json() == []
        assert (await client.get(BY_EMAIL)).status_code == 400
        by_id = [(await client.get(BY_ID, params={"id": i})).json() for i in (LEAD.upper(), OTHER)]
        assert [[lead["ProspectID"] for lead in found] for found in by_id] == [[LEAD], []]
    assert len(sandbox.leads) == 2
    sandbox.leads.clear()
    assert len(sandbox.leads) == 2  # what is returned is a copy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"LeadDetails": None}, "LeadDetails must be a list"),
        ({"LeadDetails": []}, "'SearchBy' is required"),
        ({"LeadDetails": [{"Attribute": "SearchBy", "Value": "Phone"}]}, "SearchBy must name"),
        ({"LeadDetails": [{"Value": "x"}]}, "'Attribute' is required"),
        ({"LeadDetails": pairs(Phone="", SearchBy="Phone")}, "Phone must not be empty"),
        ({"LeadDetails": [{"Attribute": "A", "Value": "x"}] * 2}, "is a duplicate"),
        ({"Activity": {}}, "'ActivityEvent' is required"),
        ({"Activity": [1]}, "Activity must be an object"),
    ],
)
async def test_an_invalid_post_is_rejected_and_changes_no_lead(
    sandbox: Sandbox, changes: dict[str, Any], message: str
) -> None:
    async with connect(sandbox) as client:
        response = await client.post(CUSTOM, json=body(**changes))
    assert response.status_code == 400
    assert message in response.json()["ExceptionMessage"]
    assert sandbox.leads == []


async def test_the_options_of_a_dropdown_are_found_by_type_and_field(sandbox: Sandbox) -> None:
    def question(code: Any, name: Any) -> dict[str, Any]:
        return {"Parameter": {"SchemaName": name, "ActivityEventCode": code}}

    async with connect(sandbox) as client:
        found = (await client.post(OPTIONS, json=question(210, "mx_Custom_7"))).json()
        assert found == {
            "Options": [
                {"Text": "Web", "Value": "Web"},
                {"Text": "Referral", "Value": "Referral"},
            ]
        }
        for wrong in (question(210, "mx_Custom_2"), question("210", "mx_Custom_1"), {}):
            assert (await client.post(OPTIONS, json=wrong)).status_code == 400
