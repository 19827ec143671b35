"""Proxies and certificates of the environment, and a host that speaks another protocol."""

from __future__ import annotations

import gc
import os
import ssl
import sys
from pathlib import Path

import httpx
import pytest
from call_support import leaks_in_httpcore
from raw_server import ACCEPTED, Behaviour, Connection, RawServer, answer, answers
from support import KEYS, LeadSquared, account, activity

from leadpost import (
    Account,
    AsyncActivityPoster,
    ConfigurationError,
    ConnectionFailed,
    LeadpostError,
    OpenBucket,
    RetryPolicy,
    TokenBucket,
)

HOST = "https://something.example"
PASSWORD = "pa55-w0rd"
VARIABLES = ("LEADPOST_ACCESS_KEY", "LEADPOST_SECRET_KEY", "LEADPOST_API_KEY")
ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies and certificates."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


def refused_configuration() -> str:
    """Return why no poster can be made, after checking that it shows no secret."""
    with pytest.raises(ConfigurationError) as caught:
        AsyncActivityPoster(account(host=HOST))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert not any(secret in str(caught.value) for secret in (PASSWORD, *KEYS))
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"],
)
@pytest.mark.parametrize(
    "value",
    [
        f"ftp://jo:{PASSWORD}@proxy.example.com:3128",
        f"http://jo:{PASSWORD}@proxy.example.com:port",
        f"http://jo:{PASSWORD}@[::1:3128",
        f"http:// jo:{PASSWORD}",
        f"socks6://jo:{PASSWORD}@proxy.example.com",
        f"http://jo:{PASSWORD}@proxy.example.com:99999",
        f"jo:{PASSWORD}@:3128",
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    message = refused_configuration()
    assert message == f"{name}: wanted a proxy URL such as http://proxy.example.com:3128"


def test_of_two_proxies_the_one_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"jo:{PASSWORD}@proxy.example.com:3128")
    monkeypatch.setenv("ALL_PROXY", f"jo:{PASSWORD}@proxy.example.com:nonsense")
    assert refused_configuration().startswith("ALL_PROXY: ")


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_socks_proxy_without_socksio_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, f"socks5://jo:{PASSWORD}@proxy.example.com:1080")
    monkeypatch.setitem(sys.modules, "socksio", None)
    assert refused_configuration() == (
        f"{name}: a SOCKS proxy needs another package: pip install 'httpx[socks]'"
    )


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_a_no_proxy_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv(name, f"localhost, http://{PASSWORD}:port")
    assert refused_configuration() == f"{name}: wanted host names, separated by commas"


@pytest.mark.parametrize("found", ["nothing", "text", "directory"])
def test_a_file_that_no_certificates_can_be_loaded_from_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str
) -> None:
    path = tmp_path / PASSWORD
    if found == "text":
        path.write_text("no certificate")
    elif found == "directory":
        path.mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert refused_configuration() == (
        "SSL_CERT_FILE: no certificates can be loaded from this file"
    )


def test_a_directory_of_certificates_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / PASSWORD}{os.pathsep}{tmp_path / 'other'}")
    assert refused_configuration() == "SSL_CERT_DIR: there is no such directory"


@pytest.mark.parametrize("beside", [{}, {"SSL_CERT_FILE": ssl.get_default_verify_paths().cafile}])
def test_a_key_log_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, beside: dict[str, str | None]
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path))
    for name, value in beside.items():
        monkeypatch.setenv(name, value or "")
    assert refused_configuration() == "SSLKEYLOGFILE: this file cannot be written"


def test_variables_that_httpx_can_use_are_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"jo:{PASSWORD}@proxy.example.com:3128")
    monkeypatch.setenv("ALL_PROXY", "https://proxy.example.com")
    monkeypatch.setenv("NO_PROXY", "localhost, .example.org, 10.0.0.0/8, ::1")
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path}{os.pathsep}{tmp_path / 'other'}")
    assert PASSWORD not in repr(AsyncActivityPoster(account(host=HOST)))


def test_an_unrelated_error_is_not_blamed_on_a_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**_: object) -> httpx.AsyncClient:
        raise OSError("too many open files")

    monkeypatch.setattr(httpx, "AsyncClient", fail)
    with pytest.raises(OSError, match="too many open files"):
        AsyncActivityPoster(account(host=HOST))


