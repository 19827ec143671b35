"""
Runs an example of the documents, and then uses what it defines as its reader would.

    python tests/visit.py example.py README.md#a-service
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
from attrs import evolve

from leadpost import Account, Activity
from leadpost.outbox import STATES, Entry, EntryState, Health, Outbox

LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"
OTHER_LEAD = "3f0c1d52-7a54-4c1e-9b5a-0d6f2b7e9a11"
Names = Mapping[str, Any]
"""What the example defines."""


async def until_accepted(account: Account | str, key: str, url: str) -> Entry:
    """Wait until a worker has posted the entry of this key."""
    async with Outbox(url, account) as outbox, asyncio.timeout(30):
        while True:
            entry = (await outbox.find([key]))[key]
            if entry.state in {"accepted", "succeeded"}:
                return entry
            await asyncio.sleep(0.01)


def client_of(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://service", timeout=None
    )


async def read_activities(names: Names) -> None:
    payload = names["activity"].to_payload()
    assert payload["ActivityDateTime"] == "2026-03-02 09:00:00"
    assert names["same"].to_payload() == payload


async def read_alerts(names: Names) -> None:
    fine = Health(dict.fromkeys(STATES, 0), None, is_working=True, away_since=None, called_at=None)
    assert names["alerts"](fine) == []
    counts: dict[EntryState, int] = {**fine.counts, "uncertain": 3}
    now = datetime.now(UTC)
    bad = Health(counts, 7200, is_working=False, away_since=now, called_at=now)
    assert len(names["alerts"](bad)) == 4
    stuck = Health(
        counts, 1200, is_working=True, away_since=None, called_at=now - timedelta(hours=1)
    )
    assert names["alerts"](stuck)[0].endswith("is the worker stuck?")


async def visit_service(names: Names) -> None:
    app = names["app"]
    async with app.router.lifespan_context(app), client_of(app) as client:
        for _ in range(2):
            assert (await client.put(f"/calls/1/lead/{LEAD}")).status_code == 202
        await until_accepted(Account.from_env(), "1", names["URL"])


async def visit_service_with_errors(names: Names) -> None:
    app = names["app"]
    async with app.router.lifespan_context(app), client_of(app) as client:
        for path, status in (
            (f"/calls/1/lead/{LEAD}", 202),
            (f"/calls/1/lead/{LEAD}", 202),
            (f"/calls/1/lead/{OTHER_LEAD}", 409),
            ("/calls/2/lead/nobody", 422),
        ):
            assert (await client.put(path)).status_code == status
        assert (await client.get("/calls/2")).status_code == 404
        entry = await until_accepted(Account.from_env(), "1", names["URL"])
        assert (await client.get("/calls/1")).json()["request_id"] == entry.request_id
        health = (await client.get("/health")).json()
        assert health["accepted"] + health["succeeded"] == 1

    logging.getLogger("leadpost").setLevel(logging.CRITICAL)
    os.environ["LEADPOST_SECRET_KEY"] = "wrong"
    async with app.router.lifespan_context(app), client_of(app) as client, asyncio.timeout(30):
        await client.put(f"/calls/3/lead/{LEAD}")
        while (answer := await client.get("/health")).status_code == 200:
            await asyncio.sleep(0.01)
        assert answer.json()["detail"] == "not working: Unauthorized"
        assert (await client.get("/calls/3")).json()["state"] == "pending"


async def visit_service_without_outbox(names: Names) -> None:
    logging.getLogger("leadpost").setLevel(logging.ERROR)
    app = names["app"]
    async with app.router.lifespan_context(app), client_of(app) as client:
        answer = await client.post(f"/leads/{LEAD}/calls")
        assert answer.json()["request_id"]
        for lead, status, detail in (
            ("nobody", 422, "RelatedProspectId: found"),
            (LEAD, 422, "MXInvalidInputException"),
            (LEAD, 409, "may have been posted"),
            (LEAD, 503, "not posted: try again later"),
        ):
            answer = await client.post(f"/leads/{lead}/calls")
            assert answer.status_code == status
            assert detail in answer.json()["detail"]


async def visit_two_accounts(names: Names) -> None:
    acme, globex = (evolve(Account.from_env(), name=name) for name in ("acme", "globex"))
    for account in (acme, globex):
        async with Outbox(names["URL"], account) as outbox:
            await outbox.put(Activity(LEAD, 201, account.name), key="one")
    working = asyncio.create_task(names["main"](acme, globex))
    for account in (acme, globex):
        entry = await until_accepted(account, "one", names["URL"])
        assert entry.activity["ActivityNote"] == account.name
    working.cancel()
    await asyncio.wait([working])


async def visit_own_transaction(names: Names) -> None:
    async with Outbox(names["URL"], "acme") as outbox:
        assert (await outbox.find(["call-8812"]))["call-8812"].state == "pending"


async def visit_put_sync(names: Names) -> None:
    names["engine"].dispose()  # Python 3.13 warns of connections that are left open
    async with Outbox("sqlite:///leadpost.db", Account.from_env()) as outbox:
        assert (await outbox.find(["call-8812"]))["call-8812"].state == "pending"


async def visit_django(names: Names) -> None:
    settings: Any = import_module("django.conf").settings  # untyped
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": "leadpost.db"}
    settings.configure(DATABASES={"default": database})
    import_module("django").setup()

    def call_twice() -> None:
        for _ in range(2):
            names["called"](8812, LEAD)
        import_module("django.db").connections.close_all()

    async with Outbox("sqlite:///leadpost.db", "acme") as outbox:
        await asyncio.to_thread(call_twice)
        assert (await outbox.counts())["pending"] == 1
        assert "call-8812" in await outbox.find(["call-8812"])


async def visit_alembic(names: Names) -> None:
    include = names["include_object"]
    assert not include(None, "leadpost_entries", "table", reflected=True, compare_to=None)
    assert include(None, "calls", "table", reflected=True, compare_to=None)
    assert len(names["statements"]) > 10


VISITS: Mapping[str, Callable[[Names], Coroutine[Any, Any, None]]] = {
    "README.md#a-service": visit_service,
    "leadpost/README.md#activities": read_activities,
    "leadpost/outbox/README.md#health-and-alerts": read_alerts,
    "leadpost/outbox/README.md#a-service": visit_service_with_errors,
    "leadpost/outbox/README.md#without-an-outbox": visit_service_without_outbox,
    "leadpost/outbox/README.md#several-accounts": visit_two_accounts,
    "leadpost/outbox/README.md#your-own-transaction": visit_own_transaction,
    "leadpost/outbox/README.md#flask-celery-and-scripts": visit_put_sync,
    "leadpost/outbox/README.md#django": visit_django,
    "leadpost/outbox/README.md#postgresql": visit_alembic,
}


def run(path: Path) -> Names:
    """Run an example, also one that awaits at its top level, as notebooks do."""
    names: dict[str, Any] = {"__name__": "__main__"}
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec", flags, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)
    return names


def main(path: str, place: str) -> None:
    warnings.simplefilter("error")
    names = run(Path(path))
    if place in VISITS:
        asyncio.run(VISITS[place](names))


if __name__ == "__main__":
    main(*sys.argv[1:])
