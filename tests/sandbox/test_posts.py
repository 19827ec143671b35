"""Posts to the sandbox over a real socket: keys, checks of the body, accepted activities."""

import json
from typing import Any
from uuid import UUID

import httpx
import pytest
from sandbox_support import SUBMIT, connect

from leadpost.sandbox import Sandbox, request_id_of

CREATE = "/v2/ProspectActivity.svc/Create"
ACTIVITY: dict[str, Any] = {
    "RelatedProspectId": "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11",
    "ActivityEvent": 207,
    "ActivityNote": "Demo call finished",
    "ActivityDateTime": "2025-03-04 09:15:00",
    "Fields": [
        {"SchemaName": "mx_Custom_1", "Value": "connected"},
        {
            "SchemaName": "mx_Custom_3",
            "Value": "",
            "Fields": [{"Attribute": "mx_CustomObject_1", "Value": "A-17"}],
        },
    ],
    "ProcessFilesAsync": True,
}


ABSENT = "absent"
"""In place of the value of a parameter: leave it out."""


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ACTIVITY.items() if key != name}


async def test_a_post_is_accepted_with_the_documented_answer(sandbox: Sandbox) -> None:
    async with connect(sandbox) as client:
        response = await client.post(SUBMIT, json=ACTIVITY)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "Status": "Request accepted. Please use below request id to check the status",
        "RequestID": request_id_of(ACTIVITY),
    }
    (accepted,) = sandbox.accepted
    assert accepted.payload == ACTIVITY
    assert accepted.request_id == request_id_of(ACTIVITY)
    assert [accepted.arrived_at] == sandbox.arrival_times


async def test_the_same_body_again_is_a_second_activity_with_another_id(sandbox: Sandbox) -> None:
    other_order = dict(reversed(ACTIVITY.items()))
    async with connect(sandbox) as client:
        answers = [await client.post(SUBMIT, json=body) for body in (ACTIVITY, other_order)]
    ids = [answer.json()["RequestID"] for answer in answers]
    assert ids == [request_id_of(ACTIVITY), request_id_of(ACTIVITY, 1)]
    report = sandbox.report()
    assert (report.accepted, report.duplicates) == (2, 1)


def test_a_request_id_is_a_uuid_made_of_body_and_copy() -> None:
    ids = {
        request_id_of(ACTIVITY),
        request_id_of(ACTIVITY, 1),
        request_id_of(without("ActivityNote")),
        request_id_of({**ACTIVITY, "ActivityNote": "\ud800"}),
    }
    assert len(ids) == 4
    assert all(UUID(request_id).version == 5 for request_id in ids)


async def test_the_synchronous_post_creates_the_activity_at_once(sandbox: Sandbox) -> None:
    async with connect(sandbox) as client:
        answers = [await client.post(CREATE, json=ACTIVITY) for _ in range(2)]
    assert [answer.json()["Status"] for answer in answers] == ["Success", "Success"]
    assert len({UUID(answer.json()["Message"]["Id"]) for answer in answers}) == 2
    report = sandbox.report()
    assert (report.accepted, report.pending) == (2, 0)


async def test_only_the_synchronous_post_rejects_an_unknown_code(sandbox: Sandbox) -> None:
    body = {**ACTIVITY, "ActivityEvent": 999}
    async with connect(sandbox) as client:
        response = await client.post(CREATE, json=body)
        assert response.status_code == 500
        assert response.json()["ExceptionType"] == "MXInvalidActivityException"
        assert sandbox.accepted == []
        assert (await client.post(SUBMIT, json=body)).status_code == 200
    assert len(sandbox.accepted) == 1


async def test_the_two_keys_may_be_headers(sandbox: Sandbox) -> None:
    headers = {
        "x-api-key": sandbox.api_key,
        "x-LSQ-AccessKey": sandbox.access_key,
        "x-LSQ-SecretKey": sandbox.secret_key,
    }
    async with httpx.AsyncClient(base_url=sandbox.url, headers=headers) as client:
        response = await client.post(SUBMIT, json=ACTIVITY)
    assert response.status_code == 200


@pytest.mark.parametrize("path", [SUBMIT, CREATE])
@pytest.mark.parametrize("name", ["accessKey", "secretKey"])
@pytest.mark.parametrize("value", ["wrong", None])
async def test_a_wrong_or_missing_user_key_is_unauthorized(
    sandbox: Sandbox, path: str, name: str, value: str | None
) -> None:
    async with connect(sandbox) as client:
        client.params = client.params.remove(name)
        params = {} if value is None else {name: value}
        response = await client.post(path, json=ACTIVITY, params=params)
    assert response.status_code == 401
    assert response.json()["ExceptionType"] == "MXUnAuthorizedAccessException"
    assert sandbox.accepted == []


@pytest.mark.parametrize("value", ["wrong", None])
async def test_a_wrong_or_missing_api_key_is_forbidden_by_the_gateway(
    sandbox: Sandbox, value: str | None
) -> None:
    async with connect(sandbox) as client:
        del client.headers["x-api-key"]
        headers = {} if value is None else {"x-api-key": value}
        response = await client.post(SUBMIT, json=ACTIVITY, headers=headers)
        ungated = await client.post(CREATE, json=ACTIVITY, headers=headers)
    assert response.status_code == 403
    assert response.json() == {"message": "Forbidden"}
    assert ungated.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/activity/crate", 404), ("GET", "/", 404), ("GET", SUBMIT, 405)],
)
async def test_an_unknown_path_or_method_is_not_found(
    sandbox: Sandbox, method: str, path: str, status: int
) -> None:
    async with connect(sandbox) as client:
        response = await client.request(method, path)
    assert response.status_code == status


