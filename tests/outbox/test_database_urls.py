"""Database URLs: which are valid, what their options do, and that no message shows a secret."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest
from database_support import chain, numbers, plain_postgresql, put
from support import account, activity

from leadpost import OutboxError
from leadpost.outbox import Outbox
from leadpost.outbox.database._urls import parse_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("leadpost.db", "no scheme that leadpost supports"),
        ("host=db.example.com dbname=crm", "no scheme that leadpost supports"),
        ("sqlite+pysqlite:///leadpost.db", "no scheme that leadpost supports"),
        ("postgresql+psycopg://db.example.com/crm", "no scheme that leadpost supports"),
        ("mysql://host/database", "no scheme that leadpost supports"),
        ("sqlite+aiosqlite://", "names no file"),
        ("sqlite+aiosqlite:///:memory:", "names no file"),
        ("sqlite://leadpost.db", "names no file"),
        ("postgresql://ada:a@b@db/crm", "cannot be read"),
    ],
)
def test_an_invalid_url_raises_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(OutboxError, match=f"{reason}.*wanted sqlite:///FILE"):
        Outbox(url, account())


async def test_a_url_of_sqlite_with_and_without_a_driver(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await put(f"sqlite:///{path}")
    assert await numbers(f"sqlite+aiosqlite:///{path}") == [1]


async def test_a_relative_path_is_resolved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    outbox = Outbox("sqlite:///store.db", account())
    monkeypatch.chdir(elsewhere)
    async with outbox:
        await outbox.put(activity(1))
    assert outbox._database.name == f"sqlite:///{tmp_path}/store.db"
    assert await numbers(f"sqlite:///{tmp_path}/store.db") == [1]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "POSTGRES"])
async def test_a_url_in_postgresqls_own_form(postgresql_url: str, scheme: str) -> None:
    plain = postgresql_url.replace("postgresql+asyncpg", scheme)
    await put(f" {plain}\n")
    assert await numbers(postgresql_url) == [1]


@pytest.mark.parametrize(
    ("url", "place", "name"),
    [
        ("postgresql://db.example.com/crm", ("db.example.com", None), "db.example.com/crm"),
        ("postgresql://u:p@db:6432/crm", ("db", 6432), "db/crm"),
        ("postgresql:///crm?host=a&port=1", ("a", 1), "a/crm"),
        ("postgresql:///crm?host=a:1", ("a", 1), "a/crm"),
        ("postgresql://[::1]:7/crm", ("::1", 7), "::1/crm"),
        ("postgresql:///crm?host=[::1]", ("::1", None), "::1/crm"),
        ("postgresql:///crm?host=/run/pg", ("/run/pg", None), "/run/pg/crm"),
        ("postgresql://%2Frun%2Fpg/crm", ("/run/pg", None), "/run/pg/crm"),
        (
            "postgresql://u:p@/crm?host=/cloudsql/project:region:one",
            ("/cloudsql/project:region:one", None),
            "/cloudsql/project:region:one/crm",
        ),
        ("postgresql:///crm", (None, None), "/crm"),
        ("postgresql://?dbname=crm", (None, None), "/crm"),
        ("postgresql://db", ("db", None), "db/"),
        ("postgresql://db/%D0%BA%20r", ("db", None), "db/…"),
    ],
)
def test_host_and_port(url: str, place: tuple[str | None, int | None], name: str) -> None:
    parsed = parse_url(url)
    assert (parsed.connect["host"], parsed.connect["port"]) == place
    assert parsed.name == f"postgresql://{name}"


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("postgresql://ada:%40%3A%2F%3F%25@db/crm", "ada", "@:/?%"),
        ("postgresql://ada:a:b#c+d@db/crm", "ada", "a:b#c+d"),
        ("postgresql://db/crm?user=ada&password=a+b%26c", "ada", "a+b&c"),
        ("postgresql://ada@db/crm?password=x", "ada", "x"),
        ("postgresql://db/crm", None, None),
        ("postgresql://a%40b.com:x@db/crm", "a@b.com", "x"),
    ],
)
def test_user_and_password(url: str, user: str | None, password: str | None) -> None:
    connect = parse_url(url).connect
    assert (connect["user"], connect["password"]) == (user, password)


@pytest.mark.parametrize(
    "options",
    [
        "sslmode=require",
        "sslmode=verify-full&sslrootcert=system",
        "sslmode=require&channel_binding=require",
        "sslmode=verify-full&channel_binding=require",
        "sslmode=prefer&channel_binding=prefer",
        "sslmode=require&application_name=billing",
        "options=-c%20search_path%3Dcrm&connect_timeout=5",
        "pgbouncer=true&connect_timeout=0",
    ],
)
def test_supported_options(options: str) -> None:
    assert parse_url(f"postgresql://u:p@db/crm?{options}").name == "postgresql://db/crm"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("channel_binding=always", "channel_binding: wanted one of prefer, disable, require"),
        ("channel_binding=require&sslmode=disable", "not possible with sslmode=disable"),
        ("sslmode=on", "sslmode: wanted one of disable, allow, prefer, require"),
        ("statement_timeout=5", r"supported are .*sslmode.* options=-c%20NAME=VALUE"),
        ("hostaddr=10.0.0.1", "it has an unsupported option"),
        ("sslpassword=secret", "it has an unsupported option"),
        ("sslmode", "it has an unsupported option"),
        ("connect_timeout=soon", "connect_timeout: wanted seconds, such as 10"),
        ("pgbouncer=yes", "pgbouncer: wanted one of false, 0, true, 1"),
        ("sslrootcert=/nowhere/root.crt", "sslrootcert: the file cannot be read"),
        ("sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
        ("sslrootcert=system&sslcert=x", "cannot combine it with sslcert"),
        ("host=a,b", "it names several hosts, which leadpost does not support"),
        ("port=1,2", "port is not a number from 1 to 65535"),
        ("port=0", "port is not a number from 1 to 65535"),
    ],
)
def test_unsupported_options_raise_by_name(options: str, reason: str) -> None:
    with pytest.raises(OutboxError, match=reason):
        parse_url(f"postgresql://u:p@db/crm?{options}")


def test_sqlite_has_no_options() -> None:
    with pytest.raises(OutboxError, match="SQLite has no options"):
        parse_url("sqlite:///leadpost.db?timeout=5")


@pytest.mark.parametrize(
    ("added", "name"),
    [
        ("", "leadpost"),
        ("&application_name=billing%20worker", "billing worker"),
        ("&options=-c%20application_name%3Dodd", "leadpost"),
    ],
)
async def test_the_server_sees_the_application_name(
    postgresql_url: str, added: str, name: str
) -> None:
    async with (
        Outbox(postgresql_url + added, account()),
        plain_postgresql(postgresql_url) as server,
    ):
        query = (
            "SELECT DISTINCT application_name FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"  # not a vacuum
        )
        assert await server.fetchval(query) == name


async def test_options_set_settings_of_the_server(postgresql_url: str) -> None:
    async with plain_postgresql(postgresql_url) as server:
        await server.execute("CREATE SCHEMA crm")
        for blank in ("%20", "+"):
            await put(f"{postgresql_url}&options=-c{blank}search_path%3Dcrm")
        assert await server.fetchval("SELECT count(*) FROM crm.leadpost_entries") == 2


MISTYPED = [
    f"postgresql://ada:{SECRET}@x@db/crm",
    f"postgresql://ada:x@{SECRET}@db/crm",
    f"postgresql://ada:x/{SECRET}@db/crm",
    f"postgresql://ada:x?{SECRET}@db/crm",
    f"postgresql://ada:x#{SECRET}@db/crm",
    f"postgresql://ada:x&{SECRET}@db/crm",
    f"postgresql://ada:x%{SECRET}@db/crm",
    f"postgresql://ada:x%zz{SECRET}@db/crm",
    f"postgresql://ada:x:{SECRET}@db/crm",
    f"postgresql://ada:x {SECRET}@db/crm",
    f"postgresql://ada:x?sslmode={SECRET}@db/crm",
    f"postgresql://ada:x?y={SECRET}@db/crm",
    f"postgresql://ada:x/y?{SECRET}=z@db/crm",
    f"postgresql://ada:12/{SECRET}@db/crm",
    f"postgresql://ada:12?{SECRET}@db/crm",
    f"postgresql://ada/{SECRET}@db/crm",
    f"postgresql://ada@{SECRET}@db/crm",
    f"postgresql://ada {SECRET}@db/crm",
    f"postgresql://ada:{SECRET}/db/crm",
    f"postgresql://ada:{SECRET}:db/crm",
    f"postgresql://ada:{SECRET} db/crm",
    f"postgresql://ada:{SECRET}%40db/crm",
    f"postgresql://ada:{SECRET}&db/crm",
    f"postgresql://ada:{SECRET}",
    f"postgresql://ada:{SECRET}@",
    f"postgresql://ada:{SECRET}@db:x/crm",
    f"postgresql://ada:{SECRET}@db:123456/crm",
    f"postgresql://ada:{SECRET}@db..example/crm",
    f"postgresql://ada:{SECRET}@{'d' * 64}/crm",
    f"postgresql://ada:{SECRET}@d b/crm",
    f"postgresql://ada:{SECRET}@db%00/crm",
    f"postgresql://ada:{SECRET}%00@db/crm",
    f"postgresql://ada:{SECRET}%ff@db/crm",
    f"postgresql://ada:{SECRET}\udcff@db/crm",
    f"postgresql://ada:{SECRET}@[::1/crm",
    f"postgresql://[{SECRET}]/crm",
    f"postgresql://${SECRET}/crm",
    f"postgresql:///ada:{SECRET}@db/crm",
    f"postgresql:/ada:{SECRET}@db/crm",
    f"postgresql:ada:{SECRET}@db/crm",
    f"postgres//ada:{SECRET}@db/crm",
    f"ada:{SECRET}@db/crm",
    f"{SECRET}://ada@db/crm",
    f"postgresql+{SECRET}://ada@db/crm",
    f"'postgresql://ada:{SECRET}@db/crm'",
    f"psql 'postgresql://ada:{SECRET}@db/crm'",
    f"jdbc:postgresql://db/crm?user=ada&password={SECRET}",
    f"mysql://ada:{SECRET}@db/crm",
    f"host=db user=ada password={SECRET}",
    f"postgresql://db/crm?user=ada&pasword={SECRET}",
    f"postgresql://db/crm?user=ada&password=x&{SECRET}",
    f"postgresql://db/crm?user=ada&password=x&{SECRET}=y",
    f"postgresql://db/crm?user=ada&sslmode={SECRET}",
    f"postgresql://db/crm?user=ada&channel_binding={SECRET}",
    f"postgresql://db/crm?user=ada&connect_timeout={SECRET}",
    f"postgresql://db/crm?user=ada&pgbouncer={SECRET}",
    f"postgresql://db/crm?user=ada&port={SECRET}",
    f"postgresql://db/crm?user=ada&sslrootcert={SECRET}",
    f"postgresql://db/crm?user=ada&passfile={SECRET}",
    f"postgresql://db/crm?user=ada&service={SECRET}",
    f"postgresql://db/crm?user=ada&options={SECRET}",
    f"postgresql://db/crm?user=ada&application_name={SECRET}",
    f"postgresql://db/ada:{SECRET}",
    f"sqlite://ada:{SECRET}@db/crm",
    f"sqlite:///x?password={SECRET}",
    f"sqlite:///nowhere/ada:{SECRET}@db",
]


@pytest.mark.parametrize("url", MISTYPED, ids=range(len(MISTYPED)))
async def test_no_mistyped_url_shows_a_part_of_its_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    for name in ("asyncio", "asyncpg", "aiosqlite", "sqlalchemy.engine", "sqlalchemy.pool"):
        caplog.set_level(1, logger=name)
    url = url.replace("@db/", "@127.0.0.1:9/").replace("//db/", "//127.0.0.1:9/")
    shown: list[object] = []
    try:
        outbox = Outbox(url, "acme")
        shown += [outbox, outbox._database, outbox._database._url, outbox._database.name]
        async with outbox:
            pytest.fail("there is no such database")
    except OutboxError as error:
        for link in chain(error):
            shown += [link, str(link), vars(link), link.args]
        shown += traceback.format_exception(error)
    texts = [repr(it) for it in shown] + [record.getMessage() for record in caplog.records]
    lines = "\n".join(texts).replace(f"Outbox({url!r}", "")
    assert SECRET not in lines
    assert "x@" not in lines


async def test_a_valid_url_of_an_unreachable_server_shows_no_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    outbox = Outbox(f"postgresql://ada:{SECRET}@127.0.0.1:9/crm", account())
    with pytest.raises(OutboxError) as caught:
        await outbox.__aenter__()
    shown = [repr(outbox), *(repr(link) for link in chain(caught.value)), caplog.text]
    assert SECRET not in "".join(shown)
    assert repr(outbox._database) == "<Database postgresql://127.0.0.1/crm>"
    assert "ada" not in "".join(shown)
