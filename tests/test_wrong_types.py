"""What is passed for something else is told at once, by its name and without its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiolimiter
import httpx
import pytest
from support import Vendor, account, activity

from leadpost import AsyncActivityPoster, RetryPolicy, TokenBucket
from leadpost.outbox import Outbox, SharedTokenBucket

POSTER: Any = AsyncActivityPoster
BUCKET: Any = TokenBucket
SHARED: Any = SharedTokenBucket
URL = "sqlite:///leadpost.db"
ANY: Any = object()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: POSTER({"secret_key": "private"}), "account: found a value of type dict, wanted"),
        (
            lambda: POSTER(account(), client=httpx.Client()),
            "client: found a value of type Client, wanted httpx.AsyncClient",
        ),
        (
            lambda: POSTER(account(), client=httpx.AsyncClient),
            "client: found the class AsyncClient itself, wanted httpx.AsyncClient",
        ),
        (
            lambda: POSTER(account(), bucket=aiolimiter.AsyncLimiter(25, 5)),
            "bucket: found a value of type AsyncLimiter, wanted leadpost.Bucket",
        ),
        (lambda: POSTER(account(), bucket=TokenBucket), "bucket: found the class TokenBucket"),
        (
            lambda: POSTER(account(), retry=5),
            "retry: found a value of type int, wanted leadpost.RetryPolicy",
        ),
        (
            lambda: POSTER(account(), hooks=print),
            "hooks: found a value of type builtin_function_or_method, wanted collections.abc.Iter",
        ),
        (lambda: POSTER(account(), hooks=["private"]), "hooks: found str, wanted plain functions"),
        (lambda: BUCKET(hooks=ANY), "hooks: found a value of type object"),
        (lambda: BUCKET("25"), "limit: found a value of type str, wanted int"),
        (lambda: SHARED(URL, account(), limit=2.5), "limit: found a value of type float"),
        (lambda: SHARED(URL, None), "account: found a value of type NoneType, wanted leadpost.Ac"),
        (lambda: RetryPolicy(max_attempts=ANY), "'max_attempts' must be <class 'int'>"),
        (lambda: RetryPolicy(max_time=ANY), "'max_time' must be "),
    ],
)
def test_it_is_told_when_it_is_given(make: Callable[[], object], told: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value.args[0]).startswith(told)
    assert "private" not in repr(caught.value)


async def test_a_question_is_told_before_it_is_asked() -> None:
    vendor = Vendor()
    async with AsyncActivityPoster(account(), client=vendor.client()) as poster:
        asker: Any = poster
        for asking, told in (
            (asker.status(None), "request_id: found a value of type NoneType, wanted str"),
            (asker.wait(5), "request_id: found a value of type int, wanted str"),
            (asker.lead_activities(5, 201), "lead_id: found a value of type int, wanted str"),
            (asker.lead_activities("a", "201"), "code: found a value of type str, wanted int"),
        ):
            with pytest.raises(TypeError) as caught:
                await asking
            assert str(caught.value) == told
    assert not vendor.requests


async def test_an_outbox_tells_before_anything_is_put_or_done(store_url: str) -> None:
    no_poster: Any = account()
    async with Outbox(store_url) as outbox:
        for doing, told in (
            (outbox.put(activity(1), key=ANY), "key: found a value of type object, wanted str"),
            (outbox.put_many([activity(1)], keys=[ANY]), "key: found a value of type object"),
            (outbox.put(activity(1), priority=ANY), "priority: found a value of type object"),
            (outbox.put_many([activity(1)], priority=ANY), "priority: found a value of type"),
            (outbox.find("call-1"), "keys: found one str, wanted a sequence of them"),
            (outbox.find([ANY]), "keys: found a value of type object, wanted str"),
            (outbox.find(ANY), "keys: found a value of type object, wanted collections.abc.Sequ"),
            (outbox.drain(no_poster), "poster: found a value of type Account, wanted leadpost"),
            (outbox.run(no_poster), "poster: found a value of type Account"),
            (outbox.verify(no_poster), "poster: found a value of type Account"),
            (outbox.reconcile(no_poster), "poster: found a value of type Account"),
        ):
            with pytest.raises(TypeError) as caught:
                await doing
            assert str(caught.value).startswith(told)
        assert not any((await outbox.counts()).values())