@pytest.mark.parametrize("path", [SUBMIT, CREATE])
async def test_only_json_by_its_content_type_is_accepted(sandbox: Sandbox, path: str) -> None:
    texts: list[str] = []
    async with connect(sandbox) as client:
        for content_type in ("text/plain", "application/jsonp", None):
            headers = {} if content_type is None else {"content-type": content_type}
            response = await client.post(path, content=json.dumps(ACTIVITY), headers=headers)
            assert response.status_code == 400
            texts.append(response.json()["ExceptionMessage"])
        spelled: dict[str, str] = {"content-type": "Application/JSON; charset=utf-8"}
        response = await client.post(path, content=json.dumps(ACTIVITY), headers=spelled)
    assert texts == ["Content-Type must be application/json"] * 3
    assert response.status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"text"', b"\xff", b'{"ActivityEvent": NaN}', b"[" * 100_000],
)
async def test_a_body_other_than_a_json_object_is_rejected(sandbox: Sandbox, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    async with connect(sandbox) as client:
        response = await client.post(SUBMIT, content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["ExceptionType"] == "MXInvalidInputException"
    assert sandbox.accepted == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RelatedProspectId": "3f0c1d52"}, "RelatedProspectId must be"),
        ({"RelatedProspectId": "3f0c1d527a544c1e9b5a0d6f2b7e9a11"}, "RelatedProspectId must be"),
        ({"RelatedProspectId": 7}, "RelatedProspectId must be"),
        ({"RelatedProspectId": None}, "RelatedProspectId must be"),
        ({"RelatedProspectId": ABSENT}, "'RelatedProspectId' is required"),
        ({"ActivityEvent": "207"}, "ActivityEvent must be"),
        ({"ActivityEvent": True}, "ActivityEvent must be"),
        ({"ActivityEvent": 207.0}, "ActivityEvent must be"),
        ({"ActivityEvent": 0}, "ActivityEvent must be"),
        ({"ActivityEvent": -1}, "ActivityEvent must be"),
        ({"ActivityEvent": ABSENT}, "'ActivityEvent' is required"),
        ({"ActivityNote": 1}, "ActivityNote must be"),
        ({"ActivityNote": None}, "ActivityNote must be"),
        ({"ActivityDateTime": "2025-03-04T09:15:00"}, "ActivityDateTime must be"),
        ({"ActivityDateTime": "2025-03-04 09:15:00+05:30"}, "ActivityDateTime must be"),
        ({"ActivityDateTime": "2025-02-30 09:15:00"}, "ActivityDateTime must be"),
        ({"ActivityDateTime": 1741079700}, "ActivityDateTime must be"),
        ({"Fields": {"mx_Custom_1": "a"}}, "Fields must be"),
        ({"Fields": ["mx_Custom_1"]}, "Fields[0] must be"),
        ({"Fields": [{"Value": "a"}]}, "'Fields[0].SchemaName' is required"),
        ({"Fields": [{"SchemaName": "", "Value": "a"}]}, "'Fields[0].SchemaName' is required"),
        ({"Fields": [{"SchemaName": "a"}]}, "'Fields[0].Value' is required"),
        ({"Fields": [{"SchemaName": "a", "Value": ["b"]}]}, "Fields[0].Value must be"),
        ({"Fields": [{"SchemaName": "a", "Fields": "b"}]}, "Fields[0].Fields must be"),
        (
            {"Fields": [{"SchemaName": "a", "Fields": [{"SchemaName": "b"}]}]},
            "'Fields[0].Fields[0].Value' is required",
        ),
    ],
)
async def test_an_invalid_or_missing_value_is_rejected_by_its_name(
    sandbox: Sandbox, changes: dict[str, Any], message: str
) -> None:
    body = {name: value for name, value in (ACTIVITY | changes).items() if value != ABSENT}
    is_missing = message.endswith("is required")
    kind = "MXMandatoryAttributeMissingException" if is_missing else "MXInvalidInputException"
    async with connect(sandbox) as client:
        for path in (SUBMIT, CREATE):
            response = await client.post(path, json=body)
            assert response.status_code == 400
            assert response.json()["Status"] == "Error"
            assert response.json()["ExceptionType"] == kind
            assert response.json()["ExceptionMessage"].startswith(message)
    assert sandbox.accepted == []


@pytest.mark.parametrize(
    ("address", "status"), [("asha@example.com", 200), ("asha", 400), (7, 400)]
)
async def test_an_email_address_may_replace_the_lead_id(
    sandbox: Sandbox, address: Any, status: int
) -> None:
    body = {**without("RelatedProspectId"), "EmailAddress": address}
    async with connect(sandbox) as client:
        response = await client.post(SUBMIT, json=body)
    assert response.status_code == status


@pytest.mark.parametrize("optional", ["ActivityNote", "ActivityDateTime", "Fields"])
async def test_the_other_parameters_are_optional(sandbox: Sandbox, optional: str) -> None:
    async with connect(sandbox) as client:
        response = await client.post(SUBMIT, json=without(optional))
    assert response.status_code == 200
