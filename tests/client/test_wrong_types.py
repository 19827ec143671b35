"""Arguments of a wrong type, which raise at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support import account

from leadpost import AsyncActivityPoster, RetryPolicy, TokenBucket

ANY: Any = object()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AsyncActivityPoster(account(), hooks=["private"]),  # type: ignore[list-item]  # the mistake
            "hooks: found str, wanted plain functions of one argument",
        ),
        (lambda: TokenBucket(hooks=[ANY]), "hooks: found object, wanted plain functions"),
        (lambda: RetryPolicy(max_attempts=ANY), "'max_attempts' must be <class 'int'>"),
        (lambda: RetryPolicy(max_time=ANY), "'max_time' must be "),
    ],
)
def test_a_wrong_type_raises_when_it_is_passed(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value.args[0]).startswith(message)
    assert "private" not in repr(caught.value)
