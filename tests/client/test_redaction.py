"""Keys are removed from LeadSquared's texts, in every spelling."""

from __future__ import annotations

import asyncio
import html
import html.entities
import json
from collections.abc import Callable
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import KEYS, LeadSquared, account, activity, answers, run_virtual, virtual

from leadpost import ApplicationError, AsyncActivityPoster, BadRequest
from leadpost._responses import ApiResponse, raise_for_error, redactor

KEY = "u$r<\"&'/\\+=A0"
"""A key whose characters are spelled in other ways almost everywhere."""


def lower_percent(text: str) -> str:
    return "".join(f"%{ord(c):02x}" for c in text)


def upper_percent(text: str) -> str:
    return "".join(f"%{ord(c):02X}" for c in text)


NAMED = {text: f"&{name}" for name, text in html.entities.html5.items() if name.endswith(";")}

SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "percent-encoded": lambda text: quote(text, safe=""),
    "percent-encoded, partly": quote,
    "percent-encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "percent-encoded three times": lambda text: quote(quote(quote(text, safe=""), safe="")),
    "percent-encoded, lower-case digits": lower_percent,
    "percent-encoded, all": upper_percent,
    "HTML, named": lambda text: html.escape(text, quote=False),
    "HTML, quotes too": html.escape,
    "HTML, all named": lambda text: "".join(NAMED.get(c, c) for c in text),
    "HTML in HTML": lambda text: html.escape(html.escape(text)),
    "HTML in JSON": lambda text: html.escape(text).replace("&", "\\u0026"),
    "HTML, decimal": lambda text: "".join(f"&#{ord(c)};" for c in text),
    "HTML, decimal with zeros": lambda text: "".join(f"&#{ord(c):05};" for c in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(c):X};" for c in text),
    "HTML, hexadecimal with zeros": lambda text: "".join(f"&#X{ord(c):04x};" for c in text),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[3:-3],
    "JSON, with escaped slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON, all escaped": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "JSON, all escaped, upper case": lambda text: "".join(f"\\u{ord(c):04X}" for c in text),
    "JSON, all escaped, in JSON": lambda text: "".join(f"\\\\u{ord(c):04x}" for c in text),
    "repr": lambda text: repr(text)[1:-1],
    "repr of bytes": lambda text: repr(text.encode())[2:-1],
    "repr of bytes, all escaped": lambda text: "".join(f"\\x{ord(c):02x}" for c in text),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_a_key_is_removed_in_every_spelling(spell: Callable[[str], str]) -> None:
    for key in (KEY, f"{KEY}&", *KEYS):
        redact = redactor([key])
        assert redact(f"before {spell(key)} after") == "before *** after"
        assert redact(spell(key) * 2) == "******"


KEY_TEXTS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=4, max_size=24)


@given(KEY_TEXTS, st.data())
def test_a_key_is_removed_whatever_the_spelling_of_each_character(
    key: str, data: st.DataObject
) -> None:
    spelled = "".join(data.draw(st.sampled_from(list(SPELLINGS.values())))(c) for c in key)
    redacted = redactor([key])(f"* {spelled} *")
    # A key that begins with a backslash may leave some of those that escape it.
    assert redacted.replace("\\", "") == "* *** *"


@given(st.lists(KEY_TEXTS, min_size=1, max_size=3), st.text("123456789 ÄÖ\n"))
def test_a_text_without_keys_is_unchanged(keys: list[str], text: str) -> None:
    assert redactor([f"{key}#" for key in keys])(text) == text


def test_of_two_keys_the_longer_one_is_removed_first() -> None:
    assert redactor(["abcd", "abcdef"])("abcd abcdef") == "*** ***"


def test_a_text_too_short_for_a_key_stays() -> None:
    assert redactor(["abc", "5", ""])("abc 5") == "abc 5"


LONG = 2**17


@pytest.mark.timeout(60)  # a search whose time is not proportional to the length takes far longer
@pytest.mark.parametrize(
    "start",
    ["u$", "%", "%25", "%2525", "&#0", "&amp;", "\\", "\\u007", "u" * 39 + "v", "%75&#36;v"],
)
@pytest.mark.parametrize("repeated", ["all", "the last character"])
def test_a_long_text_is_searched_in_time_proportional_to_its_length(
    start: str, repeated: str
) -> None:
    text = start * (LONG // len(start)) if repeated == "all" else start + start[-1] * LONG
    assert redactor([KEY, "u" * 40, *KEYS])(text) == text


def message_of(text: str) -> str:
    response = ApiResponse(
        400, json.dumps({"ExceptionMessage": text}).encode(), redact=redactor(KEYS)
    )
    with pytest.raises(BadRequest) as caught:
        raise_for_error(response, changes=True)
    return caught.value.exception_message or ""


def test_a_long_message_is_shown_shortened_and_without_keys() -> None:
    assert message_of(f"{KEYS[0]} {'x' * LONG}") == f"*** {'x' * 496}"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("zeros", range(9))
def test_no_part_of_a_key_is_left_where_a_message_is_cut(key: str, zeros: int) -> None:
    spelled = "".join(f"&#{'0' * zeros}{ord(c)};" for c in key)
    for shift in range(0, len(spelled), 7):
        shown = message_of("." * shift + spelled * 400)
        assert shown.strip("*.") == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_an_error_has_no_keys_in_any_encoding_of_the_body(
    encoding: str, *, ensure_ascii: bool
) -> None:
    body = {"ExceptionType": f"MX{KEYS[1]}", "ExceptionMessage": f"Özdemir, {quote(KEYS[0])}"}
    leadsquared = LeadSquared(
        answers(
            httpx.Response(
                500, content=json.dumps(body, ensure_ascii=ensure_ascii).encode(encoding)
            )
        )
    )

    async def main() -> ApplicationError:
        poster = AsyncActivityPoster(account(), client=leadsquared.client())
        with pytest.raises(ApplicationError) as caught:
            await poster.post(activity())
        return caught.value

    error = run_virtual(main())
    assert str(error) == "HTTP 500: MX***: Özdemir, ***"
    assert (error.exception_type, error.exception_message) == ("MX***", "Özdemir, ***")


@virtual
async def test_an_id_that_quotes_a_key_is_returned_and_logged_without_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = {"Status": "Success", "RequestID": f"r-{KEYS[0]}", "Message": {"Id": quote(KEYS[1])}}
    task = {"TaskStatus": {"Status": "Success", "Message": {"Message": {"Id": f"a-{KEYS[2]}"}}}}
    leadsquared = LeadSquared(answers(*[httpx.Response(200, json=body | task)] * 4), there=1.0)
    poster = AsyncActivityPoster(account(), client=leadsquared.client())
    assert await poster.post(activity()) == "r-***"
    assert await poster.post_sync(activity()) == "***"
    status = await poster.status("r1")
    assert (status.request_id, status.activity_id) == ("r-***", "a-***")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await poster.post(activity())
    await poster.aclose()
    assert "RequestID r-***" in caplog.text
    assert not any(key in caplog.text for key in KEYS)
