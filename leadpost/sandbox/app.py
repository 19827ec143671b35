"""The ASGI application: delay, answer, delay."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence

from attrs import asdict
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from leadpost.sandbox.answers import JSON
from leadpost.sandbox.endpoints import Call, Endpoint
from leadpost.sandbox.vendor import Vendor


def create_app(
    vendor: Vendor, endpoints: Sequence[Endpoint], delay: Callable[[], float]
) -> ASGIApp:
    """
    Build the application: LeadSquared's paths and `/_sandbox/report`.

    Args:
        vendor: Decides how each call ends.
        endpoints: LeadSquared's paths.
        delay: Draws the seconds of one direction.

    Returns:
        An ASGI application for HTTP only. It expects the function `abort`, which cuts the
        connection, in the state of each scope.
    """
    routes = [Route(e.path, _route(vendor, e, delay), methods=[e.method]) for e in endpoints]

    async def report(request: Request) -> Response:
        del request
        return Response(json.dumps(asdict(vendor.report(time.monotonic()))), headers=JSON)

    starlette = Starlette(routes=[*routes, Route("/_sandbox/report", report)])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await starlette(scope, receive, send)
        except asyncio.CancelledError:
            # The sandbox stops and has cut the connection. Raised further, the server would log
            # this as an error.
            return

    return app


def _route(
    vendor: Vendor, endpoint: Endpoint, delay: Callable[[], float]
) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            return Response()  # nobody receives it
        await asyncio.sleep(delay())
        call = Call(request.query_params, request.headers, body)
        outcome = vendor.arrive(endpoint, call, time.monotonic())
        await asyncio.sleep(outcome.wait + delay())
        if outcome.answer is None:
            return await _cut(request)
        return Response(
            outcome.answer.body, outcome.answer.status, headers=dict(outcome.answer.headers)
        )

    return respond


async def _cut(request: Request) -> Response:
    request.state.abort()
    # The body has been read, so the next event can only be that the server has noticed the cut.
    # From then on it silently drops whatever is sent.
    await request.receive()
    return Response()
