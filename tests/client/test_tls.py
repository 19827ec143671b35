"""TLS that breaks in the middle of a call, over a real socket."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from raw_server import ACCEPTED, answer
from support import account, activity, within

from leadpost import (
    AsyncActivityPoster,
    BadRequest,
    ConnectionFailed,
    DeliveryUncertain,
    OpenBucket,
    RetryPolicy,
)

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1, beside its key."""
    certificate, key = tmp_path / "root.crt", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate


@asynccontextmanager
async def broken_after(sent: bytes, certificate: Path) -> AsyncGenerator[AsyncActivityPoster]:
    """Yield a poster to a server that answers with these bytes, and then with plain text."""
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate, certificate.with_name("key.pem"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            await writer.drain()
            transport: Any = writer.transport
            transport._ssl_protocol._transport.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
            await reader.read()
        writer.transport.abort()

    trusted = ssl.create_default_context(cafile=certificate)
    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0, ssl=served) as server,
        httpx.AsyncClient(verify=trusted) as client,
        within(20),
    ):
        host = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        bucket = OpenBucket()
        async with AsyncActivityPoster(account(host=host), client=client, bucket=bucket) as poster:
            yield poster


async def test_tls_that_breaks_before_the_answer_leaves_a_post_uncertain(certificate: Path) -> None:
    async with broken_after(b"", certificate) as poster:
        with pytest.raises(DeliveryUncertain, match="SSLError"):
            await poster.post(activity(1))
        outcomes = [outcome async for outcome in poster.post_stream([activity(2), activity(3)])]
    assert [outcome.state for outcome in outcomes] == ["uncertain", "uncertain"]


async def test_tls_that_breaks_within_the_body_leaves_the_status(certificate: Path) -> None:
    cut = answer(400, ACCEPTED[:9], length=100)
    async with broken_after(cut, certificate) as poster:
        (outcome,) = [outcome async for outcome in poster.post_stream([activity(1)])]
    assert isinstance(outcome.error, BadRequest)
    assert outcome.error.status == 400


@pytest.mark.parametrize("name", ["host", "sync_host"])
async def test_a_certificate_of_this_machine_is_verified_too(certificate: Path, name: str) -> None:
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate, certificate.with_name("key.pem"))

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, ACCEPTED))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=served) as server, within(20):
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        once = RetryPolicy(max_attempts=1)
        async with AsyncActivityPoster(account(**{name: url}), retry=once) as poster:
            with pytest.raises(ConnectionFailed, match="certificate"):
                await (poster.metrics() if name == "host" else poster.activity_types())
