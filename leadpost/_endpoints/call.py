"""One call of the API, as data."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, Literal, TypeVar, final

from attrs import field, frozen

from leadpost._responses import ApiResponse

T = TypeVar("T")


@final
@frozen
class Call(Generic[T]):
    """
    One call of the API.

    Attributes:
        name: The poster's method, for hooks.
        path: As for `Account.url`.
        read: Turns an answer that is no error by its status into the result, or raises.
        params: Parameters of the query string. Not in the repr: they may be personal data.
        content: The body, JSON; None for a GET. Not in the repr.
    """

    name: str
    path: str
    read: Callable[[ApiResponse], T]
    params: Mapping[str, str] | None = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)

    @property
    def method(self) -> Literal["GET", "POST"]:
        return "GET" if self.content is None else "POST"


Choice = Callable[[], Awaitable[Call[T]]]
"""Returns the call of a post that is chosen once there is a token for it, or raises."""
