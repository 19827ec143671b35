"""
PgBouncer in transaction mode, if it is installed, and a stand-in that is as strict.

The stand-in lends out the server's sessions for one transaction each. A session goes to whoever
comes next as soon as ReadyForQuery says that no transaction is open. Of the parameters of a start
only those are accepted of which PgBouncer keeps track. It knows nothing of prepared statements, as
PgBouncer before 1.21 or with max_prepared_statements = 0.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field

PORT = 6432
"""PgBouncer's usual port, which is a part of its socket's name."""
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
_STARTUP, _CANCEL, _TLS, _GSS = 196608, 80877102, 80877103, 80877104
_ACCEPTED = {
    *("user", "database", "application_name", "client_encoding", "datestyle", "timezone"),
    *("standard_conforming_strings", "intervalstyle"),
}


async def _startup(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    return code, await reader.readexactly(length - 8)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Read a message; return its type, and all of it."""
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!i", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)


def _refusal(words: str, code: str = "08P01") -> bytes:
    fields = b"".join(
        kind + text.encode() + b"\0"
        for kind, text in ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", code), (b"M", words))
    )
    return b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0"


@define
class Session:
    """A session with the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    greeting: bytes


@define
class Pooler:
    """
    A running pooler.

    Attributes:
        folder: Where the server's socket is.
        size: How many sessions it has.
        port: Where it listens.
        refusal: What it says to everyone who comes, if anything.
        code: The SQLSTATE of that.
    """

    folder: str
    size: int
    port: int = 0
    refusal: str | None = None
    code: str = "08P01"
    opened: int = 0
    free: asyncio.Queue[Session] = field(factory=asyncio.Queue[Session])
    writers: list[asyncio.StreamWriter] = field(factory=list[asyncio.StreamWriter])
    clients: set[asyncio.Task[None]] = field(factory=set[asyncio.Task[None]])
    is_closing: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        self.clients.add(task)
        task.add_done_callback(self.clients.discard)
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            code, body = await _startup(reader)
            while code in {_TLS, _GSS}:
                writer.write(b"N")
                code, body = await _startup(reader)
            if code == _STARTUP:
                texts = body.decode().split("\0")
                await self._start(dict(zip(texts[::2], texts[1::2], strict=False)), reader, writer)
        writer.close()

    async def _start(
        self,
        parameters: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        parameters.pop("", None)
        if self.refusal is not None:
            writer.write(_refusal(self.refusal, self.code))
            return
        for name in parameters:
            if name.lower() not in _ACCEPTED:
                writer.write(_refusal(f"unsupported startup parameter: {name}"))
                return
        while self.opened < self.size:
            self.opened += 1
            self.free.put_nowait(await self._connect(parameters))
        session = await self.free.get()
        self.free.put_nowait(session)
        writer.write(session.greeting)
        await _Client(self, reader, writer, parameters).serve()

    async def _connect(self, parameters: dict[str, str]) -> Session:
        reader, writer = await asyncio.open_unix_connection(f"{self.folder}/.s.PGSQL.5432")
        self.writers.append(writer)
        texts = [
            text
            for name in ("user", "database", "client_encoding")
            for text in (name, parameters.get(name, "utf8"))
        ]
        body = "\0".join(texts).encode() + b"\0\0"
        writer.write(struct.pack("!ii", len(body) + 8, _STARTUP) + body)
        greeting = b""
        kind = b""
        while kind != b"Z":
            kind, message = await _message(reader)
            assert kind != b"E", message
            greeting += message
        return Session(reader, writer, greeting)

    async def replace(self, session: Session, parameters: dict[str, str]) -> None:
        """Replace a session whose client left in the middle of a transaction."""
        session.writer.close()
        if self.is_closing:
            return
        self.free.put_nowait(await self._connect(parameters))


@define
class _Client:
    """One client, and its current session."""

    pooler: Pooler
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    parameters: dict[str, str]
    session: Session | None = None
    answers_due: int = 0
    is_unsynced: bool = False
    pump: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        try:
            while True:
                kind, message = await _message(self.reader)
                if kind == b"X":
                    break
                if self.session is None:
                    self.session = await self.pooler.free.get()
                    self.pump = asyncio.create_task(self._answer(self.session))
                self.is_unsynced = kind not in b"QS"
                self.answers_due += not self.is_unsynced
                self.session.writer.write(message)
        finally:
            if self.pump is not None and self.session is not None:
                self.pump.cancel()
                await self.pooler.replace(self.session, self.parameters)

    async def _answer(self, session: Session) -> None:
        """Forward answers until no transaction is open and no query is left."""
        while True:
            kind, message = await _message(session.reader)
            self.writer.write(message)
            if kind == b"Z":
                self.answers_due -= 1
                if message[5:] == b"I" and not self.answers_due and not self.is_unsynced:
                    self.session = None
                    self.pooler.free.put_nowait(session)
                    return


@asynccontextmanager
async def pooler(folder: str, size: int = 2) -> AsyncGenerator[Pooler]:
    """Run a pooler in front of the server whose socket is in a folder."""
    running = Pooler(folder, size)
    server = await asyncio.start_server(running.serve, "127.0.0.1")
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        running.is_closing = True
        for writer in running.writers:
            writer.close()
        if running.clients:
            await asyncio.wait(running.clients, timeout=5)
        for writer in running.writers:
            with suppress(OSError):
                await writer.wait_closed()


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


@contextmanager
def pgbouncer(folder: Path, databases: str = "* = host={}", **settings: object) -> Generator[Path]:
    """
    Run a real PgBouncer in front of the server whose socket is in a folder.

    Args:
        folder: The folder.
        databases: The databases that it offers; `{}` is the folder.
        settings: Further settings.

    Yields:
        The folder of its own socket.
    """
    assert PGBOUNCER is not None
    owner = folder.owner()
    with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        shutil.chown(own, owner)
        file, users, log = (Path(own, name) for name in ("pgbouncer.ini", "users", "log"))
        users.write_text('"postgres" "secret"\n', encoding="utf-8")
        chosen: dict[str, object] = {
            "pool_mode": "transaction",
            "default_pool_size": 2,
            "unix_socket_dir": own,
            "auth_type": "trust",
            "auth_file": users,
            **({"user": owner} if os.geteuid() == 0 else {}),  # it refuses to run as root
            **settings,
        }
        lines = [f"{name} = {value}" for name, value in chosen.items()]
        text = "\n".join(["[databases]", databases.format(folder), "[pgbouncer]", *lines, ""])
        file.write_text(text, encoding="utf-8")
        with log.open("w") as output:
            process = subprocess.Popen([PGBOUNCER, file], stderr=output)
        try:
            while not _listens(f"{own}/.s.PGSQL.{PORT}"):
                assert process.poll() is None, log.read_text(encoding="utf-8")
                time.sleep(0.01)
            yield Path(own)
        finally:
            process.terminate()
            process.wait()
