"""The queue of accepted posts, and the activity types, over a real socket."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
import pytest
from sandbox_support import METRICS, STATUS, SUBMIT, connect

from leadpost.sandbox import Sandbox, request_id_of
from leadpost.sandbox.queue import Queue

TYPES = "/v2/ProspectActivity.svc/ActivityTypes.Get"
TYPE = "/v2/ProspectActivity.svc/CustomActivity/GetActivitySetting"


def activity(code: int = 207, note: str = "") -> dict[str, Any]:
    return {
        "RelatedProspectId": "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11",
        "ActivityEvent": code,
        "ActivityNote": note,
    }


async def status_of(client: httpx.AsyncClient, body: Mapping[str, Any]) -> dict[str, Any]:
    """Post an activity and ask for its status at once."""
    posted = await client.post(SUBMIT, json=body)
    response = await client.get(STATUS, params={"RequestID": posted.json()["RequestID"]})
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_request_is_in_the_queue_until_its_turn() -> None:
    with Sandbox(pace=0.001) as sandbox:
        async with connect(sandbox) as client:
            answer = await status_of(client, activity())
        assert sandbox.report().pending == 1
    assert answer == {
        "RequestId": request_id_of(activity()),
        "TaskStatus": {
            "TaskType": "Activity Create",
            "Status": "In-Queue",
            "StatusReason": None,
            "TaskCurrentStep": "In-Process-Queue",
            "TaskLastStep": None,
            "RequestBody": sandbox.accepted[0].body,
            "Message": None,
        },
    }


async def test_the_status_of_a_processed_request_has_the_activitys_id() -> None:
    with Sandbox(pace=1e9) as sandbox:
        async with connect(sandbox) as client:
            answer = await status_of(client, activity())
        assert sandbox.report().pending == 0
    task = answer["TaskStatus"]
    message = json.loads(task.pop("Message"))
    assert message["Status"] == "Success"
    assert UUID(message["Message"]["Id"]).version == 5
    assert json.loads(task.pop("RequestBody")) == activity()
    assert task == {
        "TaskType": "Activity Create",
        "Status": "Success",
        "StatusReason": "Request was successfully completed",
        "TaskCurrentStep": None,
        "TaskLastStep": "In-Process-Queue",
    }


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (999, "ERROR", "MXInvalidActivityException"),
        (201, "FAILURE", "could not be processed"),
        (207, "ERROR", "MXInvalidActivityException"),
        (998, "Success", "successfully"),
    ],
)
async def test_the_code_decides_how_a_request_ends_unless_an_option_does(
    code: int, status: str, reason: str
) -> None:
    ends = {201: "FAILURE", 207: "ERROR", 998: "Success"}
    with Sandbox(pace=1e9, ends=ends) as sandbox:
        async with connect(sandbox) as client:
            task = (await status_of(client, activity(code)))["TaskStatus"]
    assert task["Status"] == status
    assert reason in task["StatusReason"]
    assert (task["Message"] is None) == (status != "Success")


@pytest.mark.parametrize(
    ("pace", "pending", "rate"), [(10.0, 0, 0.4), (0.001, 4, 0.0)], ids=["fast", "slow"]
)
async def test_requests_are_processed_at_the_pace(pace: float, pending: int, rate: float) -> None:
    with Sandbox(pace=pace) as sandbox:
        async with connect(sandbox) as client:
            for number in range(4):
                await client.post(SUBMIT, json=activity(note=str(number)))
            processed = 4 - sandbox.report().pending
            assert processed <= (time.monotonic() - sandbox.accepted[0].arrived_at) * pace
            await asyncio.sleep(0.45)
            metrics = (await client.get(METRICS)).json()
    assert (metrics["PendingMessages"], metrics["ProcessingRatePerMinute"]) == (pending, rate)


def test_the_metrics_change_over_time() -> None:
    queue = Queue(pace=0.1, ends={})
    for number in range(6):
        body = activity(note=str(number))
        queue.enqueue(body, now=100.0 + number)
    assert queue.metrics(125.0) == {
        "PendingMessages": 4,
        "MaxDelayInSeconds": 23,  # the third, which came at 102
        "ProcessingRatePerMinute": 0.2,
    }
    assert queue.metrics(715.0) == {
        "PendingMessages": 0,
        "MaxDelayInSeconds": 0,
        "ProcessingRatePerMinute": 0.5,  # the first was done at 110, over ten minutes ago
    }


def test_an_empty_queue_continues_with_the_next_arrival() -> None:
    queue = Queue(pace=1.0, ends={})
    body = activity()
    queue.enqueue(body, now=0.0)
    queue.enqueue(body, now=100.0)
    assert [queue.pending(now) for now in (100.9, 101.0)] == [1, 0]


@pytest.mark.parametrize(
    ("params", "exception_type"),
    [
        ({"RequestID": "b7a1c0de-1111-4222-8333-944455556666"}, "MXInvalidInputException"),
        ({"RequestId": "another spelling"}, "MXMandatoryAttributeMissingException"),
    ],
)
async def test_an_unknown_or_missing_request_id_is_rejected(
    sandbox: Sandbox, params: dict[str, str], exception_type: str
) -> None:
    async with connect(sandbox) as client:
        response = await client.get(STATUS, params=params)
    assert response.status_code == 400
    assert response.json()["ExceptionType"] == exception_type


async def test_a_synchronous_post_has_no_status(sandbox: Sandbox) -> None:
    async with connect(sandbox) as client:
        await client.post("/v2/ProspectActivity.svc/Create", json=activity())
        params = {"RequestID": sandbox.accepted[0].request_id}
        response = await client.get(STATUS, params=params)
    assert response.status_code == 400


@pytest.mark.parametrize("path", [STATUS, METRICS])
async def test_status_and_metrics_need_the_api_key_and_optionally_the_others(
    path: str,
) -> None:
    codes: list[tuple[int, bool]] = []
    for keys_for_status in (False, True):
        with Sandbox(keys_for_status=keys_for_status) as sandbox:
            async with connect(sandbox) as client:
                forbidden = await client.get(path, headers={"x-api-key": "wrong"})
                other = await client.get(path, params={"secretKey": "wrong"})
        codes.append((forbidden.status_code, other.status_code == 401))
    assert codes == [(403, False), (403, True)]


async def test_an_option_sets_the_path_of_the_status() -> None:
    with Sandbox(status_path="/activity/status") as sandbox:
        async with connect(sandbox) as client:
            posted = (await client.post(SUBMIT, json=activity())).json()
            params = {"RequestID": posted["RequestID"]}
            answers = [
                await client.get(path, params=params) for path in (STATUS, "/activity/status")
            ]
    assert [answer.status_code for answer in answers] == [404, 200]


async def test_the_activity_types_are_listed_without_an_api_key(sandbox: Sandbox) -> None:
    async with connect(sandbox) as client:
        del client.headers["x-api-key"]
        types = (await client.get(TYPES)).json()
        details = [
            (await client.get(TYPE, params={"code": each["ActivityEvent"]})).json()
            for each in types
        ]
        unauthorized = await client.get(TYPES, params={"accessKey": "wrong"})
    assert [each["ActivityEvent"] for each in types] == [201, 207, 210]
    assert [each["DisplayName"] for each in types] == [each["DisplayName"] for each in details]
    assert [field["SchemaName"] for field in details[0]["Fields"]] == [
        f"mx_Custom_{number}" for number in range(1, 16)
    ]
    assert details[1]["Name"] == "Demo Call"
    assert (
        details[1]["Fields"][0].items()
        >= {
            "SchemaName": "mx_Custom_1",
            "DisplayName": "Outcome",
            "DataType": "String",
            "IsMandatory": True,
            "MaxFieldLength": 200,
        }.items()
    )
    assert unauthorized.status_code == 401


@pytest.mark.parametrize("code", ["999", "demo"])
async def test_an_unknown_activity_type_is_an_application_error(
    sandbox: Sandbox, code: str
) -> None:
    async with connect(sandbox) as client:
        response = await client.get(TYPE, params={"code": code})
    assert response.status_code == 500
    assert response.json()["ExceptionType"] == "MXInvalidActivityException"
