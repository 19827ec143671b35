"""The account: hosts, keys, paths, and the error for each mistake."""

from __future__ import annotations

from typing import Any

import pytest
from support import KEYS, account

from leadpost import Account, ConfigurationError

ENVIRONMENT = {
    "LEADPOST_REGION": "india",
    "LEADPOST_ACCESS_KEY": KEYS[0],
    "LEADPOST_SECRET_KEY": KEYS[1],
    "LEADPOST_API_KEY": KEYS[2],
}


@pytest.mark.parametrize(
    ("region", "host", "sync_host"),
    [
        ("india", "asyncapi-in21", "api-in21"),
        ("hyderabad", "asyncapi-in22", "api-in22"),
        ("USA", "asyncapi-us11", "api-us11"),
        ("singapore", "asyncapi", "api"),
        ("ireland", "asyncapi-ir31", "api-ir31"),
        ("canada", "asyncapi-ca12", "api-ca12"),
        ("middle-east", "asyncapi-me61", "api-me61"),
    ],
)
def test_a_region_names_both_hosts(region: str, host: str, sync_host: str) -> None:
    made = account(host="", region=region)
    assert made.host == f"https://{host}.leadsquared.com"
    assert made.sync_host == f"https://{sync_host}.leadsquared.com"


@pytest.mark.parametrize(
    ("host", "url", "sync_url"),
    [
        ("asyncapi-in21.leadsquared.com", "https://asyncapi-in21.leadsquared.com", "api-in21"),
        ("https://asyncapi.leadsquared.com/", "https://asyncapi.leadsquared.com", "https://api."),
        ("proxy.example.com:8443", "https://proxy.example.com:8443", ""),
        ("xn--bcher-kva.example.com", "https://xn--bcher-kva.example.com", ""),
        ("b\u00fccher.example.com", "https://xn--bcher-kva.example.com", ""),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost:8000", "http://localhost:8000", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_host_is_https_unless_loopback(host: str, url: str, sync_url: str) -> None:
    made = account(host=host)
    assert made.host == url
    assert sync_url in made.sync_host


def test_a_sync_host_may_be_given() -> None:
    made = account(host="proxy.example.com", sync_host="api-in21.leadsquared.com")
    assert str(made.url("/v2/a")) == "https://api-in21.leadsquared.com/v2/a"


def test_a_sync_call_without_its_host_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match=r"sync_host \(LEADPOST_SYNC_HOST\) is missing"):
        account(host="proxy.example.com").url("/v2/a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "http://api.example.com"}, "found http://api.example.com, wanted https"),
        ({"host": "http://10.0.0.1"}, "found http://10.0.0.1, wanted https"),
        ({"host": "ftp://x.example.com"}, "found scheme 'ftp', wanted https"),
        ({"host": "https://"}, "found an invalid host name or port, wanted"),
        ({"host": "a b.example.com"}, "found an invalid host name or port, wanted"),
        ({"host": "\u2603.example.com"}, "found an invalid host name or port, wanted"),
        (
            {"host": "xn--"},
            r"host \(LEADPOST_HOST\): found an invalid host name or port, wanted",
        ),
        ({"sync_host": "xn--a.example.com"}, r"SYNC_HOST\): found an invalid host name"),
        ({"host": "x.example.com:port"}, r"host \(LEADPOST_HOST\): found an invalid host"),
        ({"host": "x.example.com:65536"}, "found an invalid host name or port, wanted"),
        ({"host": "x.example.com/path"}, "found a user, path or query, wanted a host"),
        (
            {"host": "https://user:pass@x.example.com"},
            "found a user, path or query, wanted a host",
        ),
        ({"host": "x.example.com?accessKey=1"}, "found a user, path or query, wanted a host"),
        ({"host": "", "region": "mars"}, "found 'mars', wanted one of india, hyderabad"),
        ({"region": "india"}, "set LEADPOST_HOST or LEADPOST_REGION, not both"),
        ({"host": ""}, "host is missing: set LEADPOST_REGION to one of india"),
        ({"sync_host": "http://api.example.com"}, r"sync_host \(LEADPOST_SYNC_HOST\): found http"),
        ({"access_key": ""}, "access_key is missing: give it, or set LEADPOST_ACCESS_KEY"),
        ({"secret_key": ""}, "secret_key is missing: give it, or set LEADPOST_SECRET_KEY"),
        ({"api_key": None}, "api_key is missing: give it, or set LEADPOST_API_KEY"),
        (
            {"access_key": "", "api_key": ""},
            "access_key and api_key are missing: give them, or set LEADPOST_ACCESS_KEY and LEAD",
        ),
        ({"api_key": "line\r\nbreak"}, r"api_key \(LEADPOST_API_KEY\): contains a space or"),
        ({"secret_key": "clé"}, r"secret_key \(LEADPOST_SECRET_KEY\): contains a space or"),
        ({"keys_in": "cookie"}, "found 'cookie', wanted 'query' or 'headers'"),
        (
            {"status_path": "status"},
            r"status_path \(LEADPOST_STATUS_PATH\): found 'status', wanted a path such as /a/b",
        ),
        ({"status_path": "/a\nb"}, r"found '/a\\nb', wanted a path such as /a/b"),
        ({"createcustom_path": "/" + "a" * 99_999}, "wanted a path such as /a/b"),
    ],
)
def test_each_mistake_names_the_setting_and_the_expected_value(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        account(**changes)
    assert not any(key in str(caught.value) for key in KEYS)
    assert "break" not in str(caught.value)
    assert "pass" not in str(caught.value).replace("password", "")


def test_from_env_reads_every_variable() -> None:
    made = Account.from_env(
        ENVIRONMENT
        | {
            "LEADPOST_KEYS_IN": "headers",
            "LEADPOST_SYNC_HOST": "api.example.com",
            "LEADPOST_SUBMIT_PATH": "/a",
            "LEADPOST_STATUS_PATH": "/b",
            "LEADPOST_METRICS_PATH": "/c",
            "LEADPOST_CREATECUSTOM_PATH": "/d",
            "LEADPOST_CREATECUSTOM_STATUS_PATH": "/e",
            "LEADPOST_CREATECUSTOM_METRICS_PATH": "/f",
            "LEADPOST_FAILURE_IS_FINAL": "TRUE",
            "LEADPOST_KEYS_FOR_STATUS": "true",
        }
    )
    assert (made.access_key, made.secret_key, made.api_key) == KEYS
    assert made.keys_in == "headers"
    assert made.sync_host == "https://api.example.com"
    assert (made.submit_path, made.status_path, made.metrics_path) == ("/a", "/b", "/c")
    assert (made.createcustom_path, made.createcustom_status_path) == ("/d", "/e")
    assert made.createcustom_metrics_path == "/f"
    assert made.failure_is_final is True
    assert made.keys_for_status is True


def test_from_env_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert Account.from_env() == account(host="", region="india")


@pytest.mark.parametrize(
    "missing", ["LEADPOST_REGION", "LEADPOST_ACCESS_KEY", "LEADPOST_SECRET_KEY", "LEADPOST_API_KEY"]
)
def test_from_env_names_the_variable_that_is_missing(missing: str) -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != missing}
    with pytest.raises(ConfigurationError, match=missing):
        Account.from_env(environment)


@pytest.mark.parametrize("name", ["LEADPOST_FAILURE_IS_FINAL", "LEADPOST_KEYS_FOR_STATUS"])
def test_from_env_raises_for_a_boolean_other_than_true_or_false(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}: wanted 'true' or"):
        Account.from_env(ENVIRONMENT | {name: "maybe"})


def test_repr_shows_no_key() -> None:
    assert repr(account()) == "<Account at http://127.0.0.1:9, keys in query>"


def test_each_path_is_on_the_host_it_belongs_to() -> None:
    made = account(host="", region="india", status_path="/a")
    assert made.url("status_path") == "https://asyncapi-in21.leadsquared.com/a"
    assert made.url("submit_path") == "https://asyncapi-in21.leadsquared.com/activity/create"
    assert made.url("/v2/a") == "https://api-in21.leadsquared.com/v2/a"