async def test_calls_to_this_machine_do_not_use_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    server = RawServer(answers())
    async with server, AsyncActivityPoster(account(host=server.url)) as poster:
        assert await poster.post(activity()) == "r1"


async def test_an_injected_client_is_used_whatever_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = LeadSquared().client()
    monkeypatch.setenv("ALL_PROXY", "nonsense://")
    async with client, AsyncActivityPoster(account(host=HOST), client=client) as poster:
        assert await poster.post(activity()) == "r201"


# Proxies that do not forward a call.


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
REFUSALS = {
    "forbids it": answer(403, b"<html>no</html>", reason="Forbidden"),
    "asks for a login": answer(407, reason="Proxy Authentication Required"),
    "finds no host": answer(502, b"<html>no</html>", reason="Bad Gateway"),
    "says nothing": b"",
    "accepts and says nothing": ESTABLISHED,
    "accepts and speaks plain HTTP": ESTABLISHED + answer(200, ACCEPTED),
}


async def failure_through(
    refusal: bytes, monkeypatch: pytest.MonkeyPatch
) -> tuple[LeadpostError, TokenBucket, RawServer]:
    """Post through a proxy that does not forward."""
    bucket = TokenBucket()
    async with RawServer(answers(refusal)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", f"://jo:{PASSWORD}@"))
        async with AsyncActivityPoster(account(host=HOST), bucket=bucket, retry=ONCE) as poster:
            with pytest.raises(LeadpostError) as caught:
                await poster.post(activity())
    return caught.value, bucket, proxy


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
async def test_a_proxy_that_does_not_let_a_call_through_costs_no_token(
    monkeypatch: pytest.MonkeyPatch, refusal: bytes
) -> None:
    error, bucket, proxy = await failure_through(refusal, monkeypatch)
    assert type(error) is ConnectionFailed
    assert not error.sent
    statistics = bucket.statistics()
    assert (statistics.free, statistics.in_use, statistics.resting) == (25, 0, 0)
    assert [request.head.split(b"\r\n")[0] for request in proxy.requests] == [
        b"CONNECT something.example:443 HTTP/1.1"
    ]
    assert not any(key.encode() in proxy.requests[0].head for key in KEYS)
    assert PASSWORD not in str(error)


async def hang_up(connection: Connection) -> None:
    """As a server does that does not read a handshake to its end."""


async def speak_plainly(connection: Connection) -> None:
    await connection.send(answer(400))


@leaks_in_httpcore
@pytest.mark.parametrize("behaviour", [hang_up, speak_plainly])
async def test_a_socks_proxy_that_breaks_off_is_no_connection(
    monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour
) -> None:
    pytest.importorskip("socksio")
    async with RawServer(behaviour) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url.replace("http://", "socks5://"))
        async with AsyncActivityPoster(account(host=HOST), retry=ONCE) as poster:
            with pytest.raises(ConnectionFailed):
                await poster.post(activity())
    gc.collect()


async def test_a_proxy_that_refuses_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    error, _, _ = await failure_through(REFUSALS["asks for a login"], monkeypatch)
    assert str(error) == "ProxyError: 407 Proxy Authentication Required"


async def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(answers(REFUSALS["forbids it"])) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "localhost.example,127.0.0.2")
        bucket = OpenBucket()
        host = account(host="https://localhost.example:1")
        async with AsyncActivityPoster(host, bucket=bucket, retry=ONCE) as poster:
            with pytest.raises(ConnectionFailed):
                await poster.post(activity())
    assert proxy.requests == []


# A host that speaks another protocol.


@pytest.mark.parametrize("behaviour", [speak_plainly, hang_up])
async def test_https_to_a_plain_server_on_this_machine_suggests_http(behaviour: Behaviour) -> None:
    bucket = TokenBucket()
    async with RawServer(behaviour) as server:
        environ = {
            "LEADPOST_HOST": server.url.replace("http://", "https://"),
            **dict(zip(VARIABLES, KEYS, strict=True)),
        }
        from_env = Account.from_env(environ)
        async with AsyncActivityPoster(from_env, bucket=bucket, retry=ONCE) as poster:
            with pytest.raises(ConnectionFailed) as caught:
                await poster.post(activity())
    suggestion = f"; if this server speaks plain HTTP, set the host to {server.url}"
    assert str(caught.value).endswith(suggestion)
    assert bucket.statistics().free == 25
