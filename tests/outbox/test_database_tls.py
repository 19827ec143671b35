"""A server with TLS: which certificates are trusted, and what `channel_binding` requires."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from database_support import folder_of
from support import account, activity, within

from leadpost import OutboxError, OutboxUnavailable
from leadpost.outbox import Outbox

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
SSL_REQUEST = 8


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost that no system trusts, with its key in the same file."""
    file = tmp_path / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(file), "-out", str(tmp_path / "root.crt")),
        ],
        check=True,
        capture_output=True,
    )
    file.write_bytes(file.read_bytes() + (tmp_path / "root.crt").read_bytes())
    return file


@asynccontextmanager
async def tls_before(folder: Path, certificate: Path) -> AsyncGenerator[int]:
    """Put TLS in front of a server's socket, and yield the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(SSL_REQUEST)
            writer.write(b"S")
            await writer.start_tls(context)
            there = await asyncio.open_unix_connection(folder / ".s.PGSQL.5432")
            await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(65536):
            writer.write(part)
        writer.close()

    async with await asyncio.start_server(serve, "localhost", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("sslmode=require", None),
        ("sslmode=require&channel_binding=prefer", None),
        ("sslmode=require&channel_binding=require&sslrootcert={root}", None),
        ("channel_binding=require&sslrootcert={root}", None),
        ("sslmode=require&channel_binding=require", "not trusted (self-signed certificate)"),
        ("sslmode=verify-full&sslrootcert=system", "not trusted (self-signed certificate)"),
        (
            "host=127.0.0.1&channel_binding=require&sslrootcert={root}",
            "not trusted (IP address mismatch, certificate is not valid for '127.0.0.1'.)",
        ),
    ],
)
async def test_channel_binding_requires_a_verified_certificate(
    postgresql_url: str, certificate: Path, options: str, reason: str | None
) -> None:
    """It is unknown to asyncpg; a verified certificate prevents a man in the middle as well."""
    parsed = sa.make_url(postgresql_url)
    options = options.format(root=certificate.parent / "root.crt")
    async with tls_before(folder_of(postgresql_url), certificate) as port, within(20):
        url = f"postgresql://{parsed.username}@localhost:{port}/{parsed.database}?{options}"
        if "host=" in options:
            url += f"&port={port}"
        outbox = Outbox(url, account())
        if reason is None:
            async with outbox:
                assert await outbox.put(activity(1)) == 1
            return
        with pytest.raises(OutboxError) as caught:
            await outbox.__aenter__()
    assert reason in str(caught.value)
    assert "see sslmode, channel_binding" in str(caught.value)
    assert not isinstance(caught.value, OutboxUnavailable)
