"""One call of the API, as data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Literal, TypeVar, final

import httpx
from attrs import field, frozen

from leadpost._account import Account
from leadpost._responses import ApiResponse

T = TypeVar("T")


@final
@frozen
class Call(Generic[T]):
    """
    One call of the API.

    Attributes:
        name: The poster's method, for hooks.
        url: The URL, without keys.
        read: Turns the answer into the result, or raises.
        not_found_hint: For the error after a 404: the URL, and the settings that make it up.
        params: Parameters of the query string. Not in the repr: they may be personal data.
        content: The body, JSON; None for a GET. Not in the repr.
    """

    name: str
    url: httpx.URL
    read: Callable[[ApiResponse], T]
    not_found_hint: str
    params: Mapping[str, str] | None = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)

    @property
    def method(self) -> Literal["GET", "POST"]:
        return "GET" if self.content is None else "POST"


Choice = Callable[[], Awaitable[Call[T]]]
"""Returns the call of a post that is chosen once there is a token for it, or raises."""


def build(
    account: Account, name: str, path: str, read: Callable[[ApiResponse], T], **details: Any
) -> Call[T]:
    """Build a call of `path`: an attribute of the account, or a path of the synchronous API."""
    url = account.url(path)
    not_found_hint = f"no such path at {url}: see {account.settings_of(path)}"
    return Call(name, url, read, not_found_hint, **details)
