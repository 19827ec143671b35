"""Arguments of a wrong type that an outbox refuses, by their name and without their value."""

from __future__ import annotations

from typing import Any

import pytest
from support import account, activity

from leadpost.outbox import Outbox

ANY: Any = object()


async def test_an_outbox_refuses_a_wrong_type_before_it_does_anything(store_url: str) -> None:
    no_poster: Any = account()
    async with Outbox(store_url) as outbox:
        for doing, message in (
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
            assert str(caught.value).startswith(message)
        assert not any((await outbox.counts()).values())
