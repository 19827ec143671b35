"""
A server that sends exactly the bytes that a test wants.

    async def cut_off(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(200, b"{", length=100))

    async with RawServer(cut_off) as server:
        ...  # connect to server.url
"""

from __future__ import annotations

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from attrs import define, field, frozen

ACCEPTED = b'{"Status": "Request accepted.", "RequestID": "r1"}'


def answer(
    status: int,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    *,
    reason: str = "",
    length: int | None = None,
) -> bytes:
    """
    Build an answer.

    Args:
        status: HTTP status.
        body: The body, as it is.
        headers: Further headers.
        reason: The reason phrase.
        length: The Content-Length, by default the body's; with more than that, the body is cut.
    """
    lines = [f"HTTP/1.1 {status} {reason}", "Content-Type: application/json"]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@frozen
class Request:
    """One request: its head, up to the empty line, and its body."""

    head: bytes
    body: bytes


@define(eq=False)
class Connection:
    """One connection, seen from the server."""

    _server: RawServer
    _reader: StreamReader
    _writer: StreamWriter

    async def request(self) -> Request:
        """Read one request."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        request = Request(head, await self._reader.readexactly(int(length[1]) if length else 0))
        self._server.requests.append(request)
        return request

    async def closed(self) -> None:
        """Wait until the client closes the connection."""
        await self._reader.read()

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting while the client does not read."""
        self._writer.write(data)
        await self._writer.drain()


Behaviour = Callable[[Connection], Awaitable[None]]
"""Serves one connection, which is closed when it returns."""


def answers(*script: bytes) -> Behaviour:
    """Send each answer in turn, each on its own connection; then accept all posts."""
    left = list(script)

    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(left.pop(0) if left else answer(200, ACCEPTED))

    return behave


@define(eq=False)
class RawServer:
    """
    Serves each connection as its behaviour says.

    Attributes:
        url: Where it listens, once it is entered.
        requests: All requests read so far.
    """

    _behave: Behaviour
    url: str = field(default="", init=False)
    requests: list[Request] = field(factory=list[Request], init=False, repr=False)
    _tasks: set[asyncio.Task[None]] = field(factory=set[asyncio.Task[None]], init=False)
    _server: asyncio.Server | None = field(default=None, init=False)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._behave(Connection(self, reader, writer))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
