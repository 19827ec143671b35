"""One connection of the sandbox: uvicorn's HTTP/1.1, with an idle time of its own."""

import asyncio
import socket

from starlette.types import ASGIApp
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState


def load_config(app: ASGIApp) -> Config:
    """Settings of uvicorn for serving `app`, without a word to the log and without its headers."""
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
    # Where everything is logged, uvicorn wraps the app to log each scope: keys in the query too.
    config.loaded_app = app
    return config


class Connection(H11Protocol):
    """
    A connection that closes when idle, from its opening on, and can be cut.

    Args:
        config: uvicorn's settings, loaded.
        state: What the connections of one server share, themselves and their calls.
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
        # asyncio does this only for sockets whose protocol number is given; without it the body of
        # an answer waits some 40 ms for the client to acknowledge the head.
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state["abort"] = transport.abort
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
