"""One connection of the sandbox: uvicorn's HTTP/1.1, with its own idle time-out."""

import asyncio
import socket

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState


def load_config(app: ASGIApp) -> Config:
    """Return uvicorn's settings for serving `app`, without logging and default headers."""
    config = Config(
        app,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    config.load()
    # At the log level TRACE, uvicorn wraps the app to log each scope, and the keys in its query.
    config.loaded_app = app
    return config


class Connection(H11Protocol):
    """
    A connection that can be cut, and closes when idle, even before its first call.

    Args:
        config: uvicorn's settings, loaded.
        state: The connections and calls of the server.
        idle_timeout: Seconds.
    """

    def __init__(self, config: Config, state: ServerState, idle_timeout: float) -> None:
        super().__init__(config, state, app_state={})
        self.access_log = False
        self.timeout_keep_alive = idle_timeout  # type: ignore[assignment]  # fractions work too

    def connection_made(
        self,
        transport: asyncio.Transport,  # type: ignore[override]  # uvicorn's own narrowing
    ) -> None:
        super().connection_made(transport)
        # asyncio sets this only for sockets with an explicit protocol number. Without it the body
        # of an answer waits about 40 ms for the client to acknowledge the head.
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state["abort"] = transport.abort
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
