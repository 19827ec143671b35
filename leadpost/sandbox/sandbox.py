"""`Sandbox`: its options, its life, and what it has seen."""

import time
from collections.abc import Callable, Mapping
from math import inf
from random import Random
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from attrs import frozen

import leadpost
from leadpost.sandbox.answers import Answer
from leadpost.sandbox.endpoints import Endpoints
from leadpost.sandbox.faults import Faults
from leadpost.sandbox.gateway import Gateway
from leadpost.sandbox.leads import Leads
from leadpost.sandbox.queue import FINAL_STATUSES, Accepted, Queue
from leadpost.sandbox.server import Server
from leadpost.sandbox.windows import WINDOWS, fullest_window

Seconds = float | tuple[float, float]
"""A fixed number, or a range (low, high) from which each value is drawn at random."""

_DOCUMENTED_LIMIT = 25


@frozen
class Report:
    """
    What the sandbox has seen so far, in numbers.

    Attributes:
        arrivals: Calls that arrived at one of LeadSquared's paths, including refused ones.
        refused: Calls refused because of the limit.
        fullest_window: The most arrivals, including refused ones, in any period of the limit.
        faults: Name of a fault to its count; "answer" counts the answers in a script.
        accepted: Accepted activities.
        duplicates: Accepted activities whose body had been accepted before.
        pending: Accepted activities that are still in the queue.
        leads_created: Leads created by posts.
        leads_updated: Times that a post changed a lead.
        connections: Connections opened.
    """

    arrivals: int
    refused: int
    fullest_window: int
    faults: Mapping[str, int]
    accepted: int
    duplicates: int
    pending: int
    leads_created: int
    leads_updated: int
    connections: int


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
        ends: Event code to the final status of its requests: "Success", "ERROR" or "FAILURE".
            By default "Success" for a code that the account has, "ERROR" for any other.
        seed: Makes the delays and faults of a run repeatable.
        port: Port on 127.0.0.1; 0 for a free one.
        status_path: Path of the Status API, which LeadSquared does not document.
        keys_for_status: Whether status and metrics calls need AccessKey and SecretKey too;
            according to LeadSquared's documentation they need only the `x-api-key`.

    Attributes:
        access_key: The account's AccessKey, made up; like a real one it contains a `$`.
        secret_key: The account's SecretKey.
        api_key: The account's `x-api-key`.

    Raises:
        ValueError: an option is out of range.
    """

    access_key = "u$rsandbox-access"
    secret_key = "sandbox-secret"  # noqa: S105  made up, opens nothing
    api_key = "sandbox-api"

    def __init__(
        self,
        *,
        delay: Seconds = 0.0,
        idle_timeout: Seconds = 60.0,
        limit: int | None = 25,
        period: float = 5.0,
        window: str = "sliding",
        faults: Faults | None = None,
        pace: float = 20.0,
        ends: Mapping[int, str] | None = None,
        seed: int | None = None,
        port: int = 0,
        status_path: str = "/activity/create/status",
        keys_for_status: bool = False,
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
        if not status_path.startswith("/"):
            raise ValueError("status_path must begin with /")

        self._period = period
        self._status_path = status_path
        self._keys_for_status = keys_for_status
        # Delays and faults have separate sources, so that the faults of a run depend only on the
        # seed, not on how its calls interleave.
        source = Random(seed)  # noqa: S311  chance, not secrets
        draw_fates, draw_times = Random(source.random()), Random(source.random())  # noqa: S311  as above
        self._delay = _drawn("delay", delay, draw_times)
        self._idle_timeout = _drawn("idle_timeout", idle_timeout, draw_times)
        self._queue, self._leads = Queue(pace, ends), Leads()
        self._gateway = Gateway(
            keys={
                "accessKey": self.access_key,
                "secretKey": self.secret_key,
                "x-api-key": self.api_key,
            },
            limit=_DOCUMENTED_LIMIT if limit is None else limit,
            period=period,
            window=None if limit is None else WINDOWS[window](limit, period),
            faults=faults or Faults(),
            endpoints=Endpoints(
                self._queue, self._leads, status_path, keys_for_status=keys_for_status
            ),
            random=draw_fates,
        )
        self._port = port
        self._server: Server | None = None

    def __repr__(self) -> str:
        where = "not started" if self._server is None else self.url
        return f"<Sandbox {where}, {len(self.accepted)} accepted>"

    def __enter__(self) -> Self:
        self._server = Server(self._port, self._gateway, self._delay, self._idle_timeout)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._started.stop()

    @property
    def _started(self) -> Server:
        if self._server is None:
            raise RuntimeError("the sandbox has not been started: use it in a with statement")
        return self._server

    @property
    def url(self) -> str:
        """
        Its address, such as "http://127.0.0.1:8025".

        Raises:
            RuntimeError: it was never started.
        """
        return self._started.url

    @property
    def accepted(self) -> list[Accepted]:
        """The accepted activities, in order of arrival."""
        return self._queue.accepted.copy()

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
        with self._gateway.lock:
            return self._leads.add(attributes)

    @property
    def leads(self) -> list[dict[str, Any]]:
        """The account's leads, SchemaName to value: added ones, and those that posts created."""
        with self._gateway.lock:
            return [lead.copy() for lead in self._leads.all]

    @property
    def arrival_times(self) -> list[float]:
        """When each call arrived, including refused ones, in seconds of `time.monotonic`."""
        return self._gateway.arrivals.copy()

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
        self._gateway.next_fates.extend(Faults(script=faults).script)

    def report(self) -> Report:
        """Return the counts so far."""
        gateway = self._gateway
        with gateway.lock:
            return Report(
                arrivals=len(gateway.arrivals),
                refused=gateway.refused,
                fullest_window=fullest_window(gateway.arrivals, self._period),
                faults=dict(gateway.struck),
                accepted=len(self._queue.accepted),
                duplicates=self._queue.duplicates,
                pending=self._queue.pending(time.monotonic()),
                leads_created=self._leads.created,
                leads_updated=self._leads.updated,
                connections=gateway.connections,
            )

    def wait(self) -> None:
        """Block until the sandbox is stopped. Ctrl-C raises KeyboardInterrupt here."""
        self._started.stopped.wait()


def _is_on(accepted: Accepted, lead: str) -> bool:
    payload = accepted.payload
    details = payload.get("LeadDetails", ())
    addresses = [item["Value"] for item in details if item["Attribute"] == "EmailAddress"]
    names = [accepted.lead_id, payload.get("EmailAddress"), *addresses]
    return any(isinstance(name, str) and name.lower() == lead.lower() for name in names)


def _drawn(name: str, span: Seconds, random: Random) -> Callable[[], float]:
    low, high = span if isinstance(span, tuple) else (span, span)
    if not 0 <= low <= high:
        raise ValueError(f"{name} must be seconds, 0 or more, or a range (low, high); found {span}")
    return lambda: random.uniform(low, high)
