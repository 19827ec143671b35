"""Shared by the tests of the sandbox: a client with its keys, and its paths."""

from typing import Any

import httpx

from leadpost.sandbox import Sandbox

SUBMIT = "/activity/create"
STATUS = "/activity/create/status"
METRICS = "/activity/create/metrics"
ACTIVITY: dict[str, Any] = {
    "RelatedProspectId": "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11",
    "ActivityEvent": 207,
}


def connect(sandbox: Sandbox) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=sandbox.url,
        params={"accessKey": sandbox.access_key, "secretKey": sandbox.secret_key},
        headers={"x-api-key": sandbox.api_key},
        trust_env=False,
    )
