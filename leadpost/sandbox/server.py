"""
HTTP/1.1 on loopback, in threads: one accepts connections, and each connection has its own.

A client under test that blocks its event loop, or leaves it, therefore does not disturb the times
measured here.
"""

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from leadpost.sandbox.endpoints import Call
from leadpost.sandbox.gateway import Gateway


class Server(ThreadingTCPServer):
    """The running server; `delay` and `idle_timeout` draw seconds."""

    allow_reuse_address = os.name == "posix"  # elsewhere it would allow two servers on a port
    request_queue_size = 2048

    def __init__(
        self,
        port: int,
        gateway: Gateway,
        delay: Callable[[], float],
        idle_timeout: Callable[[], float],
    ) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Connection)
        except OSError as error:
            error.filename = f"port {port}"
            error.add_note("Stop what uses it, or choose another port, or 0 for a free one")
            raise
        self.gateway = gateway
        self.delay = delay
        self.idle_timeout = idle_timeout
        self.connections = set[socket.socket]()
        self.stopped = Event()
        self._accepting = Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        host, port, *_ = self.server_address
        return f"http://{host!s}:{port}"

    def stop(self) -> None:
        """Cut all connections, and wait for their threads."""
        if not self._accepting.is_alive():  # in a process that was forked, where nothing runs
            return
        self.stopped.set()
        self.shutdown()
        for connection in self.connections.copy():
            with suppress(OSError):  # it was closed meanwhile
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that a client has cut."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]  no other makes them
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffered, so that head and body of an answer leave together

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.idle_timeout())
        self.server.connections.add(self.connection)
        with self.server.gateway.lock:
            self.server.gateway.connections += 1

    def handle(self) -> None:
        if not self.server.stopped.is_set():  # else `stop` may not have seen this connection
            super().handle()

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        server, gateway = self.server, self.server.gateway
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(length)
        self.close_connection = True
        if len(body) < length or server.stopped.wait(server.delay()):
            return
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        with gateway.lock:
            call = Call(self.command, url.path, query, self.headers, body, time.monotonic())
            answer, wait = gateway.arrive(call)
        if server.stopped.wait(wait + server.delay()) or answer is None:
            return
        self.close_connection = self.headers.get("connection", "").lower() == "close"
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_GET  # noqa: N815  http.server's own spelling

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
        """Print nothing: the query contains keys."""
        del format, args
