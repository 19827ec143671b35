"""
The server of the sandbox, on loopback, in its own thread with its own event loop.

A client under test that blocks its loop, or leaves it, therefore does not disturb the times
measured here.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Mapping
from math import inf
from random import Random
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from uvicorn.server import ServerState

import leadpost
from leadpost.sandbox.answers import Answer
from leadpost.sandbox.app import create_app
from leadpost.sandbox.connection import Connection, load_config
from leadpost.sandbox.endpoints import endpoints
from leadpost.sandbox.faults import Faults
from leadpost.sandbox.leads import Leads
from leadpost.sandbox.ledger import FINAL_STATUSES, Accepted, Ledger
from leadpost.sandbox.vendor import Keys, Limit, Report, Vendor
from leadpost.sandbox.windows import WINDOWS

Span = float | tuple[float, float]
"""Seconds: a fixed number, or a range (low, high) from which each value is drawn at random."""

_DOCUMENTED_LIMIT = 25
_LOOPBACK = "127.0.0.1"


class Sandbox:
    """
    A strict local stand-in for LeadSquared's Async API and for parts of its synchronous API.

    It runs inside its `with` statement; its records remain readable afterwards.

    Args:
        delay: Seconds in each direction: before a call arrives, and before its answer returns.
        idle_timeout: Seconds after which an idle connection is closed, drawn for each connection.
        limit: Calls allowed in `period` seconds; None for no limit.
        period: Seconds.
        window: How calls are counted: "sliding", "fixed" or "bucket", see
            `leadpost.sandbox.windows`. LeadSquared does not document which one it uses.
        faults: What goes wrong on purpose.
        pace: Queued activities processed per second.
        ends: Event code to the final status of its requests: "Success", "ERROR" or "FAILURE". By
            default "Success" for a code that the account has, "ERROR" for any other.
        seed: Makes the delays and faults of a run repeatable.
        port: Port on 127.0.0.1; 0 for a free one.
        status_path: Path of the Status API, which LeadSquared does not document.
        metrics_path: Path of the Metrics API, likewise.
        keys_for_status: Whether status and metrics calls need AccessKey and SecretKey too;
            according to LeadSquared's documentation they need only the `x-api-key`.
        access_key: The account's AccessKey. Real ones contain a `$`.
        secret_key: The account's SecretKey.
        api_key: The account's `x-api-key`.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        delay: Span = 0.0,
        idle_timeout: Span = 60.0,
        limit: int | None = 25,
        period: float = 5.0,
        window: str = "sliding",
        faults: Faults | None = None,
        pace: float = 20.0,
        ends: Mapping[int, str] | None = None,
        seed: int | None = None,
        port: int = 0,
        status_path: str = "/activity/create/status",
        metrics_path: str = "/activity/create/metrics",
        keys_for_status: bool = False,
        access_key: str = "u$rsandbox-access",
        secret_key: str = "sandbox-secret",  # noqa: S107  made up, opens nothing
        api_key: str = "sandbox-api",
    ) -> None:
        ends = ends or {}
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, or None; found {limit}")
        if not 0 < period < inf:
            raise ValueError(f"period must be above 0 seconds; found {period}")
        if window not in WINDOWS:
            raise ValueError(f"window must be one of {', '.join(WINDOWS)}; found {window!r}")
        if not 0 < pace < inf:
            raise ValueError(f"pace must be above 0; found {pace}")
        if not set(ends.values()) <= set(FINAL_STATUSES):
            raise ValueError(
                f"ends must map event codes to {', '.join(FINAL_STATUSES)}; found {ends}"
            )
        if not (status_path.startswith("/") and metrics_path.startswith("/")):
            raise ValueError("status_path and metrics_path must begin with /")

        self.access_key = access_key
        self.secret_key = secret_key
        self.api_key = api_key
        self._status_path = status_path
        self._metrics_path = metrics_path
        self._keys_for_status = keys_for_status
        # Delays and faults have separate sources, so that the faults of a run depend only on the
        # seed, not on how its calls interleave.
        source = Random(seed)  # noqa: S311  chance, not secrets
        draw_fates, draw_times = Random(source.random()), Random(source.random())  # noqa: S311  as above
        self._idle_timeout = _drawn("idle_timeout", idle_timeout, draw_times)
        ledger, leads = Ledger(pace, ends), Leads()
        self._vendor = Vendor(
            Keys(access_key, secret_key, api_key),
            Limit(
                _DOCUMENTED_LIMIT if limit is None else limit,
                period,
                None if limit is None else WINDOWS[window](limit, period),
            ),
            faults or Faults(),
            ledger,
            leads,
            random=draw_fates,
        )
        self._app = create_app(
            self._vendor,
            endpoints(ledger, leads, status_path, metrics_path, keys_for_status=keys_for_status),
            _drawn("delay", delay, draw_times),
        )
        self._port = port
        self._url: str | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread: threading.Thread
        self._ended: threading.Event

    def __repr__(self) -> str:
        return f"<Sandbox {self._url or 'not started'}, {len(self._vendor.accepted())} accepted>"

    def __enter__(self) -> Self:
        listener = socket.create_server((_LOOPBACK, self._port), backlog=2048)
        self._url = f"http://{_LOOPBACK}:{listener.getsockname()[1]}"
        self._loop = asyncio.SelectorEventLoop()
        self._stop = asyncio.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="leadpost-sandbox", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def url(self) -> str:
        """
        Its address, such as "http://127.0.0.1:8025".

        Raises:
            RuntimeError: it was never started.
        """
        if self._url is None:
            raise RuntimeError("the sandbox has not been started: use it in a with statement")
        return self._url

    @property
    def accepted(self) -> list[Accepted]:
        """The accepted activities, in order of arrival."""
        return self._vendor.accepted()

    def posted(self, lead: str | UUID | None = None) -> list[dict[str, Any]]:
        """
        Return the bodies of accepted posts, in LeadSquared's JSON shape and in order of arrival.

        Args:
            lead: Only the posts on this lead: its id, or the email address of a post that has one.
        """
        accepted = self.accepted
        return [one.payload for one in accepted if lead is None or _is_on(one, str(lead))]

    def add_lead(self, **attributes: Any) -> str:
        """
        Add a lead to the account.

        Args:
            attributes: SchemaName to value, such as `EmailAddress="ada@example.com"`.

        Returns:
            Its id: the `ProspectID` among the attributes, or else a new one.
        """
        return self._vendor.add_lead(attributes)

    @property
    def leads(self) -> list[dict[str, Any]]:
        """The account's leads, SchemaName to value: added ones, and those that posts created."""
        return self._vendor.leads()

    @property
    def arrival_times(self) -> list[float]:
        """When each call arrived, including refused ones, in seconds of `time.monotonic`."""
        return self._vendor.arrival_times()

    def account(self) -> "leadpost.Account":
        """
        Return the `Account` of the sandbox, for a poster.

        Raises:
            RuntimeError: it was never started.
        """
        return leadpost.Account(
            host=self.url,
            access_key=self.access_key,
            secret_key=self.secret_key,
            api_key=self.api_key,
            status_path=self._status_path,
            metrics_path=self._metrics_path,
            keys_for_status=self._keys_for_status,
        )

    def fail(self, *faults: str | Answer) -> None:
        """
        Make the next calls fail. This goes before the script and the probabilities of `Faults`.

        Args:
            faults: One for each call in order of arrival, as in the script of `Faults`. They
                follow those of earlier calls of this method.

        Raises:
            ValueError: a name is unknown.
        """
        self._vendor.fail(Faults(script=faults).script)

    def report(self) -> Report:
        """Return the counts so far."""
        return self._vendor.report(time.monotonic())

    def wait(self) -> None:
        """Block until the sandbox is stopped. Ctrl-C raises KeyboardInterrupt here."""
        # Not `join`: before Python 3.13, a `join` that Ctrl-C interrupts marks the thread as ended.
        self._ended.wait()

    def _run(self, listener: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve(listener))
        finally:
            self._ended.set()

    async def _serve(self, listener: socket.socket) -> None:
        config = load_config(self._app)
        state = ServerState()

        def connect() -> Connection:
            self._vendor.connected()
            return Connection(config, state, self._idle_timeout())

        server = await self._loop.create_server(connect, sock=listener)
        await self._stop.wait()
        # A connection that was just accepted becomes known a few turns of the loop later, and would
        # be lost if the server were closed before. So stop accepting first, then close.
        self._loop.remove_reader(listener)
        for _ in range(3):
            await asyncio.sleep(0)
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        # The server notices the aborts; then the runner cancels the remaining calls.
        await asyncio.sleep(0)


def _is_on(accepted: Accepted, lead: str) -> bool:
    payload = accepted.payload
    details = payload.get("LeadDetails", ())
    addresses = [item["Value"] for item in details if item["Attribute"] == "EmailAddress"]
    names = [
        payload.get("RelatedProspectId"),
        payload.get("EmailAddress"),
        accepted.lead,
        *addresses,
    ]
    return any(isinstance(name, str) and name.lower() == lead.lower() for name in names)


def _drawn(name: str, span: Span, random: Random) -> Callable[[], float]:
    low, high = span if isinstance(span, tuple) else (span, span)
    if not 0 <= low <= high:
        raise ValueError(f"{name} must be seconds, 0 or more, or a range (low, high); found {span}")
    return lambda: random.uniform(low, high)
