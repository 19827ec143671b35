"""JSON values one by one, from a file that need not fit into memory."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.json_file import as_written, values_of

FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda number: as_written(repr(number)) == number
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
REMEDY = "write an array of objects, or an object on each line"
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Drip(io.StringIO):
    """Text that comes a few characters at a time."""

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step

    def read(self, size: int | None = -1, /) -> str:
        del size
        return super().read(self.step)


@patient
@given(st.lists(values, max_size=5), st.sampled_from([None, 1]), st.integers(1, 9))
def test_an_array_is_read_the_same_however_it_is_cut(
    items: list[Any], indent: int | None, step: int
) -> None:
    text = json.dumps(items, indent=indent)
    assert [value for *_, value in values_of(Drip(text, step), "-")] == items


@patient
@given(st.lists(values, max_size=5), st.integers(1, 9))
def test_values_one_after_another_are_read_too(items: list[Any], step: int) -> None:
    items = [{}, *items]  # a list first would be the array
    text = "\n".join(map(json.dumps, items))
    assert [value for *_, value in values_of(Drip(text, step), "-")] == items


def test_an_array_is_read_no_further_than_it_is_needed() -> None:
    drawn = 0

    def chunks() -> Iterator[str]:
        nonlocal drawn
        yield "["
        while True:
            drawn += 1
            yield json.dumps({"a": 1}) + ","

    class Endless(io.StringIO):
        source = chunks()

        def read(self, size: int | None = -1, /) -> str:
            del size
            return next(self.source)

    found = values_of(Endless(), "-")
    for _ in range(100):
        next(found)
    assert drawn < 110


def test_many_values_with_nothing_between_are_read() -> None:
    item = json.dumps({"a": "b" * 90})
    found = values_of(io.StringIO(item * 90_000), "a.json")
    assert sum(value == {"a": "b" * 90} for *_, value in found) == 90_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1 2]", "line 1: wanted ',' or ']' after an item"),
        ("[1,\n}", f"line 2: not JSON: Expecting value; {REMEDY}"),
        ("[] 1", "line 1: wanted nothing after the array"),
        ("[", f"line 1: not JSON: Expecting value; {REMEDY}"),
    ],
)
def test_broken_json_is_named_by_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        list(values_of(io.StringIO(text), "a.json"))
    assert str(error.value) == f"a.json: {said}"


def test_an_error_early_in_a_long_file_does_not_need_all_of_it() -> None:
    file = io.StringIO('[{"a": oops}, ' + "1," * 4_000_000)
    with pytest.raises(InputError, match="line 1: not JSON"):
        list(values_of(file, "a.json"))
