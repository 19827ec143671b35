"""Values in LeadSquared's answers, whose shapes vary."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn, cast
from urllib.parse import urlsplit

from leadpost._responses import ApiResponse, error_of, get
from leadpost._validation import is_list, is_mapping
from leadpost.errors import Rejected, UnexpectedAnswer


def texts_in(value: object) -> Iterator[str]:
    """Yield every text of a JSON value except the names in objects."""
    left = [value]  # a stack instead of recursion, as an answer may be deeply nested
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif is_mapping(value):
            left += value.values()
        elif is_list(value):
            left += value


def moment(value: object) -> datetime | None:
    """Return a date-time of LeadSquared's (UTC without an offset); None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.replace(tzinfo=found.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def unexpected(response: ApiResponse, wanted: str) -> NoReturn:
    """Raise the error of a 2xx answer to a query without the data that was asked for."""
    if response.says_error:
        raise error_of(Rejected, response)
    raise error_of(UnexpectedAnswer, response, f"no {wanted} in the answer")


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object, or an empty one instead of anything else."""
    return value if is_mapping(value) else {}


def code_in(value: object) -> int | None:
    """Return an event code from a number or text; None for anything else."""
    if isinstance(value, int | str) and str(value).isdecimal():
        return int(str(value)[:18])
    return None


def text(value: object) -> str | None:
    """Return a text; None for empty text and for anything else."""
    return value if isinstance(value, str) and value else None


def host_in(value: object) -> str | None:
    """Return the host of a URL, or of a host name alone; None for anything else."""
    url = text(value)
    if url is None:
        return None
    try:
        return urlsplit(url if "://" in url else f"https://{url}").netloc.lower() or None
    except ValueError:
        return None


def number(response: ApiResponse, name: str) -> float:
    """Return the finite number of that name in an answer."""
    value = get(response.json, name)
    try:
        found = float(cast("float", value))
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        unexpected(response, name)
    return found


def names_mx(value: object) -> bool:
    """Whether a value names an `MX…` exception: LeadSquared never retries such a request."""
    return any(re.search(r"\bMX[A-Z]\w+Exception\b", found) for found in texts_in(value))
